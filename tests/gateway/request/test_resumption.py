"""A caller that lost its stream goes on behind the tokens that it holds, as if nothing had been."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.errors import Violation
from gateway.domain.generation_config import EffectiveConfig, GenerationConfig
from gateway.domain.request import OutputOptions, ResumedCandidate
from gateway.domain.sequence import ReportedToken, Sequence, Status, TokenLogprob
from gateway.request.preprocess import remaining_output, resume
from gateway.request.validation import fit_violations, held_count, resumption_violations
from tests.fakes import EOS, ids
from tests.gateway.generations import FACTS
from tests.gateway.sequences import sequence

ALL = OutputOptions(token_ids=True, logprobs=True)
SEEDED = GenerationConfig(seed=1)
STOP_TOKEN = ids("#")[0]


@dataclass
class Told:
    """What a caller has been told of one candidate."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[ReportedToken] = field(default_factory=list[ReportedToken])

    def take(self, one: Sequence) -> "Told":
        if delta := one.take():
            self.text += delta.text
            self.token_ids += delta.token_ids
            self.logprobs += delta.logprobs
        return self


def fresh(*stop_sequences: str) -> Sequence:
    return sequence(*stop_sequences, output=ALL, stop_token_ids=frozenset({STOP_TOKEN}))


def run(one: Sequence, token_ids: list[int], config: EffectiveConfig) -> None:
    """Does what a worker's session does, from where the sequence stands to the end of `token_ids`."""
    for token_id in token_ids[one.output_token_count :]:
        if one.finished:
            return
        one.push(token_id, 1.0, TokenLogprob(-1.0, token_id))
        if token_id == EOS:
            one.finish(Status.END_OF_SEQUENCE)
        elif token_id in config.stop_token_ids:
            one.finish(Status.STOP_TOKEN)
        elif one.output_token_count == config.max_new_tokens:
            one.finish(Status.LENGTH)


def resumed(one: Sequence, held: list[int], config: EffectiveConfig) -> list[Violation]:
    return list(resume([one], [ResumedCandidate(0, held)], config, FACTS))


TEXTS = st.text("stop# aé€🚀\ufffd", max_size=24)
STOPS = st.lists(st.sampled_from(("stop", "aé€", "🚀", "t s", "  ")), max_size=2, unique=True)


@given(TEXTS, STOPS, st.sampled_from(([], [EOS])), st.integers(1, 40))
def test_from_wherever_it_was_lost_both_parts_together_are_the_undisturbed_output(
    text: str, stops: list[str], end: list[int], max_new_tokens: int
) -> None:
    config = EffectiveConfig(seed=1, max_new_tokens=max_new_tokens, stop_token_ids=(STOP_TOKEN,))
    tokens = ids(text) + end
    whole = fresh(*stops)
    run(whole, tokens, config)
    expected = Told().take(whole)
    for cut in range(whole.output_token_count + 1):
        lost, again = fresh(*stops), fresh(*stops)
        run(lost, tokens[:cut], config)
        told = Told().take(lost)

        assert resumed(again, told.token_ids, config) == []
        assert again.take() is None, "nothing is delivered twice"
        assert again.finished == lost.finished
        run(again, tokens, config)

        assert told.take(again) == expected
        assert again.finished == whole.finished
        assert not whole.finished or again.status is whole.status
        assert again.stop_sequence == whole.stop_sequence
        assert again.output_token_count == whole.output_token_count


@given(TEXTS, st.integers(0, 3))
def test_tokens_behind_the_end_are_refused(text: str, more: int) -> None:
    config = EffectiveConfig(seed=1, max_new_tokens=100, stop_token_ids=(STOP_TOKEN,))
    whole = fresh("stop")
    run(whole, [*ids(text), EOS], config)
    violations = resumed(fresh("stop"), [*whole.output_token_ids, *ids("abc")[:more]], config)

    assert [violation.reason for violation in violations] == ["BEHIND_THE_END"] * bool(more)
    assert all(f"[{whole.output_token_count}]" in violation.field for violation in violations)


def test_with_ignore_eos_an_end_of_sequence_token_is_one_like_others() -> None:
    config = EffectiveConfig(seed=1, max_new_tokens=9, ignore_eos=True)
    one = fresh()
    assert resumed(one, [EOS, *ids("a")], config) == []
    assert not one.finished


