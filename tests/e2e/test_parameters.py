"""What parameters do to answers, through gateway, workers and the bundled model."""

from dataclasses import asdict
from itertools import pairwise
from statistics import fmean
from typing import Any

import pytest

from client import AsyncClient, Candidate, FinishReason, InvalidRequestError

pytestmark = pytest.mark.asyncio(loop_scope="session")

CAT = "I am a cat."
SAMPLED: dict[str, Any] = {"temperature": 1.0, "seed": 3, "max_new_tokens": 16}


def mean_logprob(candidate: Candidate) -> float:
    return fmean(each.logprob for each in candidate.logprobs)


async def token_ids(client: AsyncClient, text: str) -> tuple[int, ...]:
    """The ids of a prompt, with the special tokens before it."""
    return (await client.generate(text, max_new_tokens=1, echo=True, token_ids=True)).prompt_token_ids


async def test_each_candidate_is_what_a_single_call_with_its_seed_gives(client: AsyncClient) -> None:
    answer = await client.generate(CAT, **SAMPLED, num_return_sequences=3)
    seeds = [candidate.seed for candidate in answer.candidates]
    assert seeds[0] == answer.seed == 3
    singles = [await client.generate(CAT, temperature=1.0, seed=seed, max_new_tokens=16) for seed in seeds]
    assert [each.text for each in answer.candidates] == [single.text for single in singles]
    assert len({each.text for each in answer.candidates}) == 3


async def test_a_stream_of_candidates_gives_those_of_the_call(client: AsyncClient) -> None:
    output: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "prompt_logprobs": True}
    whole = await client.generate(CAT, **SAMPLED, **output, num_return_sequences=3)
    texts = [""] * 3
    async with client.stream(CAT, **SAMPLED, **output, num_return_sequences=3) as stream:
        async for delta in stream:
            texts[delta.candidate_index] += delta.text
    assert texts == [each.text for each in whole.candidates]
    assert stream.result.candidates == whole.candidates
    assert stream.result.prompt_logprobs == whole.prompt_logprobs


async def test_best_of_returns_those_with_the_highest_mean_log_probability(client: AsyncClient) -> None:
    every = await client.generate(CAT, **SAMPLED, num_return_sequences=5, logprobs=True)
    best = await client.generate(CAT, **SAMPLED, num_return_sequences=2, best_of=5, logprobs=True)
    ranked = sorted(every.candidates, key=mean_logprob, reverse=True)
    assert [each.text for each in best.candidates] == [each.text for each in ranked[:2]]
    assert [each.score for each in best.candidates] == pytest.approx([mean_logprob(each) for each in best.candidates])
    assert best.usage == every.usage


