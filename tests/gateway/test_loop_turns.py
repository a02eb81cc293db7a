"""No request holds the gateway's event loop, whichever of its lists and texts is as long as it may be, or longer."""

import asyncio
import itertools
import math
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from grpc import StatusCode, aio

from gateway.api.codec import LISTS
from gateway.api.idempotency import MAX_REQUEST_ID_BYTES
from gateway.request.prompt_validation import MAX_JSON_BYTES
from gateway.request.validation import MAX_STOP_SEQUENCE_BYTES
from tests.fakes import EOS, FakeWorker, Stream
from tests.gateway.watched_gateway import MAX_MESSAGE_BYTES
from textserve.internal.v1 import worker_pb2
from textserve.v1 import generation_pb2 as pb

LONGEST_TURN_MS = 20.0
TRIES = 5
"""What others do on the machine only adds to a turn's time on the processor: the shortest of some counts."""
CONTEXT = 131_072
ROWS = 256
PART_TOKENS = 512
"""Tokens of a prompt that a worker reads, and reports, at once."""
MARGIN = 64
"""Bytes that a message has beside its longest text."""
NAMED = "Generate with a request_id"
METHODS = ("Generate", "StreamGenerate", NAMED)

Make = Callable[[int], pb.GenerateRequest]


def fields(descriptor: Descriptor, within: str = "") -> Iterator[tuple[str, FieldDescriptor]]:
    """All fields of a message and of those in it, by path; what is in a map aside."""
    for field in descriptor.fields:
        yield within + field.name, field
        is_whole = within + field.name in WHOLES
        if field.message_type and not is_whole and not field.message_type.GetOptions().map_entry:
            yield from fields(field.message_type, f"{within}{field.name}.")


WHOLES = {"chat.template_arguments"}
"""What is bounded as a whole: in a Struct there may be another one."""

FIELDS = dict(fields(pb.GenerateRequest.DESCRIPTOR))


def asking(prompt: str = "ab", /, **config: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        text=prompt,
        truncate_prompt=CONTEXT - 8,
        generation_config=pb.GenerateRequest(generation_config={"max_new_tokens": 1} | config).generation_config,  # type: ignore[arg-type]
    )


def with_list(path: str) -> Make:
    """A request with so many entries in one of the lists of its config."""
    name = path.rpartition(".")[2]
    return lambda count: asking("ab", **{name: [index % 200 + 2 for index in range(count)]})


def chat(count: int, *, role: str = "user", content: str = "hello") -> pb.GenerateRequest:
    message = pb.ChatMessage(role=role, text=content)
    return pb.GenerateRequest(
        chat=pb.ChatPrompt(messages=[message] * count),
        truncate_prompt=CONTEXT - 8,
        generation_config=pb.GenerationConfig(max_new_tokens=1),
    )


def tokens(count: int) -> pb.GenerateRequest:
    request = asking()
    request.tokens.ids.extend([5] * count)
    return request


def resuming(candidates: int, held: int) -> pb.GenerateRequest:
    request = asking(max_new_tokens=held + 1, num_return_sequences=ROWS, do_sample=True, seed=1)
    for index in range(candidates):
        request.resume_from.candidates.add(candidate_index=index, token_ids=[5] * held)
    return request


def stops(count: int, size: int = 8) -> pb.GenerateRequest:
    request = asking()
    request.stop_sequences.extend(str(index).rjust(size, "x")[:size] for index in range(count))
    return request


