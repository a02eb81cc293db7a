"""A worker without a model, which a test steps by hand."""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import tokenizers
from google.protobuf.duration_pb2 import Duration
from grpc import aio
from tokenizers import decoders, models, pre_tokenizers

from tests import fake_engine
from tests.fake_engine import Engine, Row, Script, prompt_parts, rows_of
from textserve.internal.v1 import worker_pb2 as pb
from textserve.internal.v1 import worker_pb2_grpc
from textserve.v1 import generation_pb2

Context = aio.ServicerContext[Any, Any]
EOS = fake_engine.EOS
PATIENCE_S = 300.0
"""For what never comes: nothing is decided by how long it takes."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'refused' %}{{ raise_exception('roles must be user or assistant') }}{% endif %}"
    "{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}assistant: "
)


def byte_tokenizer() -> tokenizers.Tokenizer:
    """Byte-level, one token for each byte, but for the merged tokens "st", "sto" and "stop"."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("s", "t"), ("st", "o"), ("sto", "p")]
    tokens = ["<s>", "</s>", *alphabet, *("".join(merge) for merge in merges)]
    tokenizer = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


TOKENIZER = byte_tokenizer()


def ids(text: str) -> list[int]:
    """Token ids of a text."""
    return list(TOKENIZER.encode(text).ids)


def says(*texts: str) -> Script:
    """A script: each text as tokens of its own, then the end of the sequence."""
    return lambda _submit: [token for text in texts for token in ids(text)]


def says_each(*texts: str) -> Script:
    """A script that gives each sequence of a worker the next text."""
    remaining = iter(texts)
    return lambda _submit: ids(next(remaining))


def repeats_prompt(submit: pb.Submit) -> Iterator[int]:
    """A script: the prompt, again and again."""
    return itertools.cycle(submit.prompt_token_ids)


@dataclass
class Stream:
    """One gateway's Run stream."""

    outgoing: "asyncio.Queue[pb.RunResponse | None]" = field(default_factory=asyncio.Queue)
    engine: Engine = field(default_factory=Engine)

    @property
    def rows(self) -> dict[int, Row]:
        return self.engine.rows

    def send(self, message: pb.RunResponse) -> None:
        self.outgoing.put_nowait(message)


