"""Sequences that go on from others, as beams do, have the state that they would have had alone."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from worker.domain.sequence import Beams, EarlyStopping, SamplingParameters, Sequence
from worker.sampling import history, rows
from worker.sampling.history import NGrams, TokenCounts
from worker.sampling.rows import inherit
from worker.sampling.sampler import process

VOCABULARY = 12
PARAMETERS = SamplingParameters(
    100,
    eos_token_ids=frozenset({1}),
    repetition_penalty=1.3,
    frequency_penalty=0.4,
    no_repeat_ngram_size=2,
    bad_words_ids=((3, 4),),
    suppress_tokens=frozenset({5}),
)


def successor(parent: Sequence, token: int) -> Sequence:
    return Sequence(parent.sequence_id, parent.prompt, PARAMETERS, output=[*parent.output, token])


def test_beams_that_inherit_are_processed_as_beams_that_do_not() -> None:
    rng = random.Random(0)
    beams = [Sequence(n, [2, 3, 2, 4], PARAMETERS) for n in range(4)]
    for _ in range(20):
        scores = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(rng.randrange(1000)))
        alone = [Sequence(each.sequence_id, each.prompt, PARAMETERS, output=list(each.output)) for each in beams]
        assert torch.equal(process(scores, beams), process(scores, alone))
        parents = [rng.choice(beams) for _ in beams]
        children = [successor(parent, rng.randrange(VOCABULARY)) for parent in parents]
        for child, parent in zip(children, parents, strict=True):
            inherit(child, parent)
        beams = children


def test_what_was_counted_for_a_parent_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = Sequence(0, [2, 3, 2, 4], PARAMETERS, output=[6])
    scores = torch.zeros(1, VOCABULARY)
    process(scores, [parent])
    child = successor(parent, 7)
    inherit(child, parent)
    counted: list[int] = []
    place = TokenCounts._place

    def recorded(self: TokenCounts, token: int) -> int:
        counted.append(token)
        return place(self, token)

    def unexpected(*_: object) -> None:
        raise AssertionError("built anew")

    monkeypatch.setattr(TokenCounts, "_place", recorded)
    monkeypatch.setattr(NGrams, "__init__", unexpected)
    process(scores, [child])
    assert counted == [7, 7], "once with the prompt, once without"


def entries(value: object, known: set[int]) -> int:
    """Returns how many entries the containers have that a value is made of, but for known ones, by their addresses."""
    if id(value) in known:
        return 0
    known.add(id(value))
    if isinstance(value, dict):
        return len(value) + sum(entries(each, known) for each in value.values())
    if isinstance(value, list | set | frozenset | tuple | np.ndarray | torch.Tensor):
        return len(value)
    return entries(vars(value), known) if hasattr(value, "__dict__") else 0


ROOM = 300
"""Entries that are allocated at once."""


@pytest.mark.parametrize("prompt_tokens", [10, 5000])
def test_a_beam_that_goes_on_from_another_copies_what_has_come_from_its_output_alone(prompt_tokens: int) -> None:
    rng = random.Random(0)
    prompt = [rng.randrange(10**6) for _ in range(prompt_tokens)]
    candidate = Sequence(0, prompt, PARAMETERS)
    search = Beams(2, 1.0, EarlyStopping.HEURISTIC, [candidate])
    beams = search.rows()
    scores = torch.zeros(2, 10**6)
    process(scores, beams)
    known: set[int] = set()
    entries(rows._kept[beams[0]], known)
    assert entries(rows._kept[beams[1]], known) < ROOM, "the prompt's tables are shared"
    for step in range(40):
        child = replace(beams[0], output=[*beams[0].output, step % 3])
        inherit(child, beams[0])
        known = set()
        entries(rows._kept[beams[0]], known)
        assert entries(rows._kept[child], known) < ROOM + 10 * step
        process(scores[:1], [child])
        beams[0] = child


def test_beams_of_one_search_read_their_prompt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    prompt_ngrams = history._prompt_ngrams

    def recorded(row: rows.Row) -> history.Followers:
        read.append(row.index)
        return prompt_ngrams(row)

    monkeypatch.setattr(history, "_prompt_ngrams", recorded)
    search = Beams(4, 1.0, EarlyStopping.HEURISTIC, [Sequence(0, [2, 3, 2, 4], PARAMETERS)])
    process(torch.zeros(4, VOCABULARY), search.rows())
    assert read == [0]
