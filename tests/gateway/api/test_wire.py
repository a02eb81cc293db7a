"""Long lists are found on the wire, before anything is parsed; what is no message is left to protobuf."""

from collections.abc import Sized

import pytest
from google.protobuf.message import DecodeError
from grpc import StatusCode, aio
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.codec import LISTS, ListLimit, list_violations
from gateway.api.interceptors import WALKED_BYTES
from gateway.api.wire import MAX_TAGS, RUN, Walk
from tests.fakes import FakeWorker
from tests.gateway.serving import Served, failing, request, serving
from tests.gateway.test_loop_turns import MAKES
from textserve.v1 import generation_pb2 as pb

DESCRIPTOR = pb.GenerateRequest.DESCRIPTOR
WALK = Walk(DESCRIPTOR, LISTS)
SUPPRESS_TAG = b"\xc0\x01"
"""suppress_tokens = 24, not packed."""


def number(value: int) -> bytes:
    """A varint."""
    return bytes([value & 0x7F | 0x80]) + number(value >> 7) if value > 0x7F else bytes([value])


def sized(tag: bytes, content: bytes) -> bytes:
    """A field with the length of its content before it."""
    return tag + number(len(content)) + content


def config(content: bytes) -> bytes:
    """The field generation_config = 5."""
    return sized(b"\x2a", content)


@pytest.mark.parametrize("path", LISTS)
def test_the_wire_and_the_message_are_judged_alike(path: str) -> None:
    most = LISTS[path].most
    at_most, above = MAKES[path](most), MAKES[path](most + 1)

    assert WALK.violation(at_most.SerializeToString()) is None
    assert list(list_violations(at_most)) == []
    assert WALK.violation(above.SerializeToString()) == next(list_violations(above))


def test_a_list_in_a_list_is_named_by_its_place() -> None:
    sequences = [pb.TokenSequence(ids=[1] * count) for count in (1, 64, 65)]
    message = pb.GenerateRequest(generation_config=pb.GenerationConfig(bad_words_ids=sequences))

    violation = WALK.violation(message.SerializeToString())

    assert violation is not None
    assert violation.field == "generation_config.bad_words_ids[2].ids"