def arguments(size: int) -> pb.GenerateRequest:
    """A chat with template arguments of so many bytes, made of as many values as that may be."""
    request = chat(1)
    values = request.chat.template_arguments.get_or_create_list("x").values
    for _ in range((size - 64) // 4):
        values.add().bool_value = True
    while request.chat.template_arguments.ByteSize() < size:
        request.chat.template_arguments["y"] = str(request.chat.template_arguments.fields["y"].string_value) + "y"
    return request


def in_message(**fields: object) -> pb.GenerateRequest:
    request = chat(1)
    request.chat.messages[0].MergeFrom(pb.ChatMessage(**fields))  # type: ignore[arg-type]
    return request


def in_call(count: int = 1, call_id: str = "", **function: str) -> pb.GenerateRequest:
    call = pb.ToolCall(id=call_id, function=pb.FunctionCall(**({"name": "f"} | function)))
    return in_message(tool_calls=[call] * count)


def in_tool(count: int = 1, **function: str) -> pb.GenerateRequest:
    request = chat(1)
    tool = pb.Tool(function=pb.FunctionDeclaration(**({"name": "f"} | function)))
    request.chat.tools.extend([tool] * count)
    request.chat.tool_choice = pb.TOOL_CHOICE_NONE  # the model here knows none; they are read all the same
    return request


def json_text(size: int) -> str:
    """A JSON object of so many bytes, with as many values as it may have."""
    return '{"x":[' + ",".join("0" * ((size - 8) // 2)) + "]}" + " " * (size % 2)


def ignoring(count: int, path: str = "stop_sequences") -> pb.GenerateRequest:
    return pb.GenerateRequest(text="ab", ignored_defaults={"paths": [path] * count})  # type: ignore[arg-type]


MAKES: dict[str, Make] = {
    "chat.messages": chat,
    "chat.messages.parts.parts": lambda count: in_message(
        parts=pb.ContentParts(parts=[pb.ContentPart(text="x")] * count)
    ),
    "chat.messages.tool_calls": in_call,
    "chat.tools": in_tool,
    "chat.template_arguments": arguments,
    "ignored_defaults.paths": ignoring,
    "tokens.ids": tokens,
    "stop_sequences": stops,
    "generation_config.bad_words_ids": lambda count: asking(bad_words_ids=[pb.TokenSequence(ids=[5] * 64)] * count),
    "generation_config.bad_words_ids.ids": lambda count: asking(
        bad_words_ids=[pb.TokenSequence(ids=[5] * count)] * 1024
    ),
    "generation_config.logit_bias": lambda count: asking(logit_bias=dict.fromkeys(range(count), 1.0)),
    "generation_config.allowed_token_ids": with_list("allowed_token_ids"),
    "generation_config.stop_token_ids": with_list("stop_token_ids"),
    "generation_config.suppress_tokens": with_list("suppress_tokens"),
    "generation_config.begin_suppress_tokens": with_list("begin_suppress_tokens"),
    "resume_from.candidates": lambda count: resuming(count, 2),
    "resume_from.candidates.token_ids": lambda count: resuming(1, count),
}
"""For each repeated field, a request that has so many entries there."""

TEXTS: dict[str, tuple[int, Make]] = {
    "model": (MAX_MESSAGE_BYTES - MARGIN, lambda size: pb.GenerateRequest(model="m" * size, text="ab")),
    "text": (MAX_MESSAGE_BYTES - MARGIN, lambda size: asking("ab cd " * (size // 6) + "x" * (size % 6))),
    "chat.messages.role": (MAX_MESSAGE_BYTES - MARGIN, lambda size: chat(1, role="r" * size)),
    "chat.messages.text": (MAX_MESSAGE_BYTES - MARGIN, lambda size: chat(1, content="c" * size)),
    "chat.messages.parts.parts.text": (
        MAX_MESSAGE_BYTES - MARGIN,
        lambda size: in_message(parts=pb.ContentParts(parts=[pb.ContentPart(text="c" * size)])),
    ),
    "chat.messages.name": (MAX_MESSAGE_BYTES - MARGIN, lambda size: in_message(name="n" * size)),
    "chat.messages.tool_call_id": (MAX_MESSAGE_BYTES - MARGIN, lambda size: in_message(tool_call_id="n" * size)),
    "chat.messages.reasoning": (MAX_MESSAGE_BYTES - MARGIN, lambda size: in_message(reasoning="n" * size)),
    "chat.messages.tool_calls.id": (MAX_MESSAGE_BYTES - MARGIN, lambda size: in_call(call_id="n" * size)),
    "chat.messages.tool_calls.function.name": (MAX_MESSAGE_BYTES - MARGIN, lambda size: in_call(name="n" * size)),
    "chat.messages.tool_calls.function.arguments_json": (
        MAX_JSON_BYTES,
        lambda size: in_call(16, arguments_json=json_text(size)),
    ),
    "chat.tools.function.name": (MAX_MESSAGE_BYTES - MARGIN, lambda size: in_tool(name="n" * size)),
    "chat.tools.function.description": (MAX_MESSAGE_BYTES - MARGIN, lambda size: in_tool(description="n" * size)),
    "chat.tools.function.parameters_json": (
        MAX_JSON_BYTES,
        lambda size: in_tool(16, parameters_json=json_text(size)),
    ),
    "ignored_defaults.paths": (MAX_MESSAGE_BYTES - MARGIN, lambda size: ignoring(1, "p" * size)),
    "stop_sequences": (MAX_STOP_SEQUENCE_BYTES, lambda size: stops(16, size)),
    "request_id": (MAX_REQUEST_ID_BYTES, lambda size: pb.GenerateRequest(request_id="i" * size, text="ab")),
}
"""For each string field, the bytes that it may have, and a request that has so many there."""


def largest(path: str) -> int:
    """Entries of a list that a request of this model can have."""
    other = {"resume_from.candidates": ROWS, "resume_from.candidates.token_ids": CONTEXT - 16}
    return other.get(path, LISTS[path].most)


def test_every_list_and_every_text_of_a_request_is_tried() -> None:
    repeated = {path for path, field in FIELDS.items() if field.is_repeated}
    assert MAKES.keys() == LISTS.keys() == repeated | WHOLES
    assert TEXTS.keys() == {path for path, field in FIELDS.items() if field.type == FieldDescriptor.TYPE_STRING}


class Watched:
    """A gateway whose turns are measured, and a caller of it that spends nothing there."""

    def __init__(self, process: asyncio.subprocess.Process, channel: aio.Channel) -> None:
        self._process = process
        self._channel = channel
        self._names = itertools.count()

    async def send(self, method: str, data: bytes) -> StatusCode:
        """Sends a request, and reads all of the answer."""
        if method == NAMED:
            # What is appended to a message is merged into it.
            data += pb.GenerateRequest(request_id=str(next(self._names))).SerializeToString()
            method = "Generate"
        path = f"/textserve.v1.GenerationService/{method}"
        try:
            if method == "Generate":
                unary: aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(path)
                await unary(data)
            else:
                stream: aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(path)
                async for _ in stream(data):
                    pass
        except aio.AioRpcError as error:
            return error.code()
        return StatusCode.OK

    async def longest_turn_ms(self) -> float:
        """The longest turn since the last time."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(b"\n")
        return float(await self._process.stdout.readline())

    async def turn_ms(self, method: str, data: bytes, code: StatusCode | None = None) -> float:
        """The longest turn that a request takes, of which it is sent again if that seems too long.

        code: What it is answered with, if that is not left open.
        """
        turn_ms = math.inf
        for _ in range(TRIES):
            answered = await self.send(method, data)
            assert code in {None, answered}
            turn_ms = min(turn_ms, await self.longest_turn_ms())
            if turn_ms <= LONGEST_TURN_MS:
                break
        return turn_ms


class QuickWorker(FakeWorker):
    """Ends each sequence with its first token, behind the log-probabilities of its prompt."""

    def _submit(self, stream: Stream, submit: worker_pb2.Submit) -> None:
        count = len(submit.prompt_token_ids) if submit.prompt_logprobs else 0
        logprob = worker_pb2.TokenLogprobs(
            logprob=-0.5, rank=1, top_token_ids=range(submit.top_logprobs), top_logprobs=[-0.5] * submit.top_logprobs
        )
        for position in range(1, count, PART_TOKENS):
            part = worker_pb2.PromptLogprobs(
                sequence_id=submit.sequences[0].sequence_id,
                position=position,
                logprobs=[logprob] * min(PART_TOKENS, count - position),
            )
            stream.send(worker_pb2.RunResponse(prompt_logprobs=part))
        step = worker_pb2.Step(step=1)
        for sequence in submit.sequences:
            step.sequence_ids.append(sequence.sequence_id)
            step.token_ids.append(5)
            step.finishes.add(sequence_id=sequence.sequence_id, reason=worker_pb2.SEQUENCE_FINISH_REASON_LENGTH)
        stream.send(worker_pb2.RunResponse(step=step))


@asynccontextmanager
async def watched(*flags: str) -> AsyncIterator[Watched]:
    """Runs such a gateway over a worker that answers at once."""
    worker = QuickWorker(rows=ROWS, context_length=CONTEXT)
    worker.description.vocab_size = 70_000
    worker.description.pool_tokens = CONTEXT * ROWS
    await worker.start()
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "tests.gateway.watched_gateway", worker.target, *flags]
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, cwd=root, env={**os.environ, "PYTHONPATH": f"{root}:{root / 'protos'}"}
    )
    beats = asyncio.create_task(worker.keep_beating())
    try:
        assert process.stdout
        address = (await process.stdout.readline()).decode().strip()
        async with aio.insecure_channel(address, [("grpc.max_receive_message_length", -1)]) as channel:
            gateway = Watched(process, channel)
            for method in METHODS:  # what is made at the first use is not what is measured
                await gateway.send(method, chat(1).SerializeToString())
            await gateway.longest_turn_ms()
            yield gateway
    finally:
        beats.cancel()
        assert process.stdin
        process.stdin.close()
        await process.wait()
        await worker.die()


async def test_no_list_and_no_text_of_a_request_holds_the_loop() -> None:
    turns: dict[str, float] = {}
    async with watched() as gateway:
        for method in METHODS:
            for path, make in MAKES.items():
                for entries in (largest(path), LISTS[path].most + 1):
                    code = StatusCode.OK if entries == largest(path) else StatusCode.INVALID_ARGUMENT
                    data = make(entries).SerializeToString()
                    turns[f"{method} {entries} {path}"] = await gateway.turn_ms(method, data, code)
            for path, (size, make) in TEXTS.items():
                for over in (0, MARGIN + 1):
                    data = make(size + over).SerializeToString()
                    turns[f"{method} {size + over} bytes of {path}"] = await gateway.turn_ms(method, data)

    assert {case: ms for case, ms in turns.items() if ms > LONGEST_TURN_MS} == {}


async def test_nothing_that_is_made_of_a_long_prompt_holds_the_loop() -> None:
    skipped = asking()
    skipped.tokens.ids.extend([EOS] * (CONTEXT - 16))
    reported = asking("ab cd " * 4000)
    reported.output_options.prompt_logprobs = True
    reported.output_options.top_logprobs = 5
    echoed = asking("ab cd " * 20_000, num_return_sequences=16, do_sample=True, ignore_eos=True)
    echoed.output_options.echo = echoed.output_options.token_ids = True
    turns: dict[str, float] = {}
    async with watched() as gateway:
        for name, request in (("log-probabilities", reported), ("echoes", echoed), ("skipped tokens", skipped)):
            for method in METHODS:
                turns[f"{method} {name}"] = await gateway.turn_ms(method, request.SerializeToString(), StatusCode.OK)

    assert {case: ms for case, ms in turns.items() if ms > LONGEST_TURN_MS} == {}


async def test_the_watch_sees_work_that_is_left_on_the_loop() -> None:
    async with watched("--planted") as gateway:
        data = MAKES["resume_from.candidates.token_ids"](20_000).SerializeToString()

        assert await gateway.turn_ms("Generate", data, StatusCode.OK) > LONGEST_TURN_MS
