"""Turns a piece of work on the device into something that runs again without Python: a CUDA graph."""

import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Work = Callable[[], Tensor]
_WARM_UPS = 2
"""Runs before a capture: the first one compiles kernels and takes memory, the last one shows whether it waits."""
_REPEATS = 5


class Capture(Protocol):
    """Makes work repeatable."""

    def __call__(self, work: Work) -> Work:
        """Runs the work, and returns what does the same again, with the same tensors, whatever is in them by then."""
        ...


class CudaCapture:
    """Captures CUDA graphs that share their memory: one of them runs at a time, and its result is used at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @cached_property
    def _first(self) -> torch.cuda.CUDAGraph:
        """A graph that never runs: torch ends a pool with its last graph, and cannot capture into it again."""
        graph, _ = _captured(lambda: torch.zeros(1, device=self.device))
        return graph

    def __call__(self, work: Work) -> Work:
        """See Capture. Raises what the work or CUDA raises if it cannot be captured."""
        with torch.cuda.device(self.device):
            graph, result = _captured(work, self._first.pool())

        def replay() -> Tensor:
            with torch.cuda.device(self.device):
                graph.replay()
            return result

        return replay


def _captured(work: Callable[[], T], pool: Any = None) -> tuple[torch.cuda.CUDAGraph, T]:  # noqa: ANN401 - torch's handle
    """Captures a graph, and returns what the work returned then, too."""
    _warm_up(work)
    graph = torch.cuda.CUDAGraph()
    # Entering the present stream brings the thread back to it also where the end of the capture raises.
    with (
        torch.cuda.stream(torch.cuda.current_stream()),
        torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
    ):
        result = work()
    return graph, result


def _warm_up(work: Callable[[], object]) -> None:
    """Runs work on a stream of its own, as capturing asks for. Raises RuntimeError if it waits for the device.

    That must come to light before: a capture that breaks off leaves torch's allocator in a state in which the next
    cleaning up fails.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS - 1):
                work()
            with _waiting_refused():
                work()
    finally:
        # Also what broke off may still be writing what the next step reads.
        torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def _waiting_refused() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    try:
        _set_sync_debug_mode("error")
        yield
    finally:
        _set_sync_debug_mode(before)


def _set_sync_debug_mode(mode: int | str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it is a prototype, and where warnings are errors stays on
        torch.cuda.set_sync_debug_mode(mode)


def device_seconds(work: Callable[[], object]) -> float:
    """Returns the median time of work on the device, without what its launches take: it is captured, too."""
    graph, _ = _captured(work)
    graph.replay()
    return statistics.median(_replay_seconds(graph) for _ in range(_REPEATS))


def _replay_seconds(graph: torch.cuda.CUDAGraph) -> float:
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    graph.replay()
    ended.record()
    ended.synchronize()
    milliseconds: float = begun.elapsed_time(ended)
    return milliseconds / 1000
