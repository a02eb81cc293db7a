"""A prompt that is truncated keeps its end, whatever form it had."""

import pytest

from tests.fakes import FakeWorker, ids, says
from tests.gateway.serving import failing, serving
from textserve.v1 import generation_pb2 as pb

CHAT = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", text="hi")])
CHAT_IDS = ids("user: hi\nassistant: ")


@pytest.mark.parametrize(
    ("prompt", "whole"),
    [
        (pb.GenerateRequest(text="abcdef"), ids("abcdef")),
        (pb.GenerateRequest(tokens=pb.TokenPrompt(ids=[5, 6, 7, 8])), [5, 6, 7, 8]),
        (pb.GenerateRequest(chat=CHAT), CHAT_IDS),
    ],
    ids=["text", "tokens", "chat"],
)
@pytest.mark.parametrize("kept", [1, 3, 1000])
async def test_the_last_tokens_are_kept(prompt: pb.GenerateRequest, whole: list[int], kept: int) -> None:
    asked = pb.GenerateRequest(truncate_prompt=kept)
    asked.MergeFrom(prompt)
    async with serving(FakeWorker(says("x"), runs_freely=True)) as served:
        answer = await served.caller.generate(asked)

        assert list(served.worker.submits[0].prompt_token_ids) == whole[-kept:]
    assert answer.usage.prompt_token_count == len(whole[-kept:])


async def test_an_echo_shows_what_is_kept() -> None:
    output = pb.OutputOptions(echo=True, token_ids=True)
    async with serving(FakeWorker(says("x"), runs_freely=True)) as served:
        answer = await served.caller.generate(
            pb.GenerateRequest(text="abcdef", truncate_prompt=2, output_options=output)
        )

    assert answer.candidates[0].text == "efx"
    assert list(answer.prompt_token_ids) == ids("ef")


async def test_a_prompt_longer_than_the_context_can_be_truncated_to_fit() -> None:
    config = pb.GenerationConfig(max_new_tokens=10)
    async with serving(FakeWorker(says("x"), context_length=50, runs_freely=True)) as served:
        fits = pb.GenerateRequest(text="a" * 500, truncate_prompt=40, generation_config=config)
        too_long = pb.GenerateRequest(text="a" * 500, truncate_prompt=41, generation_config=config)

        assert (await served.caller.generate(fits)).usage.prompt_token_count == 40
        assert (await failing(served.caller.generate(too_long))).reason == "CONTEXT_EXCEEDED"


async def test_log_probabilities_are_those_of_what_is_kept() -> None:
    asked = pb.GenerateRequest(
        text="a" * 100, truncate_prompt=10, output_options=pb.OutputOptions(prompt_logprobs=True)
    )
    async with serving(FakeWorker(says("x"), prompt_logprobs_limit=10, runs_freely=True)) as served:
        assert len((await served.caller.generate(asked)).prompt_logprobs) == 9
