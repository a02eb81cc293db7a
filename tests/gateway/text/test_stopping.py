from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.text.stopping import StopMatcher, StopResult

# Few letters, so that stop sequences overlap, repeat and contain one another.
_LETTERS = st.text("ab", max_size=40)
_STOP_SEQUENCES = st.lists(st.text("ab", min_size=1, max_size=6), max_size=4)


def naive(text: str, stop_sequences: list[str]) -> tuple[str, str | None]:
    """The text before the stop sequence that is complete first, the longest one if several are."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stop_sequences if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


def run(parts: list[str], stop_sequences: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stop_sequences)
    delivered = ""
    for part in parts:
        result = matcher.push(part)
        delivered += result.text
        if result.stop_sequence is not None:
            return delivered, result.stop_sequence
    return delivered + matcher.flush(), None


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@given(text=_LETTERS, stop_sequences=_STOP_SEQUENCES, places=st.lists(st.integers(0, 40), max_size=8))
@example(text="xabcdy", stop_sequences=["abcd", "bc"], places=[3])
@example(text="xabcy", stop_sequences=["bc", "abc", "c"], places=[])
@example(text="aabaab", stop_sequences=["aabaabb", "baab"], places=[1, 2, 3, 4, 5])
def test_any_cut_into_parts_gives_what_a_search_of_the_whole_text_gives(
    text: str, stop_sequences: list[str], places: list[int]
) -> None:
    assert run(cut(text, places), stop_sequences) == naive(text, stop_sequences)


@given(text=_LETTERS, stop_sequences=_STOP_SEQUENCES)
def test_only_what_may_become_a_stop_sequence_is_held_back(text: str, stop_sequences: list[str]) -> None:
    matcher = StopMatcher(stop_sequences)
    delivered = ""
    for end, character in enumerate(text, start=1):
        result = matcher.push(character)
        delivered += result.text
        if result.stop_sequence is not None:
            break
        beginnings = {stop[:length] for stop in stop_sequences for length in range(len(stop))} | {""}
        assert text[:end] == delivered + max((b for b in beginnings if text[:end].endswith(b)), key=len)


@given(text=st.text(max_size=60), stop=st.text(min_size=1, max_size=3), places=st.lists(st.integers(0, 60), max_size=8))
def test_no_stop_sequence_is_ever_delivered(text: str, stop: str, places: list[int]) -> None:
    delivered, _ = run(cut(text + stop + text, places), [stop])
    assert stop not in delivered
    assert delivered == (text + stop + text).partition(stop)[0]


def test_a_match_inside_one_part_ends_the_text_before_it() -> None:
    assert StopMatcher(["END"]).push("one END two END") == StopResult("one ", "END")


def test_a_match_across_parts_delivers_nothing_of_it() -> None:
    matcher = StopMatcher(["\n\nUser:"])
    assert [matcher.push(part) for part in ("Yes.\n", "\nUs", "er: go")] == [
        StopResult("Yes.", None),
        StopResult("", None),
        StopResult("", "\n\nUser:"),
    ]


def test_a_beginning_that_does_not_go_on_is_delivered() -> None:
    matcher = StopMatcher(["stop!"])
    assert matcher.push("non-st") == StopResult("non-", None)
    assert matcher.push("ick") == StopResult("stick", None)


def test_flush_gives_what_was_held_back_once() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("the EN") == StopResult("the ", None)
    assert (matcher.flush(), matcher.flush()) == ("EN", "")


def test_nothing_is_left_to_flush_after_a_match() -> None:
    matcher = StopMatcher(["END"])
    matcher.push("the END")
    assert matcher.flush() == ""


def test_the_first_to_be_complete_wins_over_one_that_began_earlier() -> None:
    assert StopMatcher(["abcd", "bc"]).push("xabcd") == StopResult("xa", "bc")


def test_the_longest_of_those_complete_with_one_character_wins() -> None:
    assert StopMatcher(["d", "bcd", "cd"]).push("abcd") == StopResult("a", "bcd")


def test_without_stop_sequences_everything_passes_at_once() -> None:
    assert StopMatcher([]).push("any text") == StopResult("any text", None)


def test_an_empty_stop_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopMatcher(["END", ""])


@given(_STOP_SEQUENCES, _LETTERS, _LETTERS, _LETTERS)
def test_a_fork_goes_on_from_the_same_state_and_knows_nothing_of_the_other(
    stop_sequences: list[str], common: str, one: str, other: str
) -> None:
    matcher, alone = StopMatcher(stop_sequences), StopMatcher(stop_sequences)
    if matcher.push(common).stop_sequence is not None:
        return
    forked = matcher.fork()
    matcher.push(one)

    alone.push(common)
    assert forked.push(other) == alone.push(other)
    assert forked.flush() == alone.flush()


@given(
    parts=st.lists(st.tuples(st.text("ab", max_size=6), st.booleans()), max_size=8),
    stop_sequences=_STOP_SEQUENCES,
)
def test_text_that_is_not_shown_is_searched_and_never_delivered(
    parts: list[tuple[str, bool]], stop_sequences: list[str]
) -> None:
    matcher = StopMatcher(stop_sequences)
    delivered, found = "", None
    for text, is_shown in parts:
        result = matcher.push(text, is_shown=is_shown)
        delivered, found = delivered + result.text, result.stop_sequence
        if found is not None:
            break
    delivered += matcher.flush()

    shown = [is_shown for text, is_shown in parts for _ in text]
    before, expected = naive("".join(text for text, _ in parts), stop_sequences)
    assert found == expected
    assert delivered == "".join(letter for letter, each in zip(before, shown, strict=False) if each)
