"""A stream's messages add up to the whole answer, however they are cut, and none is too large."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api import codec
from gateway.domain.generation import Generation
from gateway.domain.request import OutputOptions
from gateway.domain.sequence import WHOLE, Status, TokenLogprob
from gateway.text.output_text import Stopping
from tests.fake_engine import logprob_of
from tests.fakes import EOS, ids
from tests.gateway.generations import generation
from tests.gateway.serving import candidates_of
from textserve.v1 import generation_pb2 as pb

LARGEST_BYTES = 64 * 1024
# Few texts, so that stop sequences come up often, and characters that span tokens.
TEXTS = st.lists(st.sampled_from(["a", "b", "st", "stop", "é", "汉", " "]), max_size=25).map("".join)
STOPPING = st.builds(
    Stopping,
    sequences=st.lists(st.text("abost", min_size=1, max_size=3), max_size=3).map(tuple),
    token_ids=st.sampled_from([frozenset[int](), frozenset(ids("b"))]),
    min_new_tokens=st.integers(0, 8),
    is_included=st.booleans(),
)
OUTPUT = st.builds(
    OutputOptions,
    echo=st.booleans(),
    token_ids=st.booleans(),
    skip_special_tokens=st.booleans(),
    logprobs=st.booleans(),
    top_logprobs=st.integers(0, 3),
)


def token(token_id: int, top: int = 0) -> TokenLogprob:
    said = logprob_of(token_id, top)
    return TokenLogprob(said.logprob, said.rank, tuple(zip(said.top_token_ids, said.top_logprobs, strict=True)))


def push(one: Generation, index: int, token_ids: list[int]) -> None:
    for token_id in token_ids:
        one.sequences[index].push(token_id, 1.0, token(token_id, one.output.top_logprobs))


@given(
    texts=st.lists(TEXTS, min_size=1, max_size=3),
    stopping=STOPPING,
    output=OUTPUT,
    ends=st.lists(st.sampled_from(sorted(WHOLE)), min_size=3, max_size=3),
    data=st.data(),
)
@settings(deadline=None)
def test_the_deltas_of_each_candidate_add_up_to_its_whole(
    texts: list[str], stopping: Stopping, output: OutputOptions, ends: list[Status], data: st.DataObject
) -> None:
    streamed, whole = (
        generation(prompt="é st", candidate_count=len(texts), output=output, stopping=stopping) for _ in range(2)
    )
    received = list(codec.echoes(streamed))
    remaining = {index: [*ids(text), EOS] for index, text in enumerate(texts)}
    while remaining:
        index = data.draw(st.sampled_from(sorted(remaining)))
        count = data.draw(st.integers(1, 5))
        for one in (streamed, whole):
            push(one, index, remaining[index][:count])
        remaining[index] = remaining[index][count:]
        if not remaining[index]:
            del remaining[index]
            streamed.sequences[index].finish(ends[index])
            whole.sequences[index].finish(ends[index])
        if data.draw(st.booleans()):
            received += codec.news(streamed, now=2.0)
    received += codec.news(streamed, now=2.0)

    assert candidates_of(received) == list(codec.response(whole, now=2.0).candidates)


def test_the_end_of_a_candidate_is_told_at_once_and_once_and_a_failure_is_none() -> None:
    one = generation(candidate_count=3)

    one.sequences[1].finish(Status.LENGTH)
    (end,) = codec.news(one, now=2.0)
    one.sequences[0].finish(Status.FAILED)

    assert (end.finished.candidate_index, end.finished.finish_reason) == (1, pb.FINISH_REASON_LENGTH)
    assert list(codec.news(one, now=2.0)) == []


def test_what_piles_up_for_a_slow_reader_goes_in_messages_that_are_soon_made() -> None:
    count, parts = 1_000, 6
    one = generation(prompt="a" * count, output=OutputOptions(logprobs=True, top_logprobs=20, prompt_logprobs=True))
    largest = TokenLogprob(-123.5, 2**31 - 1, tuple((2**31 - 1 - index, -0.5) for index in range(20)))
    one.add_prompt_logprobs(1, [largest] * (count - 1))
    for token_id in ids("a" * count):
        one.sequences[0].push(token_id, 1.0, largest)

    sent = list(codec.news(one, now=2.0))

    assert all(message.ByteSize() < LARGEST_BYTES for message in sent)
    assert [message.WhichOneof("event") for message in sent] == ["prompt_logprobs"] * parts + ["delta"] * parts
    positions = [message.prompt_logprobs.position for message in sent[:parts]]
    lengths = [len(message.prompt_logprobs.logprobs) for message in sent[:parts]]
    assert all(length * (1 + 20) <= codec.PART_NUMBERS for length in lengths)
    assert positions == [1 + sum(lengths[:index]) for index in range(parts)]
    assert sum(lengths) == count - 1
    offsets = [report.text_offset for message in sent for report in message.delta.logprobs]
    assert offsets == list(range(count))


def test_every_status_that_a_candidate_can_end_with_has_its_finish_reason_and_what_ended_it() -> None:
    for status in Status:
        if Status.END_OF_SEQUENCE <= status < Status.FAILED and status is not Status.STOP_SEQUENCE:
            one = generation()
            one.sequences[0].replay(7)
            one.finish(status)

            finished = [message.finished for message in codec.news(one, now=1.0) if message.HasField("finished")][-1]

            name = "UNSPECIFIED" if status is Status.CANCELLED else status.name
            assert pb.FinishReason.Name(finished.finish_reason) == f"FINISH_REASON_{name}"
            ended_by_token = status in {Status.END_OF_SEQUENCE, Status.STOP_TOKEN}
            assert finished.stop_token_id == (7 if ended_by_token else 0)
            assert finished.HasField("stop_token_id") is ended_by_token
