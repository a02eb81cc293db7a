"""A sequence goes through its statuses once, counts its tokens, and gives out its text once."""

import pytest

from gateway.domain.sequence import WHOLE, Delta, Sequence, Status
from tests.fakes import EOS, ids
from tests.gateway.sequences import push, sequence, taken


def test_deltas_since_the_last_take_are_merged() -> None:
    one = sequence(keeps_token_ids=True)

    push(one, "ab")
    push(one, "c")

    assert one.take() == Delta("abc", tuple(ids("abc")))
    assert one.take() is None


def test_half_a_character_is_held_back_and_its_ids_are_not() -> None:
    one = sequence(keeps_token_ids=True)
    first, second = ids("é")

    one.push(first, 11.0)
    assert one.take() == Delta("", (first,))
    one.push(second, 11.0)
    assert one.take() == Delta("é", (second,))


def test_half_a_character_at_the_end_is_given_out_as_the_whole_text_has_it() -> None:
    one = sequence()
    one.push(ids("é")[0], 11.0)

    one.finish(Status.LENGTH)

    assert taken(one) == "\N{REPLACEMENT CHARACTER}"


def test_an_end_of_sequence_token_counts_and_has_no_text() -> None:
    one = sequence(keeps_token_ids=True)
    push(one, "a")
    one.push(EOS, 12.0)
    one.finish(Status.END_OF_SEQUENCE)

    assert one.take() == Delta("a", (*ids("a"), EOS))
    assert one.output_token_count == 2
    assert one.status is Status.END_OF_SEQUENCE


def test_a_stop_sequence_across_tokens_ends_it_and_nothing_of_it_is_given_out() -> None:
    one = sequence("c, d", keeps_token_ids=True)

    push(one, "a, b, c, d, e, f")

    assert (one.status, one.stop_sequence) == (Status.STOP_SEQUENCE, "c, d")
    assert one.take() == Delta("a, b, ", tuple(ids("a, b, c, d")))
    assert one.output_token_count == len("a, b, c, d")


def test_a_stop_sequence_inside_a_token_cuts_the_token() -> None:
    one = sequence("to")

    push(one, "don't stop")

    assert len(ids("stop")) == 1
    assert one.status is Status.STOP_SEQUENCE
    assert taken(one) == "don't s"


def test_the_beginning_of_a_stop_sequence_is_held_back_until_it_is_none() -> None:
    one = sequence("bcd")
    push(one, "abc")
    assert taken(one) == "a"

    push(one, "x")

    assert taken(one) == "bcx"


@pytest.mark.parametrize("status", WHOLE)
def test_at_an_end_that_nothing_would_follow_what_was_held_back_is_given_out(status: Status) -> None:
    one = sequence("bcd")
    push(one, "abc")

    one.finish(status)

    assert (taken(one), one.status) == ("abc", status)


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.FAILED])
def test_at_any_other_end_what_was_held_back_is_not_given_out(status: Status) -> None:
    one = sequence("bcd")
    push(one, "abc")

    one.finish(status)

    assert (taken(one), one.status) == ("a", status)


def test_a_stop_sequence_that_the_last_held_text_completes_goes_before_the_models_end() -> None:
    one = sequence("\N{REPLACEMENT CHARACTER}")
    one.push(ids("é")[0], 11.0)

    one.finish(Status.LENGTH)

    assert (taken(one), one.status) == ("", Status.STOP_SEQUENCE)


def test_a_stop_sequence_is_delivered_if_it_is_to_be_included_and_nothing_behind_it() -> None:
    one = sequence("to", is_included=True)

    push(one, "don't stop now")

    assert (taken(one), one.status, one.stop_sequence) == ("don't sto", Status.STOP_SEQUENCE, "to")


@pytest.mark.parametrize(("is_included", "text"), [(False, "ab"), (True, "abx")])
def test_the_text_of_a_stop_token_is_delivered_only_if_it_is_to_be_included(is_included: bool, text: str) -> None:  # noqa: FBT001
    one = sequence(stop_token_ids=frozenset(ids("x")), is_included=is_included, keeps_token_ids=True)
    push(one, "abx")

    one.finish(Status.STOP_TOKEN)

    assert one.take() == Delta(text, tuple(ids("abx")))
    assert one.status is Status.STOP_TOKEN


def test_a_stop_token_does_not_complete_a_stop_sequence_that_it_would_not_be_part_of() -> None:
    one = sequence("bx", stop_token_ids=frozenset(ids("x")))
    push(one, "abx")

    one.finish(Status.STOP_TOKEN)

    assert (taken(one), one.status) == ("ab", Status.STOP_TOKEN)


@pytest.mark.parametrize(("min_new_tokens", "text"), [(0, "a"), (1, "a"), (2, "ab"), (3, "abba"), (4, "abba")])
def test_stop_sequences_are_looked_for_in_the_text_after_min_new_tokens(min_new_tokens: int, text: str) -> None:
    one = sequence("b", min_new_tokens=min_new_tokens)

    push(one, "abbab")

    assert (taken(one), one.status) == (text, Status.STOP_SEQUENCE)


def test_a_stop_sequence_that_begins_before_min_new_tokens_is_none() -> None:
    one = sequence("ab", min_new_tokens=1)

    push(one, "abab")

    assert (taken(one), one.output_token_count) == ("ab", 4)


