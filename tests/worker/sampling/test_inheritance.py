"""Sequences that go on from others, as beams do, have the state that they would have had alone."""

import random

import pytest
import torch

from worker.domain.sequence import SamplingParameters, Sequence
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
