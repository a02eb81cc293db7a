"""The `textserve` command as a process: signals, pipes and encodings."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import grpc
import pytest

from tests.client.processes import environment
from tests.client.scripted_server import (
    FINISHED,
    STARTED,
    Event,
    Request,
    Response,
    ScriptedServer,
    answering,
    delta,
    hanging,
)
from textserve.v1 import generation_pb2


@pytest.fixture(autouse=True)
def address(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTSERVE_ADDRESS", server.address)


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the command in a process of its own."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **variables: str) -> "subprocess.Popen[str]":
        # Python itself ignores the interrupt if its parent does.
        code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        code += "from client.cli.main import main; sys.exit(main())"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def gated(server: ScriptedServer) -> threading.Event:
    """Lets the server tell one delta, and the rest when the event is set."""
    gate = threading.Event()

    def script(request: Request, context: grpc.ServicerContext) -> Iterator[Event]:
        yield from (STARTED, delta("first"))
        assert gate.wait()
        yield from (delta(" second"), FINISHED)

    server.script = script
    return gate


def test_python_can_run_the_package() -> None:
    command = [sys.executable, "-m", "client", "generate", "hi"]
    assert subprocess.run(command, env=environment(), check=True, capture_output=True).stdout == b", green\n"


def test_a_stream_prints_each_delta_as_it_comes(server: ScriptedServer, start: Start) -> None:
    gate = gated(server)
    process = start("generate", "hi", "--stream")
    assert process.stdout is not None
    assert process.stdout.read(5) == "first"
    gate.set()
    assert process.stdout.read() == " second\n"
    assert process.wait() == 0


def test_an_interrupt_cancels_the_call_and_ends_with_130(server: ScriptedServer, start: Start) -> None:
    left = threading.Event()
    server.script = hanging(left, STARTED, delta("first"))
    process = start("generate", "hi", "--stream")
    assert process.stdout is not None
    assert process.stdout.read(5) == "first"
    process.send_signal(signal.SIGINT)
    assert left.wait()
    assert process.communicate() == ("\n", "")
    assert process.returncode == 130


def test_a_reader_that_leaves_ends_the_command_quietly(server: ScriptedServer, start: Start) -> None:
    gate = gated(server)
    process = start("generate", "hi", "--stream")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(5) == "first"
    process.stdout.close()
    gate.set()
    assert process.stderr.read() == ""
    assert process.wait() == 141


def test_a_terminal_that_lacks_a_character_shows_its_number(server: ScriptedServer, start: Start) -> None:
    server.answer = answering(Response(candidates=[generation_pb2.Candidate(text="né 日")]))
    process = start("generate", "hi", PYTHONIOENCODING="ascii")
    out, error = process.communicate()
    assert (process.returncode, out, error) == (0, "n\\xe9 \\u65e5\n", "")
