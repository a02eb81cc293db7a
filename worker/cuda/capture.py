"""Turns a piece of work on the device into something that runs again without Python: a CUDA graph."""

import statistics
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Work = Callable[[], Tensor]
_WARM_UPS = 2
"""Runs before a capture: the first ones compile kernels and take memory."""
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
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        """See Capture. Raises what the work or CUDA raises if it cannot be captured."""
        with torch.cuda.device(self.device):
            _warm_up(work)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                result = work()

        def replay() -> Tensor:
            with torch.cuda.device(self.device):
                graph.replay()
            return result

        return replay


def _warm_up(work: Callable[[], object]) -> None:
    """Runs work on a stream of its own, as capturing asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(stream)


def device_seconds(work: Callable[[], object]) -> float:
    """Returns the median time of work on the device, without what its launches take: it is captured, too."""
    _warm_up(work)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
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
