"""Whatever comes in gets a clear status with details, and nobody else notices."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc import StatusCode, aio

from gateway.domain.request import ChatPrompt
from gateway.text.chat_template import TemplateError
from gateway.text.tokenizer import Tokenizer
from gateway.workers.protocol import duration
from tests.fakes import FakeWorker, ids
from tests.gateway.serving import Served, failing, request, serving, text_of
from textserve.v1 import generation_pb2 as pb

GENERATE = "/textserve.v1.GenerationService/Generate"
STREAM = "/textserve.v1.GenerationService/StreamGenerate"


def asking(**config: float) -> pb.GenerateRequest:
    return pb.GenerateRequest(text="ab", generation_config=pb.GenerationConfig(**config))  # type: ignore[arg-type]


BAD: dict[str, tuple[pb.GenerateRequest, set[str]]] = {
    "NaN temperature": (asking(temperature=math.nan), {"generation_config.temperature"}),
    "infinite temperature": (asking(temperature=math.inf), {"generation_config.temperature"}),
    "negative temperature": (asking(temperature=-1.0), {"generation_config.temperature"}),
    "NaN top_p": (asking(top_p=math.nan), {"generation_config.top_p"}),
    "zero repetition_penalty": (asking(repetition_penalty=0.0), {"generation_config.repetition_penalty"}),
    "zero max_new_tokens": (asking(max_new_tokens=0), {"generation_config.max_new_tokens"}),
    "huge max_new_tokens": (asking(max_new_tokens=2**31 - 1), {"generation_config.max_new_tokens"}),
    "no prompt": (pb.GenerateRequest(), {"prompt"}),
    "empty text": (pb.GenerateRequest(text=""), {"text"}),
    "empty chat": (pb.GenerateRequest(chat=pb.ChatPrompt()), {"chat.messages"}),
    "no token ids": (pb.GenerateRequest(tokens=pb.TokenPrompt()), {"tokens.ids"}),
    "too many tokens": (pb.GenerateRequest(text="a" * 300), {"text"}),
    "too many bytes": (pb.GenerateRequest(text="a" * 3_000_000), {"text"}),
    "too many token ids": (pb.GenerateRequest(tokens=pb.TokenPrompt(ids=[5] * 500_000)), {"tokens.ids"}),
    "no room for the output": (request("a" * 200, max_new_tokens=100), {"generation_config.max_new_tokens"}),
    "token id out of range": (pb.GenerateRequest(tokens=pb.TokenPrompt(ids=[5, 10**6])), {"tokens.ids[1]"}),
    "negative token id": (pb.GenerateRequest(tokens=pb.TokenPrompt(ids=[-1])), {"tokens.ids[0]"}),
    "1000 stop sequences": (pb.GenerateRequest(text="ab", stop_sequences=["x"] * 1000), {"stop_sequences"}),
    "empty stop sequence": (pb.GenerateRequest(text="ab", stop_sequences=[""]), {"stop_sequences[0]"}),
    "negative epsilon_cutoff": (asking(epsilon_cutoff=-0.1), {"generation_config.epsilon_cutoff"}),
    "negative max_time": (
        pb.GenerateRequest(text="ab", generation_config=pb.GenerationConfig(max_time=duration(-0.5))),
        {"generation_config.max_time"},
    ),
    "unknown early_stopping": (asking(early_stopping=9), {"generation_config.early_stopping"}),
    "more candidates than rows": (
        asking(num_return_sequences=9, temperature=1.0),
        {"generation_config.num_return_sequences"},
    ),
    "greedy candidates": (asking(num_return_sequences=2), {"generation_config.num_return_sequences"}),
    "NaN bias": (
        pb.GenerateRequest(text="ab", generation_config=pb.GenerationConfig(logit_bias={5: math.nan})),
        {"generation_config.logit_bias[5]"},
    ),
    "a million suppressed tokens": (
        pb.GenerateRequest(text="ab", generation_config=pb.GenerationConfig(suppress_tokens=[5] * 10**6)),
        {"generation_config.suppress_tokens"},
    ),
    "an empty bad word": (
        pb.GenerateRequest(text="ab", generation_config=pb.GenerationConfig(bad_words_ids=[pb.TokenSequence()])),
        {"generation_config.bad_words_ids[0].ids"},
    ),
    "stop token out of range": (
        pb.GenerateRequest(text="ab", generation_config=pb.GenerationConfig(stop_token_ids=[5, 10**6])),
        {"generation_config.stop_token_ids[1]"},
    ),
    "truncated to nothing": (pb.GenerateRequest(text="ab", truncate_prompt=0), {"truncate_prompt"}),
    "alternatives of nothing": (
        pb.GenerateRequest(text="ab", output_options=pb.OutputOptions(top_logprobs=3)),
        {"output_options.top_logprobs"},
    ),
    "role that the template refuses": (
        pb.GenerateRequest(chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="refused")])),
        {"chat.messages"},
    ),
    "several at once": (
        pb.GenerateRequest(text="", stop_sequences=["", "y" * 300], generation_config=pb.GenerationConfig(top_k=-1)),
        {"text", "stop_sequences[0]", "stop_sequences[1]", "generation_config.top_k"},
    ),
}


async def test_what_a_template_says_is_cut_to_what_the_trailers_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_tokenizer: Tokenizer, chat: ChatPrompt) -> list[int]:
        raise TemplateError(f"no such role: {chat.messages[0].role}")

    monkeypatch.setattr(Tokenizer, "encode_chat", refuse)
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="\N{ROCKET}" * 1000)])
    async with serving(FakeWorker()) as served:
        failure = await failing(served.caller.generate(pb.GenerateRequest(chat=chat)))

    assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "TEMPLATE_REFUSED")
    assert failure.message.startswith("chat.messages: no such role: \N{ROCKET}")


@pytest.mark.parametrize("field", ["text", "chat"])
async def test_a_token_that_was_added_to_the_tokenizer_alone_is_named_to_who_uses_it(field: str) -> None:
    prompts = {
        "text": pb.GenerateRequest(text="stop"),
        "chat": pb.GenerateRequest(chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="user", text="stop")])),
    }
    (stop,) = ids("stop")
    worker = FakeWorker(runs_freely=True)
    worker.description.vocab_size = stop  # as of a model that was not resized
    async with serving(worker) as served:
        failure = await failing(served.caller.generate(prompts[field]))
        others = await served.caller.generate(request("ab", max_new_tokens=4))

    assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "UNKNOWN_TOKEN")
    assert failure.fields == {field}
    assert f'"stop", for the tokenizer token {stop}' in failure.message
    assert others.candidates[0].text == "abab"


@asynccontextmanager
async def with_a_neighbour() -> AsyncIterator[Served]:
    """Serves, while a stream runs that must come to its end undisturbed."""
    async with serving(FakeWorker()) as served:
        neighbour = served.caller.generation.StreamGenerate(request("ab", max_new_tokens=10))
        await served.worker.until(lambda: served.worker.row_count == 1)
        served.worker.step(4)
        messages = [await anext(aiter(neighbour))]
        yield served
        served.worker.step(6)
        messages += [message async for message in neighbour]
        assert text_of(messages) == "ababababab"
        assert len(served.worker.submits) == 1
        await served.nothing_runs()


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_value_is_an_invalid_argument_that_names_its_field(name: str) -> None:
    bad, fields = BAD[name]
    async with with_a_neighbour() as served:
        unary = await failing(served.caller.generate(bad))
        stream = await failing(served.caller.stream(bad))

    assert unary.code is stream.code is StatusCode.INVALID_ARGUMENT
    assert unary.fields == stream.fields == fields
    assert unary.reason == stream.reason


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (asking(num_beams=2), "generation_config.num_beams"),
        (asking(best_of=2, temperature=1.0), "generation_config.best_of"),
    ],
)
async def test_what_is_known_at_the_end_only_is_no_stream(asked: pb.GenerateRequest, field: str) -> None:
    async with serving(FakeWorker(runs_freely=True)) as served:
        failure = await failing(served.caller.stream(asked))
        assert len((await served.caller.generate(asked)).candidates) == 1

    assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "NOT_STREAMABLE")
    assert failure.fields == {field}


async def test_an_over_long_prompt_is_told_both_numbers() -> None:
    async with serving(FakeWorker(context_length=100)) as served:
        failure = await failing(served.caller.generate(request("a" * 123)))

    assert failure.reason == "PROMPT_TOO_LONG"
    assert "123 tokens" in failure.message
    assert "100 tokens" in failure.message


async def test_an_unknown_model_is_not_found() -> None:
    async with with_a_neighbour() as served:
        failure = await failing(served.caller.generate(pb.GenerateRequest(model="gpt-9" * 10**5, text="ab")))

    assert (failure.code, failure.reason) == (StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert failure.metadata["servedModel"] == "tutor"


@pytest.mark.parametrize("method", [GENERATE, STREAM])
@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff\xff", b"\x12\x02\xc3\x28", b"\x0a\x05ab"],
    ids=["garbage", "invalid UTF-8", "truncated"],
)
async def test_bytes_that_are_no_request_are_an_invalid_argument(method: str, data: bytes) -> None:
    async with with_a_neighbour() as served:
        failure = await failing(_send(served, method, data))

    assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "UNDECODABLE_MESSAGE")
    assert "Traceback" not in failure.message


@pytest.mark.parametrize("method", [GENERATE, STREAM])
async def test_a_5_mb_message_is_refused_with_details(method: str) -> None:
    data = pb.GenerateRequest(text="a" * 5_000_000).SerializeToString()
    async with with_a_neighbour() as served:
        failure = await failing(_send(served, method, data))

    assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    (violation,) = failure.detail(error_details_pb2.QuotaFailure).violations
    assert "4194304" in violation.description


async def test_a_message_that_is_larger_still_is_refused_by_grpc() -> None:
    data = pb.GenerateRequest(text="a" * 20_000_000).SerializeToString()
    async with with_a_neighbour() as served:
        with pytest.raises(aio.AioRpcError) as caught:
            await _send(served, GENERATE, data)

    assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED


async def test_garbage_on_the_other_services_is_an_invalid_argument_too() -> None:
    async with with_a_neighbour() as served:
        for method in ("/textserve.v1.ModelService/ListModels", "/grpc.health.v1.Health/Check"):
            failure = await failing(_send(served, method, b"\xff\xff"))
            assert failure.reason == "UNDECODABLE_MESSAGE"


async def test_an_unknown_method_is_unimplemented() -> None:
    async with with_a_neighbour() as served:
        with pytest.raises(aio.AioRpcError) as caught:
            await _send(served, "/textserve.v1.GenerationService/Nope", b"")

    assert caught.value.code() is StatusCode.UNIMPLEMENTED


async def test_the_text_of_a_special_token_in_a_prompt_does_no_harm() -> None:
    async with serving(FakeWorker(runs_freely=True)) as served:
        answer = await served.caller.generate(request("a</s>b", max_new_tokens=3))

        assert list(served.worker.submits[0].prompt_token_ids) == ids("a</s>b")
        assert answer.candidates[0].text == "a"


async def test_a_bug_is_internal_without_internals(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.api.codec.response", _broken)
    async with serving(FakeWorker(runs_freely=True)) as served:
        failure = await failing(served.caller.generate(request(max_new_tokens=1)))
        await served.nothing_runs()

    assert (failure.code, failure.reason) == (StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in failure.message
    assert "a secret" in caplog.text


def _broken(*_: object) -> None:
    raise RuntimeError("a secret")


async def _send(served: Served, method: str, data: bytes) -> object:
    if method == STREAM:
        stream: aio.UnaryStreamMultiCallable[bytes, bytes] = served.caller.channel.unary_stream(method)
        return [message async for message in stream(data)]
    unary: aio.UnaryUnaryMultiCallable[bytes, bytes] = served.caller.channel.unary_unary(method)
    return await unary(data)
