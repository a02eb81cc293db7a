"""Streams that run on fake workers, and workers that a test kills and starts again."""

from collections.abc import Iterable

from grpc import aio

from tests.fakes import FakeWorker
from tests.gateway.serving import Served, serving, until
from textserve.v1 import generation_pb2 as pb

Stream = aio.UnaryStreamCall[pb.GenerateRequest, pb.StreamGenerateResponse]


def asked(text: str, max_new_tokens: int = 9) -> pb.GenerateRequest:
    """A request for all that an answer can tell of its tokens."""
    return pb.GenerateRequest(
        text=text,
        generation_config=pb.GenerationConfig(max_new_tokens=max_new_tokens, seed=1),
        output_options=pb.OutputOptions(token_ids=True, logprobs=True, top_logprobs=2, prompt_logprobs=True),
    )


def told(messages: Iterable[pb.StreamGenerateResponse]) -> pb.GenerateResponse:
    """All that a stream told, but for times and the worker: what does not depend on how it was cut into messages."""
    whole = pb.GenerateResponse(candidates=[pb.Candidate()])
    (candidate,) = whole.candidates
    for message in messages:
        whole.prompt_logprobs.extend(message.prompt_logprobs.logprobs)
        candidate.text += message.delta.text
        candidate.token_ids.extend(message.delta.token_ids)
        candidate.logprobs.extend(message.delta.logprobs)
        whole.usage.MergeFrom(message.finished.usage)
        candidate.finish_reason = message.finished.finish_reason
    return whole


async def undisturbed(*requests: pb.GenerateRequest) -> list[pb.GenerateResponse]:
    async with serving(FakeWorker(runs_freely=True)) as served:
        return [told(await served.caller.stream(request)) for request in requests]


async def running(served: Served, *requests: pb.GenerateRequest) -> list[Stream]:
    """Streams that all run on a worker, in the order of their arrival."""
    streams: list[Stream] = []
    for request in requests:
        streams.append(served.caller.generation.StreamGenerate(request))
        await until(lambda: sum(worker.row_count for worker in served.workers) == len(streams))
    return streams


async def collected(streams: Iterable[Stream]) -> list[list[pb.StreamGenerateResponse]]:
    return [[message async for message in stream] for stream in streams]


async def kill(served: Served, number: int = 0) -> None:
    """Ends a worker's process."""
    await served.workers[number].die()
    served.pool.down(number)


async def restart(served: Served, number: int = 0) -> None:
    """A new process takes a worker's place."""
    await served.workers[number].start()
    served.pool.up(number)


async def runs(worker: FakeWorker, row_count: int) -> None:
    await worker.until(lambda: worker.row_count == row_count)


def prompts_on(worker: FakeWorker) -> list[list[int]]:
    """The prompts of the rows that run, oldest first."""
    (stream,) = worker.streams
    return [list(row.submit.prompt_token_ids) for row in stream.rows.values()]