@pytest.mark.parametrize(("count", "is_allowed"), [(65_536, True), (65_537, False)])
def test_a_list_of_numbers_may_come_unpacked_and_in_pieces(count: int, *, is_allowed: bool) -> None:
    unpacked = config((SUPPRESS_TAG + b"\x81\x01") * (count // 2)) + config(SUPPRESS_TAG + b"\x05")
    rest = count - count // 2 - 1
    packed = config(sized(b"\xc2\x01", b"\x05" * rest))

    violation = WALK.violation(unpacked + packed)

    parsed = pb.GenerateRequest.FromString(unpacked + packed)
    assert len(parsed.generation_config.suppress_tokens) == count
    assert violation == next(list_violations(parsed), None)
    assert (violation is None) is is_allowed


@pytest.mark.parametrize(
    "data",
    [
        b"\x2a\x00" * (MAX_TAGS + 1),
        b"\xf8\x07\x00" * (MAX_TAGS + 1),
        b"\xfb\x07" + b"\x08\x00" * MAX_TAGS + b"\xfc\x07",
        sized(b"\x22", b"\x08\x05" * RUN * (MAX_TAGS + 1)),
        sized(b"\x1a", sized(b"\x0a", b"\x0a\x00" * MAX_TAGS)),
        config((b"\xc0\x81\x00" + b"\x05") * (MAX_TAGS + 1)),
    ],
    ids=["empty messages", "unknown fields", "a group", "unpacked ids", "one field of a message", "overlong tags"],
)
def test_the_fields_of_a_request_are_bounded_in_all(data: bytes) -> None:
    violation = WALK.violation(data)

    assert violation is not None
    assert str(MAX_TAGS) in violation.description


def test_unknown_fields_and_groups_are_passed_over() -> None:
    unknown = b"\xf8\x07\x96\x01" + b"\xfa\x07\x03abc" + b"\xfd\x07\x00\x00\x00\x00" + b"\xf9\x07" + b"\x00" * 8
    group = b"\xfb\x07" + unknown + b"\xfb\x07\xfc\x07" + b"\xfc\x07"
    too_many = pb.GenerateRequest(stop_sequences=["x"] * 17).SerializeToString()

    pb.GenerateRequest.FromString(unknown + group + too_many)
    assert WALK.violation(unknown + group) is None
    assert WALK.violation(unknown + group + too_many) == next(list_violations(pb.GenerateRequest.FromString(too_many)))


FEW = {path: ListLimit(2) for path in LISTS}
FEW_WALK = Walk(DESCRIPTOR, FEW)
IDS = st.lists(st.integers(-5, 2**31 - 1), max_size=4)
REQUESTS = st.builds(
    lambda ids, stops, words, held, text: pb.GenerateRequest(
        text=text,
        stop_sequences=stops,
        generation_config=pb.GenerationConfig(
            suppress_tokens=ids, bad_words_ids=[pb.TokenSequence(ids=each) for each in words], temperature=0.5
        ),
        resume_from=pb.ResumeFrom(candidates=[pb.ResumedCandidate(candidate_index=1, token_ids=each) for each in held]),
    ),
    IDS,
    st.lists(st.text(max_size=3), max_size=4),
    st.lists(IDS, max_size=4),
    st.lists(IDS, max_size=4),
    st.text(max_size=5),
)


@given(REQUESTS)
def test_a_message_has_a_violation_on_the_wire_exactly_if_a_list_is_too_long(message: pb.GenerateRequest) -> None:
    lists: list[Sized] = [
        message.stop_sequences,
        message.generation_config.suppress_tokens,
        message.resume_from.candidates,
    ]
    lists += [message.generation_config.bad_words_ids, *(each.ids for each in message.generation_config.bad_words_ids)]
    lists += [each.token_ids for each in message.resume_from.candidates]

    violation = FEW_WALK.violation(message.SerializeToString())

    assert (violation is not None) is any(len(each) > 2 for each in lists)


@given(st.binary(max_size=40))
def test_any_bytes_are_walked_to_an_end_and_what_protobuf_reads_is_walked_as_it_reads_it(data: bytes) -> None:
    violation = FEW_WALK.violation(data)
    try:
        message = pb.GenerateRequest.FromString(data)
    except DecodeError:
        return
    if violation is None:
        assert len(message.stop_sequences) <= 2
        assert len(message.tokens.ids) <= 2


@given(REQUESTS, st.data())
def test_a_broken_message_raises_nothing(message: pb.GenerateRequest, data: st.DataObject) -> None:
    whole = message.SerializeToString()
    cut = data.draw(st.integers(0, len(whole)))

    FEW_WALK.violation(whole[:cut])
    FEW_WALK.violation(whole[:cut] + data.draw(st.binary(max_size=3)) + whole[cut:])


async def send(served: Served, data: bytes) -> object:
    method: aio.UnaryUnaryMultiCallable[bytes, bytes] = served.caller.channel.unary_unary(
        "/textserve.v1.GenerationService/Generate"
    )
    return await method(data)


async def test_a_list_that_is_too_long_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("gateway.api.services.list_violations")
    async with serving(FakeWorker()) as served:
        failure = await failing(send(served, MAKES["stop_sequences"](WALKED_BYTES // 8).SerializeToString()))

    assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "OUT_OF_RANGE")
    assert failure.fields == {"stop_sequences"}


async def test_a_large_message_that_is_none_is_undecodable() -> None:
    data = request("x" * WALKED_BYTES).SerializeToString()
    async with serving(FakeWorker()) as served:
        failure = await failing(send(served, data[:-1]))

    assert failure.reason == "UNDECODABLE_MESSAGE"
