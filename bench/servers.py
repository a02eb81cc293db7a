"""The engine and static batching as servers of an open loop."""

from collections import deque
from dataclasses import dataclass, field

from bench.open_loop import Emit
from bench.peer.protocol import Request
from bench.static_batching import generate_batch
from bench.workload import submit
from worker.engine.engine import Engine
from worker.loading.loading import LoadedModel


@dataclass(frozen=True)
class EngineServer:
    """Continuous batching: looks for new requests before each step."""

    engine: Engine

    @property
    def has_work(self) -> bool:
        return self.engine.scheduler.has_work

    def submit(self, number: int, request: Request) -> None:
        """Queues a request."""
        submit(self.engine, number, request)

    def work(self, emit: Emit) -> None:
        """Runs one step."""
        emit([output.sequence.sequence_id for output in self.engine.step().outputs if output.tokens])


@dataclass(frozen=True)
class StaticServer:
    """Static batching with `generate()`: takes what has arrived, up to `rows`, and looks again when that has ended.

    It streams: a token counts when it is made, and a request's last one ends it, though its batch goes on.
    """

    loaded: LoadedModel
    rows: int
    waiting: deque[tuple[int, Request]] = field(default_factory=deque)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting)

    def submit(self, number: int, request: Request) -> None:
        """Queues a request."""
        self.waiting.append((number, request))

    def work(self, emit: Emit) -> None:
        """Runs one batch to the end of its longest output."""
        batch = [self.waiting.popleft() for _ in range(min(self.rows, len(self.waiting)))]

        def on_step(step: int) -> None:
            emit([number for number, request in batch if step < request.output_count])

        generate_batch(self.loaded, [request for _, request in batch], on_step)