def test_text_before_min_new_tokens_is_not_held_back() -> None:
    one = sequence("abc", min_new_tokens=2)

    push(one, "ab")

    assert taken(one) == "ab"


def test_nothing_follows_an_end() -> None:
    one = sequence("b")
    push(one, "ab")

    push(one, "cd", now=20.0)
    one.finish(Status.CANCELLED)

    assert one.status is Status.STOP_SEQUENCE
    assert one.output_token_count == 2
    assert one.timeline.last_token_at == 11.0
    assert taken(one) == "a"


def test_timing_tells_where_the_time_went() -> None:
    one = sequence()
    one.submit(10.5)
    one.start(wait_s=0.25, prefill_s=0.75)
    push(one, "a", now=11.5)
    push(one, "b", now=13.5)

    timing = one.timeline.timing(now=20.0)

    assert (timing.queue_s, timing.prefill_s, timing.decode_s, timing.time_to_first_token_s) == (0.75, 0.75, 2.0, 1.5)


def test_a_sequence_that_never_left_the_queue_has_only_queue_time() -> None:
    timing = sequence().timeline.timing(now=12.0)

    assert (timing.queue_s, timing.prefill_s, timing.decode_s, timing.time_to_first_token_s) == (2.0, 0.0, 0.0, 0.0)


def test_a_sequence_that_goes_on_elsewhere_keeps_its_tokens_and_the_time_to_its_first() -> None:
    one = sequence(keeps_token_ids=True)
    one.submit(10.5)
    one.start(wait_s=0.25, prefill_s=0.75)
    push(one, "ab", now=11.5)
    one.requeue()
    one.submit(20.0)
    one.start(wait_s=5.0, prefill_s=5.0)
    push(one, "c", now=21.5)

    assert one.output_token_ids == ids("abc")
    assert taken(one) == "abc"
    timing = one.timeline.timing(now=30.0)
    assert (timing.queue_s, timing.prefill_s, timing.decode_s, timing.time_to_first_token_s) == (0.75, 0.75, 10.0, 1.5)


def test_a_sequence_that_is_queued_again_waits_on() -> None:
    one = sequence()
    one.submit(10.5)
    one.requeue()
    one.submit(14.0)

    assert one.timeline.timing(now=15.0).queue_s == 4.0


BOS = 0
"""Of the fake tokenizer, whose text is <s>."""


def push_tokens(one: Sequence, *tokens: str | int) -> None:
    """Pushes texts and ids until it has ended, as a worker's tokens come."""
    for token_id in [each for token in tokens for each in (ids(token) if isinstance(token, str) else [token])]:
        one.push(token_id, 11.0)


@pytest.mark.parametrize(
    ("stop", "tokens", "text"),
    [
        ("<s>", ["ab", BOS, "cd"], "ab"),
        ("b<s>", ["ab", BOS, "cd"], "a"),
        ("<s>cd", ["ab", BOS, "cd"], "ab"),
        ("b<s>c", ["ab", BOS, "cd"], "a"),
        ("<s><s>", ["ab", BOS, "c", BOS, BOS, "d"], "abc"),
        ("s>c", ["ab", BOS, "cd"], "ab"),
        ("<s>", ["a", ids("é")[0], BOS, "cd"], "a\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_stop_sequence_is_found_in_special_tokens_that_are_left_out_of_the_text(
    stop: str, tokens: list[str | int], text: str
) -> None:
    one = sequence(stop)

    push_tokens(one, *tokens)

    assert (one.status, one.stop_sequence) == (Status.STOP_SEQUENCE, stop)
    assert taken(one) == text


@pytest.mark.parametrize("stop", ["<s>x", "bcx", "<s><s", "é<s>é"])
def test_a_special_token_that_ends_no_stop_sequence_leaves_no_trace(stop: str) -> None:
    one = sequence(stop)

    push_tokens(one, "ab", BOS, "c", ids("é")[0], BOS, ids("é")[1])
    one.finish(Status.LENGTH)

    assert (one.status, taken(one)) == (Status.LENGTH, "abcé")


def test_a_stop_sequence_that_is_a_special_token_is_delivered_if_it_is_to_be_included() -> None:
    one = sequence("b<s>", is_included=True)

    push_tokens(one, "ab", BOS)

    assert taken(one) == "ab<s>"


@pytest.mark.parametrize("before", ["ab", "é", ids("é")[0]])
@pytest.mark.parametrize("stops", [[], ["zz"]])
def test_the_text_of_a_special_stop_token_is_the_last_if_it_is_to_be_included(
    before: str | int, stops: list[str]
) -> None:
    one = sequence(*stops, stop_token_ids=frozenset({BOS}), is_included=True)

    push_tokens(one, before, BOS)
    one.finish(Status.STOP_TOKEN)

    assert taken(one) == (before if isinstance(before, str) else "\N{REPLACEMENT CHARACTER}") + "<s>"


def test_special_tokens_within_min_new_tokens_are_no_part_of_a_stop_sequence() -> None:
    one = sequence("<s>c", min_new_tokens=1)

    push_tokens(one, BOS, "c", BOS, "c")

    assert (one.stop_sequence, taken(one)) == ("<s>c", "c")
