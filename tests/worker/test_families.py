"""Every family of docs/models.md gets from the engine what `generate()` gives it; this suite would notice if not."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from tests.worker.families import FAMILIES, Family, tiny_model
from tests.worker.families_table import BEGIN_MARK, END_MARK, PAGE, table
from tests.worker.parity import (
    Alone,
    Events,
    Recorder,
    engine_for,
    generate_each_alone,
    mismatches,
    mixed_sequences,
    run_with_random_arrivals,
)
from tests.worker.planted_mistakes import NO_MASK_IN_PREFILL, POSITIONS_OFF, STALE_STATES, Mistake
from tests.worker.tiny_models import VOCAB_SIZE
from worker.domain.refusal import UnsupportedModelError
from worker.domain.sequence import Sequence, Status
from worker.engine.engine import Engine
from worker.loading.probe import layer_layouts

SEED = 1
REQUESTS = 24
FEW_REQUESTS = 8
CANCELLED = range(5, REQUESTS, 9)
MOST_REFUSED = 3
SERVED = [family for family in FAMILIES if family.is_served]
REFUSED = [family for family in FAMILIES if not family.is_served]
WINDOW_SETTINGS = ("sliding_window", "attention_chunk_size", "window_size")
WINDOWED = [
    pytest.param(family, name, id=family.name)
    for family in SERVED
    for name in WINDOW_SETTINGS
    if name in family.settings
]


@dataclass(frozen=True)
class Subject:
    """A family, a tiny model of it, and what `generate()` makes of each request."""

    family: Family
    model: Any
    alone: dict[int, Alone]


@dataclass(frozen=True)
class Run:
    """What the engine made of the requests."""

    engine: Engine
    sequences: list[Sequence]
    events: Events
    mismatches: list[str]


@pytest.fixture(scope="module", params=SERVED, ids=lambda family: family.name)
def subject(request: pytest.FixtureRequest) -> Subject:
    model = tiny_model(request.param)
    return Subject(request.param, model, generate_each_alone(model, requests(REQUESTS)))


def requests(count: int) -> list[Sequence]:
    return mixed_sequences(count, SEED, vocab_size=VOCAB_SIZE)


def run(subject: Subject, count: int) -> Run:
    recorder = Recorder()
    sequences = requests(count)
    engine = engine_for(subject.model, recorder)
    events = run_with_random_arrivals(engine, sequences, SEED, CANCELLED)
    differing = mismatches(recorder, sequences, subject.alone)
    return Run(engine, sequences, events, differing)


def test_tokens_and_logits_equal_generate_alone(subject: Subject) -> None:
    made = run(subject, REQUESTS)
    assert made.mismatches == []
    assert {s.status for s in made.sequences} >= {Status.CANCELLED, Status.FINISHED_LENGTH}
    events = made.events
    assert min(events.padded_groups, events.joins, events.departures, events.slides, events.reviews) > 0
    assert (events.chunked_groups > 0) is not made.engine.scheduler.limits.prefills_whole


def test_outputs_are_diverse(subject: Subject) -> None:
    tokens = Counter(token for alone in subject.alone.values() for token in alone.tokens)
    assert len(tokens) >= REQUESTS
    assert tokens.most_common(1)[0][1] <= tokens.total() / 3


def mistakes(subject: Subject) -> list[Mistake]:
    """Returns what would go wrong in this family: not each knows positions, or has a state."""
    counts_positions = subject.family.positions not in {"ALiBi", "none"}
    has_states = any(layout.states for layout in layer_layouts(subject.model))
    return [NO_MASK_IN_PREFILL, *[POSITIONS_OFF] * counts_positions, *[STALE_STATES] * has_states]


def test_planted_mistakes_are_noticed(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    for mistake in mistakes(subject):
        with monkeypatch.context() as planting:
            planting.setattr(mistake.owner, mistake.attribute, mistake.replacement)
            assert run(subject, FEW_REQUESTS).mismatches != [], mistake.name


@pytest.mark.parametrize(("family", "name"), WINDOWED)
def test_prompts_reach_beyond_the_window(family: Family, name: str) -> None:
    wider = replace(family, settings=family.settings | {name: 128})
    with torch.inference_mode():
        longest = torch.tensor([max((sequence.prompt for sequence in requests(REQUESTS)), key=len)])
        narrow, wide = (tiny_model(each)(longest).logits[:, -1] for each in (family, wider))
    assert (narrow - wide).abs().max() > 0.01


@pytest.mark.parametrize("family", REFUSED, ids=lambda family: family.name)
def test_a_family_that_would_be_served_wrong_is_refused_with_a_sentence(family: Family) -> None:
    model = tiny_model(family)
    with pytest.raises(UnsupportedModelError, match=type(model).__name__):
        layer_layouts(model)


def test_few_families_are_refused() -> None:
    assert len(REFUSED) <= MOST_REFUSED


def test_the_table_in_the_docs_is_what_the_list_gives() -> None:
    page = PAGE.read_text(encoding="utf-8")
    written = page.split(BEGIN_MARK)[1].split(END_MARK)[0]
    assert written.strip() == table(), "run `python -m tests.worker.families_table --write`"
