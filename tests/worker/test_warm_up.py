"""What the engine runs before anybody waits for it."""

import math
from typing import Any

import pytest

from tests.worker.fake_model import VOCAB_SIZE, FakeModel, expected, fake_engine, root, sequence
from worker.domain.sequence import Root
from worker.engine.engine import Engine
from worker.memory.batch import Batch
from worker.runners.runner import Logits, Prefill
from worker.scheduling.scheduler import Limits
from worker.warm_up import warm_up


class Steps:
    """What a runner was asked for."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: set[int] = set()
        self.columns: set[int] = set()
        self._step = engine.runner.step
        monkeypatch.setattr(engine.runner, "step", self._recorded)
        monkeypatch.setattr(engine.runner, "first_steps", lambda most: [1, 2, 3, 5, most])

    def _recorded(self, batch: Batch, tokens: list[int], prefill: Prefill | None) -> Logits:
        self.rows.add(len(tokens))
        self.columns.add(prefill.chunk.end - prefill.chunk.begin if prefill else 0)
        return self._step(batch, tokens, prefill)


def test_an_idle_engine_is_left_that_still_counts_right() -> None:
    engine = fake_engine(FakeModel())
    warm_up(engine, VOCAB_SIZE)
    assert not engine.scheduler.has_work
    after = sequence(0, [5, 6, 7], 10)
    engine.scheduler.submit(root(after))
    while engine.scheduler.has_work:
        engine.step()
    assert after.output == expected([5, 6, 7], 10)


@pytest.mark.parametrize(("context", "most_rows"), [(8, 12), (32, 200), (64, 32), (256, 32), (512, 64)])
def test_every_number_of_rows_with_a_first_step_of_its_own_is_met(
    context: int, most_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(most_rows, context, pool_tokens=2 * most_rows * context, group_tokens=context)
    engine = fake_engine(limits=limits)
    steps = Steps(engine, monkeypatch)
    warm_up(engine, VOCAB_SIZE)
    assert steps.rows >= {1, 2, 3, 5, most_rows}


def test_the_largest_chunk_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(4, 600, pool_tokens=4 * 600, group_tokens=600, chunk_tokens=16, idle_chunk_tokens=64)
    engine = fake_engine(limits=limits)
    steps = Steps(engine, monkeypatch)
    warm_up(engine, VOCAB_SIZE)
    assert max(steps.columns) == 64


def test_a_vocabulary_of_a_few_ids_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake_engine()
    ids: set[int] = set()
    submit = engine.scheduler.submit

    def recorded(root: Root) -> None:
        ids.update(root.tokens)
        submit(root)

    monkeypatch.setattr(engine.scheduler, "submit", recorded)
    warm_up(engine, 3)
    assert ids == {0, 1, 2}


class Damaged(FakeModel):
    """Computes NaN."""

    def __call__(self, **inputs: Any) -> Any:
        output = super().__call__(**inputs)
        output.logits.fill_(math.nan)
        return output


def test_a_model_that_computes_what_is_not_finite_is_refused() -> None:
    engine = fake_engine(Damaged())
    with pytest.raises(ValueError, match="logits are not finite"):
        warm_up(engine, VOCAB_SIZE)
