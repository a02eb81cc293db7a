"""A peer as the driver sees it: a process that is stopped whenever it is not its turn, so that only one computes."""

import json
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.peer.protocol import Request, Served, Setup, wrong_count

ROOT = Path(__file__).parents[2]


class PeerFailedError(Exception):
    """A peer did not do what was asked; the message says why."""


class PeerProcess:
    """A running peer, stopped between two calls."""

    def __init__(self, command: Sequence[str], setup: Setup) -> None:
        """Starts a process that `prepare` waits for. Raises PeerFailedError if there is no such program."""
        self._setup = setup
        self._log = Path(setup.scratch) / "log"
        pipe = subprocess.PIPE
        with self._log.open("w") as log:
            try:
                # A group of its own is stopped with all that it has started.
                self._popen = subprocess.Popen(
                    command, cwd=ROOT, env=_environment(setup), stdin=pipe, stdout=pipe, stderr=log, process_group=0
                )
            except FileNotFoundError as error:
                raise PeerFailedError(f"there is no {error.filename}") from error

    def prepare(self, *, limit_s: float = 900) -> None:
        """Waits until the peer is ready. Raises PeerFailedError if it does not get there."""
        self._call(asdict(self._setup), limit_s)

    def serve(self, requests: Sequence[Request], *, limit_s: float = 300) -> Served:
        """Lets the peer serve requests.

        Raises PeerFailedError if it fails, takes longer than the limit, or does not make exactly the tokens asked for.
        """
        served = Served(**self._call({"requests": [asdict(request) for request in requests]}, limit_s))
        if wrong := wrong_count(requests, served):
            self._signal(signal.SIGKILL)
            raise PeerFailedError(wrong)
        return served

    @property
    def pid(self) -> int:
        """Returns the process's id, which is its group's, too."""
        return self._popen.pid

    def __enter__(self) -> "PeerProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._signal(signal.SIGKILL)
        self._popen.communicate()

    def _call(self, message: dict[str, Any], limit_s: float) -> Any:  # noqa: ANN401 - JSON
        try:
            return self._exchange(message, limit_s)
        except PeerFailedError:
            self._signal(signal.SIGKILL)  # it is not asked again, and must not compute beside the others
            raise

    def _exchange(self, message: dict[str, Any], limit_s: float) -> Any:  # noqa: ANN401 - as above
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._signal(signal.SIGCONT)
        try:
            self._popen.stdin.write(json.dumps(message).encode() + b"\n")
            self._popen.stdin.flush()
        except BrokenPipeError as error:
            raise PeerFailedError(self._reason()) from error
        if not select.select([self._popen.stdout], [], [], limit_s)[0]:
            raise PeerFailedError(f"no answer within {limit_s:g} s")
        line = self._popen.stdout.readline()
        if not line:
            raise PeerFailedError(self._reason())
        self._signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return json.loads(line)

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)  # the process is not waited for before the end, so this is never another group

    def _reason(self) -> str:
        """Returns the last line that it wrote to standard error: of a traceback, the error."""
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it ended without a word")


def _environment(setup: Setup) -> dict[str, str]:
    threads = str(setup.threads)
    path = os.pathsep.join([str(ROOT), str(ROOT / "protos")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