class FakeWorker(worker_pb2_grpc.WorkerServiceServicer):
    """Implements WorkerService. Nothing is generated until `step`, unless it runs freely."""

    def __init__(
        self,
        script: Script = repeats_prompt,
        *,
        rows: int = 8,
        context_length: int = 256,
        runs_freely: bool = False,
        defaults: generation_pb2.GenerationConfig | None = None,
        chat_template: str = CHAT_TEMPLATE,
        prompt_logprobs_limit: int | None = None,
        pool_tokens: int | None = None,
        fingerprint: str = "fingerprint",
    ) -> None:
        self.script = script
        self.limit = rows
        self.runs_freely = runs_freely
        self.submits: list[pb.Submit] = []
        self.cancelled: set[int] = set()
        self.demand = 0
        self.streams: list[Stream] = []
        self.serialized = TOKENIZER.to_str().encode()
        self.chat_template = chat_template
        self.target = "127.0.0.1:0"
        self.description = pb.DescribeResponse(
            model="tutor",
            architecture="FakeForCausalLM",
            context_length=context_length,
            vocab_size=TOKENIZER.get_vocab_size(),
            quantization="nf4",
            quantized_share=0.5,
            fingerprint=fingerprint,
            generation_defaults=defaults,
            eos_token_ids=[EOS],
            max_rows=rows,
            incarnation_id="incarnation",
            devices=["cpu"],
            tokenizer_sha256=hashlib.sha256(self.serialized).hexdigest(),
            prompt_logprobs_limit=prompt_logprobs_limit or context_length,
            pool_tokens=pool_tokens or rows * context_length,
        )
        self._steps = 0
        self._changed = asyncio.Event()
        self._server = aio.server()

    async def start(self) -> None:
        """Listens; after `die`, on the same port again."""
        self._server = aio.server(options=[("grpc.http2.min_ping_interval_without_data_ms", 5_000)])
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)
        host = self.target.rpartition(":")[0]
        self.target = f"{host}:{self._server.add_insecure_port(self.target)}"
        await self._server.start()

    async def die(self) -> None:
        """Breaks all connections."""
        await self._server.stop(0)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until something that came from a gateway makes the condition true; TimeoutError if nothing does."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await self._changed.wait()

    @property
    def row_count(self) -> int:
        return sum(len(stream.rows) for stream in self.streams)

    def step(self, count: int = 1) -> None:
        """Runs engine steps: one token for each row."""
        for _ in range(count):
            self._steps += 1
            for stream in self.streams:
                if stream.rows:
                    stream.send(pb.RunResponse(step=stream.engine.step(self._steps)))

    def grant(self, limit: int) -> None:
        """Changes the room of the gateways."""
        for stream in self.streams:
            stream.send(pb.RunResponse(credits=pb.Credits(sequence_limit=limit)))

    def drain(self) -> None:
        """Takes nothing new, and ends the streams whose rows have ended."""
        for stream in self.streams:
            stream.send(pb.RunResponse(draining=pb.Draining()))

    def end_streams(self) -> None:
        """Ends the streams regularly, whatever still runs."""
        for stream in self.streams:
            stream.outgoing.put_nowait(None)

    def beat(self, *, incarnation_id: str = "incarnation", limit_s: int = 0, elapsed_s: int = 0) -> None:
        """Sends a heartbeat."""
        beat = pb.Heartbeat(
            incarnation_id=incarnation_id,
            step=self._steps,
            step_limit=Duration(seconds=limit_s),
            step_elapsed=Duration(seconds=elapsed_s),
        )
        self.send(pb.RunResponse(heartbeat=beat))

    async def keep_beating(self) -> None:
        """Sends heartbeats as a real worker does, for gateways whose clock the test does not hold."""
        while True:
            self.beat()
            await asyncio.sleep(1)

    def send(self, message: pb.RunResponse) -> None:
        """Sends any message to all gateways."""
        for stream in self.streams:
            stream.send(message)

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:  # noqa: N802
        return self.description

    async def GetTokenizer(  # noqa: N802
        self, request: pb.GetTokenizerRequest, context: Context
    ) -> AsyncIterator[pb.GetTokenizerResponse]:
        info = pb.TokenizerInfo(
            sha256=hashlib.sha256(self.serialized).hexdigest(),
            size_bytes=len(self.serialized),
            chat_template=self.chat_template,
            special_tokens={"bos_token": "<s>", "eos_token": "</s>"},
        )
        yield pb.GetTokenizerResponse(info=info)
        for start in range(0, len(self.serialized), 4096):
            yield pb.GetTokenizerResponse(chunk=self.serialized[start : start + 4096])

    async def Run(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.RunRequest], context: Context
    ) -> AsyncIterator[pb.RunResponse]:
        stream = Stream()
        self.streams.append(stream)
        stream.send(pb.RunResponse(credits=pb.Credits(sequence_limit=self.limit)))
        reader = asyncio.create_task(self._read(stream, request_iterator))
        self._change()
        try:
            while (message := await stream.outgoing.get()) is not None:
                yield message
        finally:
            reader.cancel()
            self.streams.remove(stream)
            self._change()

    async def _read(self, stream: Stream, requests: AsyncIterator[pb.RunRequest]) -> None:
        async for request in requests:
            match request.WhichOneof("message"):
                case "submit":
                    self._submit(stream, request.submit)
                case "cancel":
                    self.cancelled.update(request.cancel.sequence_ids)
                    for sequence_id in request.cancel.sequence_ids:
                        stream.rows.pop(sequence_id, None)
                case "demand":
                    self.demand = request.demand.queued_count
                case None:
                    raise AssertionError("an empty request")
            self._change()

    def _submit(self, stream: Stream, submit: pb.Submit) -> None:
        self.submits.append(submit)
        stream.rows.update(rows_of(submit, self.script))
        for part in prompt_parts(submit):
            stream.send(part)
        if self.runs_freely:
            while stream.rows:
                self.step()

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
