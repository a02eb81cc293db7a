"""A stream, folded, is the answer that a single call would have given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import (
    Candidate,
    Delta,
    FinishReason,
    GenerationConfig,
    ServerError,
    Started,
    Timing,
    TokenLogprob,
    Usage,
)
from client._transcript import Transcript
from client.types.events import Event, Finished, PromptLogprobs, Receipt

STARTED = Started("tutor", seed=7, prompt_token_count=3, prompt_token_ids=(1, 2, 3))


def finished(candidate_index: int = 0, stop_sequence: str = "") -> Finished:
    return Finished(
        candidate_index,
        FinishReason.STOP_SEQUENCE if stop_sequence else FinishReason.LENGTH,
        stop_sequence,
        seed=7 + candidate_index,
        usage=Usage(3, 2),
        timing=Timing(0.1, 0.2, 0.3, 0.4),
        stop_token_id=None,
        receipt=Receipt(
            model="tutor",
            seed=7,
            server_request_id="0123456789abcdef",
            fingerprint="f00d",
            config=GenerationConfig(temperature=0.0),
            worker="worker-0",
            attempt_count=2,
            resumed=False,
            stop_sequences=(),
        ),
    )


def logprob(token_id: int) -> TokenLogprob:
    return TokenLogprob(token_id, -0.5, rank=1, text_offset=0)


DELTAS = st.lists(
    st.builds(
        Delta,
        st.text(),
        st.lists(st.integers(0, 99)).map(tuple),
        candidate_index=st.integers(0, 2),
        logprobs=st.lists(st.builds(logprob, st.integers(0, 99))).map(tuple),
    )
)


@given(DELTAS)
def test_candidates_are_their_deltas_joined_however_these_are_mixed(deltas: list[Delta]) -> None:
    transcript = Transcript()
    transcript.receive(STARTED)
    assert [transcript.receive(each) for each in deltas] == deltas
    for index in range(3):
        transcript.receive(finished(index))
    transcript.end()
    for index, candidate in enumerate(transcript.result.candidates):
        own = [each for each in deltas if each.candidate_index == index]
        ids = [token_id for each in own for token_id in each.token_ids]
        assert candidate == Candidate(
            "".join(each.text for each in own),
            FinishReason.LENGTH,
            "",
            tuple(ids),
            seed=7 + index,
            logprobs=tuple(logprob for each in own for logprob in each.logprobs),
        )


def test_the_result_has_what_start_and_finish_say() -> None:
    transcript = Transcript()
    for event in (STARTED, Delta("a"), finished(stop_sequence="END")):
        transcript.receive(event)
    result = transcript.result
    assert (result.model, result.seed, result.prompt_token_ids) == ("tutor", 7, (1, 2, 3))
    assert (result.finish_reason, result.stop_sequence) == (FinishReason.STOP_SEQUENCE, "END")
    assert (result.usage, result.timing) == (Usage(3, 2), Timing(0.1, 0.2, 0.3, 0.4))
    assert (result.fingerprint, result.config) == ("f00d", GenerationConfig(temperature=0.0))
    assert (result.worker, result.attempt_count) == ("worker-0", 2)


def test_the_prompts_log_probabilities_are_their_parts_joined() -> None:
    transcript = Transcript()
    parts = [PromptLogprobs(1, (logprob(4), logprob(5))), PromptLogprobs(3, (logprob(6),))]
    events: list[Event] = [STARTED, *parts, finished()]
    assert [transcript.receive(event) for event in events] == [None] * 4
    assert transcript.result.prompt_logprobs == (logprob(4), logprob(5), logprob(6))


@pytest.mark.parametrize("position", [0, 1, 3])
def test_a_gap_or_a_repeat_in_the_prompts_log_probabilities_is_the_servers_fault(position: int) -> None:
    transcript = Transcript()
    transcript.receive(STARTED)
    transcript.receive(PromptLogprobs(1, (logprob(4),)))
    with pytest.raises(ServerError, match=f"position {position}"):
        transcript.receive(PromptLogprobs(position, (logprob(5),)))


def test_an_event_that_is_newer_than_the_client_changes_nothing() -> None:
    transcript = Transcript()
    for event in (STARTED, None, Delta("a"), None, finished()):
        transcript.receive(event)
    assert transcript.result.text == "a"


def test_nothing_is_known_before_the_start() -> None:
    transcript = Transcript()
    assert not transcript.has_started
    with pytest.raises(RuntimeError, match="not started"):
        transcript.started  # noqa: B018 - it raises


@pytest.mark.parametrize("events", [[], [Delta("a")], [Delta("a"), finished(0), Delta("b", candidate_index=1)]])
def test_there_is_no_result_before_every_candidate_has_finished(events: list[Delta | Finished]) -> None:
    transcript = Transcript()
    for event in (STARTED, *events):
        transcript.receive(event)
    with pytest.raises(RuntimeError, match="not ended"):
        transcript.result  # noqa: B018 - it raises
    with pytest.raises(ServerError, match="before its candidates had finished"):
        transcript.end()


@pytest.mark.parametrize("event", [Delta("a"), PromptLogprobs(1, (logprob(4),)), finished()])
def test_a_stream_that_begins_otherwise_is_the_servers_fault(event: Delta | PromptLogprobs | Finished) -> None:
    with pytest.raises(ServerError, match="did not begin"):
        Transcript().receive(event)


def test_a_candidate_that_goes_on_after_its_finish_is_the_servers_fault() -> None:
    transcript = Transcript()
    transcript.receive(STARTED)
    transcript.receive(finished())
    with pytest.raises(ServerError, match="went on"):
        transcript.receive(Delta("a"))