def test_a_candidate_that_was_whole_ends_again_and_says_so_once() -> None:
    one = fresh()
    assert resumed(one, ids("abc"), EffectiveConfig(seed=1, max_new_tokens=3)) == []
    assert one.status is Status.LENGTH
    assert one.take() is None
    assert (one.take_end(), one.take_end()) == (True, False)


def test_only_what_is_gone_on_with_says_that_it_was_resumed() -> None:
    config = EffectiveConfig(seed=1, max_new_tokens=9)
    first, other = fresh(), fresh()
    assert list(resume([first, other], [ResumedCandidate(0, ids("ab")), ResumedCandidate(1, [])], config, FACTS)) == []
    assert (first.resumed, other.resumed) == (True, False)

    other.submit(1.0)
    assert not other.resumed
    other.push(ids("a")[0], 2.0)
    other.requeue()
    other.submit(3.0)
    assert other.resumed


def violations(*candidates: ResumedCandidate, config: GenerationConfig = SEEDED) -> set[tuple[str, str]]:
    found = resumption_violations(candidates, config, FACTS)
    return {(violation.field, violation.reason) for violation in found}


def test_nothing_to_resume_from_is_never_wrong() -> None:
    assert violations(config=GenerationConfig(num_beams=4)) == set()


def test_a_sound_resumption_is_not_wrong() -> None:
    assert violations(ResumedCandidate(1, [0, 299]), ResumedCandidate(0, [])) == set()


def test_a_resumption_needs_the_seed_of_the_lost_call() -> None:
    found = violations(ResumedCandidate(0, [5]), config=GenerationConfig())
    assert found == {("generation_config.seed", "REQUIRED")}


@pytest.mark.parametrize(
    "config",
    [
        EffectiveConfig(seed=0, max_new_tokens=9, num_beams=2),
        EffectiveConfig(seed=0, max_new_tokens=9, do_sample=True, best_of=2),
    ],
    ids=["beam search", "best_of"],
)
def test_a_search_among_outputs_cannot_be_gone_on_with(config: EffectiveConfig) -> None:
    (found,) = fit_violations([ResumedCandidate(0, [5])], config)
    assert (found.field, found.reason) == ("resume_from.candidates", "CONTRADICTION")
    assert list(fit_violations([], config)) == []


def test_everything_wrong_with_the_candidates_is_named_at_once() -> None:
    found = violations(ResumedCandidate(0, [5, 300]), ResumedCandidate(-1, [-1]), ResumedCandidate(0, []))
    assert found == {
        ("resume_from.candidates[0].token_ids[1]", "OUT_OF_RANGE"),
        ("resume_from.candidates[1].candidate_index", "OUT_OF_RANGE"),
        ("resume_from.candidates[1].token_ids[0]", "OUT_OF_RANGE"),
        ("resume_from.candidates[2].candidate_index", "DUPLICATE"),
    }


def test_more_tokens_than_the_context_holds_are_not_looked_at_one_by_one() -> None:
    held = [299] * FACTS.context_length
    assert violations(ResumedCandidate(0, held)) == set()
    assert violations(ResumedCandidate(0, [*held, 300])) == {("resume_from.candidates[0].token_ids", "OUT_OF_RANGE")}


def test_what_does_not_fit_the_effective_parameters_is_named() -> None:
    config = EffectiveConfig(seed=1, max_new_tokens=2, num_return_sequences=2, best_of=2)
    candidates = [ResumedCandidate(1, [5, 6]), ResumedCandidate(2, [5, 6, 7])]
    assert [violation.field for violation in fit_violations(candidates, config)] == [
        "resume_from.candidates[1].candidate_index",
        "resume_from.candidates[1].token_ids",
    ]


def test_the_prompt_is_not_reported_again_to_whoever_holds_a_token() -> None:
    output = replace(ALL, prompt_logprobs=True)
    assert remaining_output(output, [ResumedCandidate(0, [])]) == output
    assert remaining_output(output, [ResumedCandidate(0, []), ResumedCandidate(1, [5])]) == ALL
    assert held_count([ResumedCandidate(0, [5]), ResumedCandidate(1, [6, 7])]) == 3