async def test_beam_search_repeats_and_gives_the_best_first(client: AsyncClient) -> None:
    answers = [
        await client.generate("Once upon a time", num_beams=4, num_return_sequences=3, max_new_tokens=12, seed=1)
        for _ in range(2)
    ]
    assert answers[0].candidates == answers[1].candidates
    scores = [each.score or 0.0 for each in answers[0].candidates]
    assert all(better >= worse for better, worse in pairwise(scores))
    assert len({each.text for each in answers[0].candidates}) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2, "stop": "x"},
        {"num_beams": 9},
        {"num_return_sequences": 9, "temperature": 1.0},
        {"num_return_sequences": 2, "temperature": 0.0},
        {"best_of": 2, "num_return_sequences": 3, "temperature": 1.0},
        {"top_logprobs": 3},
        {"logit_bias": {2048: 1.0}},
        {"min_new_tokens": 5, "max_new_tokens": 4},
    ],
)
async def test_what_cannot_be_done_is_refused(client: AsyncClient, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        await client.generate("A, B", **options)


async def test_beams_are_refused_on_a_stream(client: AsyncClient) -> None:
    with pytest.raises(InvalidRequestError):
        async with client.stream("A, B", num_beams=2):
            pytest.fail("the stream was entered")


async def test_log_probabilities_are_those_of_the_tokens_and_their_text(client: AsyncClient) -> None:
    answer = await client.generate("A, B, C", max_new_tokens=8, token_ids=True, logprobs=True, top_logprobs=3)
    (candidate,) = answer.candidates
    assert tuple(each.token_id for each in candidate.logprobs) == candidate.token_ids
    for each in candidate.logprobs:
        assert (each.rank, each.token_id, each.logprob) == (1, each.top[0].token_id, each.top[0].logprob)
        assert [top.logprob for top in each.top] == sorted((top.logprob for top in each.top), reverse=True)
        assert len(each.top) == 3
    offsets = [each.text_offset for each in candidate.logprobs]
    pieces = [answer.text[begin:end] for begin, end in pairwise([*offsets, len(answer.text)])]
    assert pieces[:4] == [",", " D", ",", " E"]
    assert "".join(pieces) == answer.text


async def test_generated_tokens_have_the_log_probabilities_that_they_have_in_a_prompt(client: AsyncClient) -> None:
    answer = await client.generate(CAT, max_new_tokens=16, echo=True, token_ids=True, logprobs=True)
    again = await client.generate(
        [*answer.prompt_token_ids, *answer.token_ids], max_new_tokens=1, prompt_logprobs=True, top_logprobs=1
    )
    generated = answer.candidates[0].logprobs
    read = again.prompt_logprobs[-len(generated) :]
    assert [each.token_id for each in read] == [each.token_id for each in generated]
    # The 4-bit kernel of CPUs rounds to bfloat16, and differently for chunks than for single tokens.
    assert [each.logprob for each in read] == pytest.approx([each.logprob for each in generated], abs=0.3)


async def test_prompt_log_probabilities_are_those_of_every_token_but_the_first(client: AsyncClient) -> None:
    answer = await client.generate("A, B, C, D, E", max_new_tokens=1, prompt_logprobs=True, echo=True, token_ids=True)
    assert tuple(each.token_id for each in answer.prompt_logprobs) == answer.prompt_token_ids[1:]
    assert [each.rank for each in answer.prompt_logprobs[-4:]] == [1, 1, 1, 1]


async def test_a_bias_forces_a_token_that_keeps_its_own_log_probability(client: AsyncClient) -> None:
    *_, forced = await token_ids(client, "Monday")
    answer = await client.generate(
        "A, B, C", max_new_tokens=1, logit_bias={forced: 1000.0}, token_ids=True, logprobs=True, top_logprobs=1
    )
    (logprob,) = answer.candidates[0].logprobs
    assert answer.token_ids == (forced,)
    assert logprob.rank > 1
    assert logprob.logprob < logprob.top[0].logprob


async def test_only_allowed_tokens_and_the_end_come_up(client: AsyncClient) -> None:
    allowed = await token_ids(client, ", 5, 6, 7")
    (model,) = await client.models()
    answer = await client.generate("A, B, C", max_new_tokens=8, allowed_token_ids=allowed, token_ids=True)
    assert answer.token_ids
    assert set(answer.token_ids) <= {*allowed, *model.eos_token_ids}


async def test_suppressed_and_bad_tokens_do_not_come_up(client: AsyncClient) -> None:
    free = await client.generate("A, B, C", max_new_tokens=8, token_ids=True)
    first, second = free.token_ids[:2]
    suppressed = await client.generate("A, B, C", max_new_tokens=8, token_ids=True, suppress_tokens=[first])
    assert first not in suppressed.token_ids
    begun = await client.generate("A, B, C", max_new_tokens=8, token_ids=True, begin_suppress_tokens=[first])
    assert begun.token_ids[0] != first
    bad = await client.generate("A, B, C", max_new_tokens=8, token_ids=True, bad_words_ids=[[first, second]])
    assert bad.token_ids[0] == first
    assert (first, second) not in pairwise(bad.token_ids)


async def test_no_ngram_of_the_given_size_comes_twice(client: AsyncClient) -> None:
    answer = await client.generate(
        "A, B, C", max_new_tokens=12, no_repeat_ngram_size=1, ignore_eos=True, echo=True, token_ids=True
    )
    every = [*answer.prompt_token_ids, *answer.token_ids]
    assert len(answer.token_ids) == 12
    assert len(set(every)) == len(set(answer.prompt_token_ids)) + 12


async def test_a_stop_token_ends_the_text_and_is_delivered_if_asked_for(client: AsyncClient) -> None:
    *_, letter = await token_ids(client, "A, B, E")
    stopped = await client.generate("A, B, C", stop_token_ids=[letter], token_ids=True)
    assert (stopped.text, stopped.finish_reason) == (", D,", FinishReason.STOP_TOKEN)
    assert stopped.token_ids[-1] == letter
    included = await client.generate("A, B, C", stop_token_ids=[letter], include_stop_sequence=True)
    assert included.text == ", D, E"


async def test_a_stop_sequence_is_delivered_if_asked_for(client: AsyncClient) -> None:
    answer = await client.generate("A, B, C", stop="E,", include_stop_sequence=True)
    assert (answer.text, answer.stop_sequence) == (", D, E,", "E,")


async def test_neither_the_end_nor_a_stop_comes_before_min_new_tokens(client: AsyncClient) -> None:
    free = await client.generate("Monday, Tuesday", max_new_tokens=60)
    count = free.usage.output_token_count
    assert free.finish_reason is FinishReason.END_OF_SEQUENCE
    longer = await client.generate("Monday, Tuesday", min_new_tokens=count + 5, max_new_tokens=count + 10)
    assert longer.usage.output_token_count >= count + 5
    ignoring = await client.generate("Monday, Tuesday", ignore_eos=True, max_new_tokens=count + 5)
    assert ignoring.finish_reason is FinishReason.LENGTH
    stopped = await client.generate("A, B, C", stop=",", min_new_tokens=3)
    assert stopped.text.count(",") == 2


async def test_a_time_budget_ends_with_what_there_is(client: AsyncClient) -> None:
    endless: dict[str, Any] = {"ignore_eos": True, "max_new_tokens": 480}
    whole = await client.generate("Once upon a time", **endless)
    part = await client.generate("Once upon a time", **endless, max_time=0.1)
    assert part.finish_reason is FinishReason.TIME_LIMIT
    assert part.usage.output_token_count < 480
    assert whole.text.startswith(part.text)


async def test_the_end_of_a_prompt_that_is_truncated_is_the_prompt(client: AsyncClient) -> None:
    last = (await token_ids(client, "A, B, C, D, E"))[-4:]
    truncated = await client.generate("A, B, C, D, E", truncate_prompt=4, max_new_tokens=6, echo=True, token_ids=True)
    assert truncated.prompt_token_ids == last
    assert truncated.text == (await client.generate(last, max_new_tokens=6, echo=True)).text
    (model,) = await client.models()
    too_long = await client.generate(" one" * (model.context_length + 1), truncate_prompt=8, max_new_tokens=2)
    assert too_long.usage.prompt_token_count == 8


async def test_the_config_of_a_receipt_gives_the_same_answer_again(client: AsyncClient) -> None:
    answer = await client.generate(
        "Once upon a time",
        max_new_tokens=24,
        temperature=0.9,
        top_p=0.95,
        typical_p=0.95,
        presence_penalty=0.5,
        logit_bias={18: -1.0},
        num_return_sequences=2,
    )
    again = await client.generate("Once upon a time", **asdict(answer.config))
    assert again.config == answer.config
    assert again.candidates == answer.candidates
