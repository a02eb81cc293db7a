"""What the engine waits for on GPUs, which work while it goes on: a stand-in for torch.cuda records it."""

import pytest
import torch

from tests.worker.fake_model import LIMITS, FakeModel, fake_engine, root, sequence
from worker.engine.engine import Engine, Memory
from worker.memory.layout import Layout, RecurrentShape, StateShape, TokenShape

CPU, FIRST, SECOND = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)


def layout(device: torch.device) -> Layout:
    return Layout(TokenShape(1, 1, 1, 1, dtype=torch.float32, device=device))


class Gpus:
    """A clock that shows a second more after each wait for a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.awaited: list[torch.device] = []
        monkeypatch.setattr(torch.cuda, "synchronize", self.awaited.append)

    def clock(self) -> float:
        return float(len(self.awaited))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    return Gpus(monkeypatch)


@pytest.fixture
def engine(gpus: Gpus) -> Engine:
    """An engine that believes to be on the second GPU."""
    made = fake_engine(FakeModel())
    made._gpus, made.clock = {SECOND}, gpus.clock
    return made


def test_the_gpus_are_those_of_inputs_and_of_layers() -> None:
    state = StateShape((1,), dtype=torch.float32, device=SECOND)
    recurrent = Layout(states=(RecurrentShape(None, state),))
    assert Memory([layout(CPU), recurrent, Layout()], FIRST, 0).gpus == {FIRST, SECOND}
    assert Memory([layout(CPU)], CPU, 0).gpus == set()


def test_a_step_that_samples_nobody_is_timed_to_its_end(engine: Engine, gpus: Gpus) -> None:
    columns = LIMITS.idle_chunk_tokens
    engine.scheduler.submit(root(sequence(0, [5] * (columns + 1), 3)))
    engine.step()
    assert gpus.awaited == [SECOND]
    assert engine.scheduler.chunk_budget.cost.token_s == 1 / columns


def test_a_step_that_samples_somebody_waits_for_nothing_but_tokens(engine: Engine, gpus: Gpus) -> None:
    engine.scheduler.submit(root(sequence(0, [5], 3)))
    for _ in range(3):
        engine.step()
    assert gpus.awaited == []


def test_errors_on_their_way_are_awaited_where_the_model_is(engine: Engine, gpus: Gpus) -> None:
    engine.try_again(engine.plan())
    assert gpus.awaited == [SECOND]
