"""The worker as a process: what it prints, when it ends, and with which exit code."""

import os
import queue
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import grpc
import pytest
from transformers import GenerationConfig, OpenAIGPTConfig, OpenAIGPTLMHeadModel

from tests.worker.serving import submission
from tests.worker.tiny_models import VOCAB_SIZE, save_tiny_llama, tiny_tokenizer
from textserve.internal.v1 import worker_pb2 as pb
from textserve.internal.v1 import worker_pb2_grpc
from worker.cli import EX_CONFIG, main

ROOT = Path(__file__).parents[2]
# A sequence of this length takes a second or more: the worker is told to stop in the middle of it.
LONG = 400


@dataclass
class Process:
    """A worker that has said that it is ready."""

    popen: subprocess.Popen[str]
    ready: dict[str, str]

    @property
    def stdin(self) -> IO[str]:
        assert self.popen.stdin is not None
        return self.popen.stdin

    def end(self) -> tuple[int, str]:
        """Waits for the end; returns the exit code, and what was printed after the ready line."""
        code = self.popen.wait()
        assert self.popen.stdout is not None
        return code, self.popen.stdout.read()


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "worker", "--threads", "1", "--memory-gib", "0.05", "--max-rows", "4", *flags]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "protos")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@contextmanager
def started(*flags: str) -> Iterator[Process]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command(*flags), cwd=ROOT, env=environment(), stdin=pipe, stdout=pipe, text=True) as popen:
        try:
            assert popen.stdout is not None
            line = popen.stdout.readline()
            assert line.startswith("textserve-worker ready "), line
            yield Process(popen, dict(pair.split("=", 1) for pair in line.split()[2:]))
        finally:
            popen.kill()


def ended(*flags: str) -> subprocess.CompletedProcess[str]:
    """Runs a worker that is expected to end by itself."""
    return subprocess.run(command(*flags), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a long context that never ends a sequence by itself."""
    folder = save_tiny_llama(tmp_path_factory.mktemp("process") / "tiny-llama", max_position_embeddings=4096)
    GenerationConfig(eos_token_id=VOCAB_SIZE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def on_tcp(model: Path) -> Iterator[Process]:
    with started("--model", str(model), "--listen", "127.0.0.1:0") as process:
        yield process


@dataclass
class Run:
    """A Run stream with one sequence."""

    target: str
    tokens: int = 0
    is_told_to_drain: bool = False
    reason: int = pb.SEQUENCE_FINISH_REASON_UNSPECIFIED
    requests: queue.SimpleQueue[pb.RunRequest | None] = field(default_factory=queue.SimpleQueue)

    def __enter__(self) -> "Run":
        self.channel = grpc.insecure_channel(self.target)
        self.stub: Any = worker_pb2_grpc.WorkerServiceStub(self.channel)
        self.answers = self.stub.Run(iter(self.requests.get, None))
        return self

    def __exit__(self, *_: object) -> None:
        self.requests.put(None)
        self.channel.close()

    def submit(self, max_new_tokens: int) -> None:
        self.requests.put(submission(1, [5, 6], max_new_tokens))

    def read(self, most_tokens: float = float("inf")) -> None:
        """Reads to the end of the stream, or until there are as many tokens."""
        for message in self.answers:
            self.tokens += len(message.step.token_ids)
            self.is_told_to_drain |= message.HasField("draining")
            for finish in message.step.finishes:
                self.reason = finish.reason
            if self.tokens >= most_tokens:
                return


def test_the_ready_line_tells_address_model_and_incarnation(on_tcp: Process) -> None:
    assert set(on_tcp.ready) == {"address", "model", "incarnation"}
    with Run(on_tcp.ready["address"]) as run:
        described = run.stub.Describe(pb.DescribeRequest())
    assert on_tcp.ready["model"] == described.model == "tiny-llama"
    assert on_tcp.ready["incarnation"] == described.incarnation_id
    assert described.max_rows == 4


def test_an_address_in_use_ends_the_process_with_a_line_that_names_it(on_tcp: Process, model: Path) -> None:
    address = on_tcp.ready["address"]
    result = ended("--model", str(model), "--listen", address)
    assert result.returncode == 1
    assert result.stdout == ""
    assert f"textserve-worker: cannot listen on {address}" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("kind", ["port", "path"])
def test_an_address_in_use_is_found_before_the_model_is_looked_at(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX if kind == "path" else socket.AF_INET) as taken:
        taken.bind(str(tmp_path / "worker.sock") if kind == "path" else ("127.0.0.1", 0))
        taken.listen()
        name = taken.getsockname()
        address = f"unix:{name}" if kind == "path" else "{}:{}".format(*name)
        assert main(["--model", str(tmp_path / "nowhere"), "--listen", address]) == 1
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == f"textserve-worker: cannot listen on {address}: Address already in use"
    )


def test_sigterm_drains_what_runs_to_its_end_and_the_process_ends_with_0(on_tcp: Process) -> None:
    with Run(on_tcp.ready["address"]) as run:
        run.submit(LONG)
        run.read(most_tokens=1)
        on_tcp.popen.send_signal(signal.SIGTERM)
        run.read()
    assert run.is_told_to_drain
    assert (run.tokens, run.reason) == (LONG, pb.SEQUENCE_FINISH_REASON_LENGTH)
    assert on_tcp.end() == (0, ""), "nothing is printed after the ready line"


def test_the_end_of_stdin_ends_the_process_at_once_in_the_middle_of_a_sequence(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "worker.sock"
    with started("--model", str(model), "--listen", f"unix:{path}", "--exit-with-stdin") as process:
        assert process.ready["address"] == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with Run(f"unix:{path}") as run:
            run.submit(4000)
            run.read(most_tokens=1)
            process.stdin.close()
            with pytest.raises(grpc.RpcError):
                run.read()
        assert process.end() == (1, "")
        assert run.tokens < 4000


def test_bad_flags_end_the_process_with_78_before_anything_is_loaded() -> None:
    result = ended("--max-rows", "0")
    assert (result.returncode, result.stdout) == (EX_CONFIG, "")
    assert result.stderr == "textserve-worker: --max-rows must be from 1 to 4,096, not 0\n"


def refusal(flags: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs the command in this process; it must end with 78 and one line, which is returned without its prefix."""
    assert main(flags) == EX_CONFIG
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.splitlines()[-1]
    prefix = "textserve-worker: cannot serve "
    assert line.startswith(prefix)
    assert captured.err.count("textserve-worker:") == 1
    return line.removeprefix(prefix)


def test_a_missing_folder_is_named_as_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "nowhere"
    assert refusal(["--model", str(missing)], capsys) == f"{missing}: there is no such folder"


def test_a_model_that_cannot_be_served_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = OpenAIGPTConfig(vocab_size=VOCAB_SIZE, n_embd=64, n_layer=1, n_head=2)
    OpenAIGPTLMHeadModel(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert "OpenAIGPTLMHeadModel" in refusal(["--model", str(tmp_path), "--quantization", "none"], capsys)


def test_a_reason_of_many_lines_becomes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_llama(tmp_path, num_hidden_layers=1)
    (tmp_path / "tokenizer.json").unlink()
    assert "tokenizer" in refusal(["--model", str(tmp_path)], capsys)


def test_too_little_memory_is_refused_with_the_flag_that_helps(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--memory-gib" in refusal(["--model", str(model), "--memory-gib", "0.00001"], capsys)
