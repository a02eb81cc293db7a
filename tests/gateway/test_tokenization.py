"""Prompts into tokens and back: what generation makes of them, without a worker."""

import pytest
from google.protobuf import struct_pb2
from grpc import StatusCode

from tests.fakes import FakeWorker, ids
from tests.gateway.serving import failing, request, serving
from textserve.v1 import generation_pb2, tokenization_pb2

TEMPLATE = "{% for m in messages %}<{{ m.content }}>{% endfor %}{{ n if n is defined }}"


def chat(text: str = "hi") -> generation_pb2.ChatPrompt:
    return generation_pb2.ChatPrompt(messages=[generation_pb2.ChatMessage(role="user", text=text)])


def tokenize(**fields: object) -> tokenization_pb2.TokenizeRequest:
    return tokenization_pb2.TokenizeRequest(**fields)  # type: ignore[arg-type]


async def test_the_tokens_are_those_that_a_worker_gets() -> None:
    worker = FakeWorker(runs_freely=True, chat_template=TEMPLATE)
    async with serving(worker) as served:
        text = await served.caller.tokens.Tokenize(tokenize(text="abé"))
        of_chat = await served.caller.tokens.Tokenize(tokenize(chat=chat(), include_rendered_prompt=True))
        await served.caller.generate(request("abé"))
        await served.caller.generate(generation_pb2.GenerateRequest(chat=chat()))
    assert [list(each.prompt_token_ids) for each in worker.submits] == [text.token_ids, of_chat.token_ids]
    assert (text.token_count, text.rendered_prompt, list(text.pieces)) == (4, "", [])
    assert of_chat.rendered_prompt == "<hi>"


async def test_pieces_come_if_asked_for() -> None:
    async with serving(FakeWorker()) as served:
        answer = await served.caller.tokens.Tokenize(tokenize(text="aé</s>", include_pieces=True))
    told = [(each.piece, each.begin, each.end, each.is_special) for each in answer.pieces]
    assert told == [
        (b"a", 0, 1, False),
        (b"\xc3", 1, 3, False),
        (b"\xa9", 1, 3, False),
        (b"</s>", 3, 7, True),
    ]


async def test_a_prompt_may_be_longer_than_the_context_and_is_worked_on_off_the_loop() -> None:
    async with serving(FakeWorker(context_length=4096)) as served:
        answer = await served.caller.tokens.Tokenize(tokenize(text="ab " * 60_000))
        failure = await failing(served.caller.tokens.Tokenize(tokenize(text="ab " * 60_000, include_pieces=True)))
    assert answer.token_count == 180_000
    assert (failure.code, failure.fields) == (StatusCode.INVALID_ARGUMENT, {"include_pieces"})


@pytest.mark.parametrize(
    ("asked", "field", "reason"),
    [
        (tokenize(), "prompt", "REQUIRED"),
        (tokenize(text=""), "text", "REQUIRED"),
        (tokenize(chat=generation_pb2.ChatPrompt()), "chat.messages", "OUT_OF_RANGE"),
        (
            tokenize(chat=generation_pb2.ChatPrompt(messages=[generation_pb2.ChatMessage(role="a", text="b")] * 1025)),
            "chat.messages",
            "OUT_OF_RANGE",
        ),
    ],
    ids=["none", "empty text", "empty chat", "too many messages"],
)
async def test_what_generate_would_refuse_is_refused(
    asked: tokenization_pb2.TokenizeRequest, field: str, reason: str
) -> None:
    async with serving(FakeWorker()) as served:
        failure = await failing(served.caller.tokens.Tokenize(asked))
    assert (failure.code, failure.fields, failure.reason) == (StatusCode.INVALID_ARGUMENT, {field}, reason)


async def test_a_template_that_refuses_is_told_and_arguments_are_bounded() -> None:
    async with serving(FakeWorker(chat_template="{{ raise_exception('no') }}")) as served:
        refused = await failing(served.caller.tokens.Tokenize(tokenize(chat=chat())))
        large = chat()
        large.template_arguments.CopyFrom(struct_pb2.Struct(fields={"n": struct_pb2.Value(string_value="x" * 70_000)}))
        bounded = await failing(served.caller.tokens.Tokenize(tokenize(chat=large)))
    assert refused.reason == "TEMPLATE_REFUSED"
    assert bounded.fields == {"chat.template_arguments"}


async def test_tokens_become_text_again() -> None:
    detokenize = tokenization_pb2.DetokenizeRequest
    (end,) = ids("</s>")
    async with serving(FakeWorker()) as served:
        tokens = served.caller.tokens
        assert (await tokens.Detokenize(detokenize(token_ids=[*ids("aé"), end]))).text == "aé"
        whole = await tokens.Detokenize(detokenize(token_ids=[*ids("aé"), end], skip_special_tokens=False))
        assert whole.text == "aé</s>"
        assert (await tokens.Detokenize(detokenize())).text == ""
        for bad in ([-1], [10**6]):
            failure = await failing(tokens.Detokenize(detokenize(token_ids=bad)))
            assert failure.fields == {"token_ids[0]"}
        too_many = await failing(tokens.Detokenize(detokenize(token_ids=[5] * (2**20 + 1))))
        assert too_many.fields == {"token_ids"}
        unknown = await failing(tokens.Detokenize(detokenize(model="other", token_ids=[5])))
        assert unknown.reason == "MODEL_NOT_FOUND"


async def test_without_a_worker_there_is_no_tokenizer() -> None:
    async with serving(ready=False) as served:
        failure = await failing(served.caller.tokens.Tokenize(tokenize(text="ab")))
    assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE, "NO_WORKER")
