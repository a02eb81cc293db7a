"""Every family of docs/models.md gets from the engine what `generate()` gives it; this suite would notice if not."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from tests.worker.families import FAMILIES, Family, tiny_model
from tests.worker.families_table import BEGIN_MARK, END_MARK, PAGE, table
from tests.worker.parity import (
    LARGE,
    SMALL,
    Alone,
    Events,
    Recorder,
    Scale,
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
class Scenario:
    """Requests that come at random, and memory in which much happens to them."""

    name: str
    scale: Scale
    count: int
    cancelled: range
    few: slice
    """Requests in which each planted mistake shows."""
    seed: int
    """Of the requests."""
    arrivals: int
    """Seed of their arrivals."""

    def requests(self) -> list[Sequence]:
        return mixed_sequences(self.count, self.seed, vocab_size=VOCAB_SIZE, scale=self.scale)


SHORT = Scenario("short", SMALL, 8, range(1, 8, 2), slice(1, 5), seed=15, arrivals=16)
LONG = Scenario("long", LARGE, 24, range(5, 24, 9), slice(8), seed=1, arrivals=1)


@dataclass(frozen=True)
class Subject:
    """A family, a tiny model of it, and what `generate()` makes of each request of a scenario."""

    family: Family
    scenario: Scenario
    model: Any
    alone: dict[int, Alone]


@dataclass(frozen=True)
class Run:
    """What the engine made of the requests."""

    engine: Engine
    sequences: list[Sequence]
    events: Events
    mismatches: list[str]


def scenarios() -> Iterator[Any]:
    """Every family in the short scenario, and in the long one under `make test-long`."""
    for scenario, marks in ((SHORT, ()), (LONG, pytest.mark.long)):
        for each in SERVED:
            yield pytest.param((each, scenario), id=f"{each.name}-{scenario.name}", marks=marks)


@pytest.fixture(scope="module", params=scenarios())
def subject(request: pytest.FixtureRequest) -> Subject:
    family, scenario = request.param
    model = tiny_model(family)
    return Subject(family, scenario, model, generate_each_alone(model, scenario.requests()))


def run(subject: Subject, sequences: list[Sequence]) -> Run:
    scenario, recorder = subject.scenario, Recorder()
    engine = engine_for(subject.model, recorder, scenario.scale)
    events = run_with_random_arrivals(engine, sequences, scenario.arrivals, scenario.cancelled)
    differing = mismatches(recorder, sequences, subject.alone)
    return Run(engine, sequences, events, differing)


def test_tokens_and_logits_equal_generate_alone(subject: Subject) -> None:
    made = run(subject, subject.scenario.requests())
    assert made.mismatches == []
    assert {s.status for s in made.sequences} >= {Status.CANCELLED, Status.FINISHED_LENGTH}
    events = made.events
    assert min(events.padded_groups, events.joins, events.departures, events.slides, events.reviews) > 0
    assert (events.chunked_groups > 0) is not made.engine.scheduler.limits.prefills_whole


def test_outputs_are_diverse(subject: Subject) -> None:
    tokens = Counter(token for alone in subject.alone.values() for token in alone.tokens)
    assert len(tokens) >= subject.scenario.count
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
            few = subject.scenario.requests()[subject.scenario.few]
            assert run(subject, few).mismatches != [], mistake.name


@pytest.mark.parametrize(("family", "name"), WINDOWED)
def test_prompts_reach_beyond_the_window(family: Family, name: str) -> None:
    wider = replace(family, settings=family.settings | {name: 128})
    with torch.inference_mode():
        longest = torch.tensor([max((sequence.prompt for sequence in LONG.requests()), key=len)])
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
