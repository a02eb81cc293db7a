"""Shows the whole service, and checks what it shows: `make demo`.

Starts a gateway with two workers, makes a unary call, a stream, and 32 calls at once with different lengths and
parameters, cancels one stream, and stops the gateway. Exits with 0 only if all of that went right.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

from client import AsyncClient, FinishReason, Generation
from client.types.options import GenerateOptions

from .gateway_process import GatewayProcess

CALLS = 32
PROMPTS = ("A list of colors: red, blue", "A sequence of numbers: 1, 2", "A, B, C, D, E", "Once upon a time")


class DemoError(Exception):
    """Something was not as it should be."""


def check(condition: bool, failure: str) -> None:  # noqa: FBT001 - reads as an assertion
    """Raises DemoError if the condition does not hold."""
    if not condition:
        raise DemoError(failure)


async def unary(client: AsyncClient) -> None:
    """One call, answered at once; the same again gives the same text."""
    answer = await client.generate(PROMPTS[0], max_new_tokens=24)
    print(f"Generate: {PROMPTS[0]!r} -> {answer.text!r}")
    print(f"  {answer.finish_reason}, {answer.usage}, first token after {answer.timing.time_to_first_token:.3f} s")
    again = await client.generate(PROMPTS[0], max_new_tokens=24)
    check(again.text == answer.text, "the same greedy call gave another text")
    check(0 < answer.usage.output_token_count <= 24, "max_new_tokens was not kept")


async def streamed(client: AsyncClient) -> None:
    """One stream; its deltas make up the text of the unary call."""
    print(f"StreamGenerate: {PROMPTS[3]!r} -> ", end="")
    text = ""
    async with client.stream(PROMPTS[3], max_new_tokens=48, temperature=0.8, seed=1) as stream:
        async for delta in stream:
            text += delta.text
            print(delta.text, end="", flush=True)
    print()
    whole = await client.generate(PROMPTS[3], max_new_tokens=48, temperature=0.8, seed=1)
    check(text == whole.text == stream.result.text, "the stream and the unary call differ")


def parameters(number: int) -> GenerateOptions:
    """Returns the parameters of one of the calls: greedy ones, sampled ones, and ones that stop early."""
    kinds: tuple[GenerateOptions, ...] = (
        {},
        {"temperature": 1.0, "seed": number},
        {"temperature": 0.7, "top_p": 0.9, "seed": number},
        {"top_k": 10, "repetition_penalty": 1.2, "seed": number},
        {"stop": [",", "."]},
    )
    chosen = kinds[number % len(kinds)]
    chosen["max_new_tokens"] = 4 + 3 * (number % 13)
    return chosen


async def together(client: AsyncClient) -> None:
    """Many calls at once: all are answered, and every worker takes its part."""
    calls = (client.generate(PROMPTS[number % len(PROMPTS)], **parameters(number)) for number in range(CALLS))
    answers: list[Generation] = await asyncio.gather(*calls)
    for number, answer in enumerate(answers):
        print(f"  {number:2} {answer.worker} {answer.finish_reason:15} {answer.text[:60]!r}")
    for number, answer in enumerate(answers):
        check(answer.usage.output_token_count <= 4 + 3 * (number % 13), f"call {number} is too long")
        stopped = answer.finish_reason is FinishReason.STOP_SEQUENCE
        check(not stopped or answer.stop_sequence in {",", "."}, f"call {number} names a wrong stop sequence")
    served = Counter(answer.worker for answer in answers)
    print(f"{CALLS} calls at once, served by {dict(sorted(served.items()))}")
    check(len(served) == 2, "not every worker took a part")


async def cancelled(client: AsyncClient) -> None:
    """A stream that is left early, and a call behind it that is none the worse."""
    async with client.stream(PROMPTS[1], max_new_tokens=200, temperature=1.0, seed=2) as stream:
        delta = await anext(stream)
    print(f"cancelled a stream after {delta.text!r}")
    answer = await client.generate(PROMPTS[1], max_new_tokens=8)
    check(bool(answer.text), "no answer after a cancel")


STEPS: tuple[Callable[[AsyncClient], Awaitable[None]], ...] = (unary, streamed, together, cancelled)


async def run(model: str) -> None:
    """Runs the demo. Raises DemoError for what is not as it should be."""
    flags = ["--workers", "2", "--log-level", "warning", *(("--model", model) if model else ())]
    print("starting a gateway with two workers ...", flush=True)
    async with GatewayProcess(flags) as gateway, AsyncClient(gateway.address) as client:
        (served,) = await client.models()
        print(f"{served.name}: {served.architecture}, {served.quantization}, {served.ready_worker_count} workers ready")
        check(served.ready_worker_count == 2, "not every worker is ready")
        for step in STEPS:
            await step(client)
        await client.close()
        check(await gateway.stop() == 0, f"the gateway ended with code {gateway.exit_code}")
    print("stopped cleanly: all is right")


def main() -> int:
    """Runs the demo and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="folder or hub name of a model; default: the bundled one")
    try:
        asyncio.run(run(parser.parse_args().model))
    except DemoError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
