"""What the driver and a peer say to each other: one JSON object a line, on the peer's standard input and output.

    driver: {"model": FOLDER, "scratch": FOLDER, "rows": 16, "threads": 2}
    peer:   {"ready": true}
    driver: {"requests": [{"prompt": [5, 17], "output_count": 3}, ...]}
    peer:   {"arrivals": [[0.02, 0.04, 0.06], ...], "seconds": 0.06}

and so on, until standard input ends. A peer that fails ends, with the reason on standard error. This module is imported
in every peer's own environment: it needs Python's library only.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol


@dataclass(frozen=True)
class Setup:
    """What a peer prepares for."""

    model: str
    """Folder of the 16-bit checkpoint and its tokenizer, in which "w17" is the word of token 17."""
    scratch: str
    """An empty folder of the peer's own, for the model in its own format."""
    rows: int
    """Most sequences that run at once."""
    threads: int
    """Compute threads."""


@dataclass(frozen=True)
class Request:
    """A prompt, and how many tokens are to follow it whatever they are: the end of a sequence is no reason to stop."""

    prompt: list[int]
    output_count: int


@dataclass(frozen=True)
class Served:
    """How the requests of one call were served."""

    arrivals: list[list[float]]
    """When each token of each request was there, in seconds since the call."""
    seconds: float
    """How long the call took."""


class Arrivals:
    """Notes when tokens are there."""

    def __init__(self, count: int) -> None:
        self._began = time.perf_counter()
        self.times: list[list[float]] = [[] for _ in range(count)]

    def add(self, request: int, at: float | None = None) -> None:
        """Notes one token of a request: now, or at a time that `time.perf_counter()` gave."""
        self.times[request].append((time.perf_counter() if at is None else at) - self._began)

    def close(self) -> Served:
        """Returns what was noted; the call ends here."""
        return Served(self.times, time.perf_counter() - self._began)


class Peer(Protocol):
    """A server that is ready."""

    def serve(self, requests: Sequence[Request], arrivals: Arrivals) -> None:
        """Serves all requests greedily, at most so many at once as were prepared for."""


def answer(prepare: Callable[[Setup], Peer]) -> None:
    """Prepares, then serves what the driver asks for until standard input ends.

    What libraries print goes to standard error.
    """
    # Left open: when the driver sees the end of it after an error, the reason has already been written.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = prepare(Setup(**json.loads(sys.stdin.readline())))
    print(json.dumps({"ready": True}), file=replies)
    for line in sys.stdin:
        requests = [Request(**each) for each in json.loads(line)["requests"]]
        arrivals = Arrivals(len(requests))
        peer.serve(requests, arrivals)
        print(json.dumps(asdict(arrivals.close())), file=replies)


def wrong_count(requests: Sequence[Request], served: Served) -> str:
    """Says which request did not get exactly the tokens that it wanted; empty if all did."""
    for number, (request, times) in enumerate(zip(requests, served.arrivals, strict=True)):
        if len(times) != request.output_count:
            return f"request {number} got {len(times)} tokens of {request.output_count}"
    return ""
