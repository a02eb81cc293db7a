"""What stands for CUDA graphs where there is no GPU: a step traced once into a list of tensor operations.

Like a graph, the list keeps the tensors it was traced with, runs no Python of the model again, and cannot be made of a
step that looks at a value on its way: tracing such a step raises.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from worker.engine.engine import Engine
from worker.memory.batch import Batch
from worker.memory.storage import Storage
from worker.runners.cuda.capture.capture import Work
from worker.runners.cuda.capture.graph_step import GraphStep
from worker.runners.cuda.kernels.reference import ReferenceOps
from worker.runners.cuda.llama.forward import Forward, pools
from worker.runners.cuda.runner import CudaRunner
from worker.runners.model_runner import ModelRunner

_READING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default, torch.ops.aten.is_nonzero.default}
"""Operations that bring a value to the host."""


@dataclass(frozen=True)
class _Result:
    """Stands for a tensor that an earlier operation of the list returned."""

    place: int


@dataclass(frozen=True)
class _Call:
    operation: Any
    given: Any
    """Arguments, with results in the place of what was computed before."""
    places: list[int]
    """Where its own results go."""


class _Recording(TorchDispatchMode):
    """Writes down the operations that are run under it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[_Call] = []
        self.results: list[Tensor] = []
        self.places: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READING:
            raise RuntimeError("a step that is captured must not look at values")
        given = (args, kwargs or {})
        out = func(*given[0], **given[1])
        replaced = tree_map_only(Tensor, self.known, given)
        self.calls.append(_Call(func, replaced, [self._keep(tensor) for tensor in tree_leaves(out)]))
        return out

    def known(self, tensor: Tensor) -> Tensor | _Result:
        """Returns what stands for a tensor: itself if it was there before the work began."""
        place = self.places.get(id(tensor))
        return tensor if place is None else _Result(place)

    def _keep(self, tensor: Tensor) -> int:
        # Kept, so that no other tensor gets its id.
        self.results.append(tensor)
        return self.places.setdefault(id(tensor), len(self.results) - 1)


class TraceCapture:
    """Implements Capture."""

    def __init__(self) -> None:
        self.captures = 0

    def __call__(self, work: Work) -> Work:
        self.captures += 1
        with _Recording() as recording:
            outcome = recording.known(work())
        calls, count = recording.calls, len(recording.results)
        assert isinstance(outcome, _Result)
        return partial(_run, calls, count, outcome)


def _run(calls: list[_Call], count: int, outcome: _Result) -> Tensor:
    results: list[Any] = [None] * count
    for call in calls:
        args, kwargs = tree_map_only(_Result, lambda result: results[result.place], call.given)
        for place, tensor in zip(call.places, tree_leaves(call.operation(*args, **kwargs)), strict=True):
            results[place] = tensor
    found: Tensor = results[outcome.place]
    return found


class Counting:
    """A graph step that counts the steps that it took and those that it left to transformers."""

    def __init__(self, graphs: GraphStep) -> None:
        self.graphs = graphs
        self.taken = self.declined = 0

    def __call__(self, batch: Batch, tokens: list[int]) -> Tensor | None:
        logits = self.graphs(batch, tokens)
        self.taken += logits is not None
        self.declined += logits is None
        return logits

    def release(self) -> bool:
        return self.graphs.release()


def graph_step(model: Any, make: Any, capture: Any = None) -> GraphStep:
    """Returns a step over plain torch operations; `make` is a class of forward passes."""

    def make_forward(storage: Storage) -> Forward:
        forward: Forward = make(model, pools(storage), ReferenceOps())
        return forward

    return GraphStep(model, make_forward, capture or TraceCapture())


def count_steps(engine: Engine, model: Any, graphs: GraphStep) -> Counting:
    """Makes an engine decode with the graphs. Returns what counts its steps."""
    counting = Counting(graphs)
    engine.runner = CudaRunner(ModelRunner.for_model(model, torch.device("cpu")), counting)
    return counting
