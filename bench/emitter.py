"""A worker process that only emits tokens: what it costs is not the model's.

    python -m bench.emitter --mode instant|paced|silent [--room ROWS] [--pace STEPS_PER_S]

instant: a sequence gets all its tokens at once. paced: 312 steps a second, or as many as --pace says, a token for each
sequence in each step. silent: nothing. The id of a token is the number of its step, and the process writes the time of
every step to the file that --log names, so that whoever receives a token can tell its age: all processes share one
monotonic clock.
"""

import argparse
import asyncio
import hashlib
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from textserve.internal.v1 import worker_pb2 as pb
from textserve.internal.v1 import worker_pb2_grpc

STEPS_PER_S = 312
VOCAB_SIZE = 16_384
ROOM = 100_000


def tokenizer_json() -> bytes:
    """Returns a byte-level tokenizer in which almost every token is a short word."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"Ġw{number}" for number in range(VOCAB_SIZE - len(alphabet))]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet + words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str().encode()


class Emitter(worker_pb2_grpc.WorkerServiceServicer):
    """Stands in for a worker."""

    def __init__(self, mode: str, room: int, pace: float) -> None:
        self.mode = mode
        self.room = room
        self.pace = pace
        self.times: list[float] = []
        """When each step was made."""
        self._tokenizer = tokenizer_json()
        self._sha256 = hashlib.sha256(self._tokenizer).hexdigest()
        self._left: dict[int, int] = {}

    async def Describe(self, request: pb.DescribeRequest, context: object) -> pb.DescribeResponse:
        """Describes a model that is not there."""
        return pb.DescribeResponse(
            model="emitter", architecture="none", context_length=16_000, vocab_size=VOCAB_SIZE, quantization="none",
            fingerprint="0", max_rows=self.room, incarnation_id="0", devices=["cpu"], tokenizer_sha256=self._sha256,
        )  # fmt: skip

    async def GetTokenizer(
        self,
        request: pb.GetTokenizerRequest,
        context: object,
    ) -> AsyncIterator[pb.GetTokenizerResponse]:
        """Sends the tokenizer."""
        yield pb.GetTokenizerResponse(info=pb.TokenizerInfo(sha256=self._sha256, size_bytes=len(self._tokenizer)))
        yield pb.GetTokenizerResponse(chunk=self._tokenizer)

    async def Run(
        self,
        request_iterator: AsyncIterator[pb.RunRequest],
        context: object,
    ) -> AsyncIterator[pb.RunResponse]:
        """Emits tokens."""
        yield pb.RunResponse(credits=pb.Credits(sequence_limit=self.room))
        outgoing: asyncio.Queue[pb.RunResponse] = asyncio.Queue()
        tasks = [asyncio.create_task(self._read(request_iterator, outgoing)), asyncio.create_task(_beat(outgoing))]
        if self.mode == "paced":
            tasks.append(asyncio.create_task(self._pace(outgoing)))
        try:
            while True:
                yield await outgoing.get()
        finally:
            for task in tasks:
                task.cancel()

    async def _read(self, requests: AsyncIterator[pb.RunRequest], outgoing: asyncio.Queue[pb.RunResponse]) -> None:
        async for request in requests:
            if request.HasField("submit"):
                for sequence in request.submit.sequences:
                    self._left[sequence.sequence_id] = request.submit.generation_config.max_new_tokens
                if self.mode == "instant":
                    while self._left:
                        outgoing.put_nowait(self._step())
            for sequence_id in request.cancel.sequence_ids:
                self._left.pop(sequence_id, None)

    async def _pace(self, outgoing: asyncio.Queue[pb.RunResponse]) -> None:
        """Keeps to absolute times, so that a late step does not delay the ones after it."""
        due = time.monotonic()
        while True:
            due += 1 / self.pace
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self._left:
                outgoing.put_nowait(self._step())

    def _step(self) -> pb.RunResponse:
        step = pb.Step(step=len(self.times), sequence_ids=list(self._left))
        step.token_ids.extend([len(self.times)] * len(self._left))
        for sequence_id in step.sequence_ids:
            self._left[sequence_id] -= 1
            if not self._left[sequence_id]:
                del self._left[sequence_id]
                step.finishes.add(sequence_id=sequence_id, reason=pb.SEQUENCE_FINISH_REASON_LENGTH)
        self.times.append(time.monotonic())
        return pb.RunResponse(step=step)


async def _beat(outgoing: asyncio.Queue[pb.RunResponse]) -> None:
    """A gateway gives a worker up that is silent for longer, so this one beats as a real one does."""
    while True:
        outgoing.put_nowait(pb.RunResponse(heartbeat=pb.Heartbeat(incarnation_id="0")))
        await asyncio.sleep(1)


async def serve(mode: str, room: int, pace: float) -> list[float]:
    """Serves until standard input ends; returns the times of the steps."""
    emitter = Emitter(mode, room, pace)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(emitter, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)
    return emitter.times


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=["instant", "paced", "silent"], required=True)
    parser.add_argument("--room", type=int, default=ROOM)
    parser.add_argument("--pace", type=float, default=STEPS_PER_S)
    parser.add_argument("--log", required=True)
    flags = parser.parse_args()
    Path(flags.log).write_text(json.dumps(asyncio.run(serve(flags.mode, flags.room, flags.pace))))
