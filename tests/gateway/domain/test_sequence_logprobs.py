"""What a sequence reports of its tokens beside their text."""

from gateway.domain.request import OutputOptions
from gateway.domain.sequence import Delta, ReportedToken, Status, TokenLogprob
from tests.fakes import EOS, ids
from tests.gateway.sequences import sequence


def report(*tokens: tuple[int, int, TokenLogprob]) -> tuple[ReportedToken, ...]:
    return tuple(ReportedToken(token_id, offset, logprob) for token_id, offset, logprob in tokens)


def test_each_token_is_reported_with_the_characters_that_were_complete_before_it() -> None:
    one = sequence("zzz", output=OutputOptions(logprobs=True))
    some = TokenLogprob(-0.5, 1, ((3, -0.5),))
    tokens = [*ids("aé"), *ids("zz"), EOS]

    for token_id in tokens:
        one.push(token_id, 11.0, some)
    one.finish(Status.END_OF_SEQUENCE)

    offsets = (0, 1, 1, 2, 3, 4)
    assert one.take() == Delta("aézz", (), report(*zip(tokens, offsets, [some] * 6, strict=True)))


def test_reports_end_with_the_token_that_completes_a_stop_sequence() -> None:
    one = sequence("bc", output=OutputOptions(logprobs=True))
    for token_id in ids("abcd"):
        one.push(token_id, 11.0, TokenLogprob(-1.0, 1))

    delta = one.take()

    assert delta
    assert delta.text == "a"
    assert [token.text_offset for token in delta.logprobs] == [0, 1, 2]
    assert one.mean_logprob == -1.0


def test_the_mean_is_over_all_tokens_and_needs_no_report() -> None:
    one = sequence()
    assert one.mean_logprob is None

    for token_id, logprob in zip(ids("abc"), (-1.0, -2.0, -6.0), strict=True):
        one.push(token_id, 11.0, TokenLogprob(logprob, 1))

    assert one.mean_logprob == -3.0
    assert one.take() == Delta("abc")


def test_what_waits_to_be_taken_is_counted_with_every_number_in_it() -> None:
    one = sequence(output=OutputOptions(token_ids=True, logprobs=True, top_logprobs=3))

    one.push(ids("a")[0], 11.0, TokenLogprob(-1.0, 1))

    assert one.pending_chars == 1 + 1 + 4
    one.take()
    assert one.pending_chars == 0
