"""What a caller sees of the whole service: gateway, workers and the bundled 4-bit model, in processes of their own."""

import asyncio
import json
import subprocess
import sys

import pytest

from client import AsyncClient, FinishReason, InvalidRequestError, Message, ModelCapability, NotFoundError
from examples.gateway_process import GatewayProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_model_is_listed_with_its_quantization(client: AsyncClient) -> None:
    (model,) = await client.models()
    assert (model.name, model.quantization, model.ready_worker_count) == ("tutor", "nf4", 2)
    assert model.quantized_share > 0.8
    assert ModelCapability.CHAT in model.capabilities


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A sequence of numbers: 1, 2", ", 3, 4, 5"),
        ("P, Q, R", ", S, T, U"),
        ("Monday, Tuesday", ", Wednesday, Thursday"),
    ],
)
async def test_greedy_lists_go_on(client: AsyncClient, prompt: str, expected: str) -> None:
    answer = await client.generate(prompt, max_new_tokens=40)
    assert answer.text.startswith(expected)
    assert answer.finish_reason is FinishReason.END_OF_SEQUENCE


async def test_a_list_of_colors_goes_on_with_colors(client: AsyncClient) -> None:
    answer = await client.generate("A list of colors: red, blue", max_new_tokens=40)
    colors = {color.strip() for color in answer.text.strip(" ,.").split(",")}
    known = "red blue green yellow orange purple pink brown black white gray grey gold silver violet"
    assert colors <= set(known.split())
    assert len(colors) > 2


async def test_sampling_differs_from_seed_to_seed_and_repeats_for_one(client: AsyncClient) -> None:
    async def texts(seeds: range) -> list[str]:
        calls = [client.generate("I am a cat.", temperature=1.0, seed=seed, max_new_tokens=24) for seed in seeds]
        return [answer.text for answer in await asyncio.gather(*calls)]

    first = await texts(range(6))
    assert len(set(first)) == 6
    assert await texts(range(6)) == first


async def test_chat_uses_the_models_template(client: AsyncClient) -> None:
    answer = await client.generate([Message("user", "What is 2 plus 3?")])
    assert "5" in answer.text
    assert answer.finish_reason is FinishReason.END_OF_SEQUENCE


async def test_a_stream_gives_the_text_of_the_unary_call(client: AsyncClient) -> None:
    async with client.stream("Once upon a time", temperature=0.9, seed=4, max_new_tokens=48) as stream:
        deltas = [delta.text async for delta in stream]
    whole = await client.generate("Once upon a time", temperature=0.9, seed=4, max_new_tokens=48)
    assert "".join(deltas) == stream.result.text == whole.text
    assert len(deltas) > 1


async def test_stop_sequences_cut_the_text_and_the_count(client: AsyncClient) -> None:
    free = await client.generate("A, B, C, D, E", max_new_tokens=40)
    stopped = await client.generate("A, B, C, D, E", max_new_tokens=40, stop=["H"])
    assert stopped.text == free.text.partition("H")[0]
    assert stopped.stop_sequence == "H"
    assert stopped.usage.output_token_count < free.usage.output_token_count


async def test_echo_and_token_ids_are_given_on_request(client: AsyncClient) -> None:
    plain = await client.generate("A, B, C", max_new_tokens=6)
    echoed = await client.generate("A, B, C", max_new_tokens=6, echo=True, token_ids=True)
    assert echoed.text == "A, B, C" + plain.text
    assert len(echoed.prompt_token_ids) == plain.usage.prompt_token_count
    assert len(echoed.token_ids) == plain.usage.output_token_count


async def test_a_token_prompt_is_the_text_prompt_that_it_was_made_from(client: AsyncClient) -> None:
    echoed = await client.generate("A, B, C", max_new_tokens=6, echo=True, token_ids=True)
    again = await client.generate(list(echoed.prompt_token_ids), max_new_tokens=6)
    assert "A, B, C" + again.text == echoed.text


async def test_a_long_prompt_is_refused_with_both_numbers(client: AsyncClient) -> None:
    (model,) = await client.models()
    with pytest.raises(InvalidRequestError, match=str(model.context_length)):
        await client.generate(" one" * (model.context_length + 1))


async def test_an_unknown_model_is_not_found(client: AsyncClient) -> None:
    with pytest.raises(NotFoundError):
        await client.generate("A, B", model="no-such-model")


async def test_many_calls_of_all_kinds_are_served_by_both_workers(client: AsyncClient) -> None:
    calls = [
        client.generate("A, B, C, D, E", max_new_tokens=4 + number % 24, temperature=float(number % 2), seed=number)
        for number in range(48)
    ]
    answers = await asyncio.gather(*calls)
    assert {answer.worker for answer in answers} == {"worker-0", "worker-1"}
    assert all(1 <= a.usage.output_token_count <= 4 + number % 24 for number, a in enumerate(answers))


async def test_the_command_line_prints_one_json_object(gateway: GatewayProcess) -> None:
    command = [sys.executable, "-m", "client", "generate", "A, B, C", "--json", "--address", gateway.address]
    answer = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    parsed = json.loads(answer.stdout)
    assert parsed["text"].startswith(", D, E")
    assert {"finish_reason", "usage", "seed", "timing"} <= parsed.keys()


async def test_buf_curl_calls_the_service_without_any_code_of_ours(gateway: GatewayProcess) -> None:
    url = f"http://{gateway.address}/textserve.v1.GenerationService/StreamGenerate"
    body = json.dumps({"text": "A, B, C", "generationConfig": {"maxNewTokens": 5}})
    buf = f"{sys.prefix}/bin/buf"
    command = [buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", body, url]
    answer = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert '"started"' in answer.stdout
    assert "FINISH_REASON_LENGTH" in answer.stdout
