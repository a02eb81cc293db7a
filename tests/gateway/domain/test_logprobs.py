"""Log-probabilities of output and prompt, whole or as they come."""

import pytest

from tests.fake_engine import logprob_of
from tests.fakes import EOS, FakeWorker, ids, says
from tests.gateway.serving import candidates_of, failing, request, serving
from textserve.internal.v1 import worker_pb2
from textserve.v1 import generation_pb2 as pb


def asking(text: str = "ab", *, stops: tuple[str, ...] = (), **output: bool | int) -> pb.GenerateRequest:
    options = pb.OutputOptions(**output)  # type: ignore[arg-type]
    config = pb.GenerationConfig(seed=7)
    return pb.GenerateRequest(text=text, stop_sequences=stops, generation_config=config, output_options=options)


def expected(token_id: int, offset: int, top: int = 0) -> pb.TokenLogprob:
    said = logprob_of(token_id, top)
    likeliest = [
        pb.TopLogprob(token_id=top_id, logprob=logprob)
        for top_id, logprob in zip(said.top_token_ids, said.top_logprobs, strict=True)
    ]
    return pb.TokenLogprob(token_id=token_id, logprob=said.logprob, rank=said.rank, text_offset=offset, top=likeliest)


def prompt_logprobs(messages: list[pb.StreamGenerateResponse]) -> list[pb.TokenLogprob]:
    """What the parts of a stream add up to; checks that they follow one another, before all else but the echo."""
    collected: list[pb.TokenLogprob] = []
    for message in messages:
        if message.HasField("prompt_logprobs"):
            assert message.prompt_logprobs.position == 1 + len(collected)
            assert message.ByteSize() < 1 << 20
            collected.extend(message.prompt_logprobs.logprobs)
    return collected


@pytest.mark.parametrize("top", [0, 1, 20])
async def test_each_generated_token_is_reported_with_its_offset(top: int) -> None:
    asked = asking(logprobs=True, top_logprobs=top)
    async with serving(FakeWorker(says("aé汉"), runs_freely=True)) as served:
        whole = await served.caller.generate(asked)
        streamed = await served.caller.stream(asked)

    tokens = [*ids("aé汉"), EOS]
    offsets = [0, 1, 1, 2, 2, 2, 3]
    (candidate,) = whole.candidates
    assert list(candidate.logprobs) == [
        expected(token_id, offset, top) for token_id, offset in zip(tokens, offsets, strict=True)
    ]
    assert candidates_of(streamed) == [candidate]


async def test_reports_reach_up_to_the_token_that_completes_a_stop_sequence() -> None:
    asked = asking(logprobs=True, token_ids=True, stops=("c",))
    async with serving(FakeWorker(says("abcde"), runs_freely=True)) as served:
        whole = await served.caller.generate(asked)
        streamed = await served.caller.stream(asked)

    (candidate,) = whole.candidates
    assert [report.token_id for report in candidate.logprobs] == list(candidate.token_ids) == ids("abc")
    assert candidates_of(streamed) == [candidate]


async def test_offsets_do_not_count_an_echo() -> None:
    async with serving(FakeWorker(says("cd"), runs_freely=True)) as served:
        (candidate,) = (await served.caller.generate(asking(logprobs=True, echo=True))).candidates

    assert candidate.text == "abcd"
    assert [report.text_offset for report in candidate.logprobs] == [0, 1, 2]


async def test_rows_with_and_without_log_probabilities_run_side_by_side() -> None:
    async with serving(FakeWorker(says("ab"))) as served:
        plain = served.caller.generation.Generate(request())
        asked = served.caller.generation.Generate(asking(logprobs=True))
        gone = served.caller.generation.StreamGenerate(asking(logprobs=True))
        await served.worker.until(lambda: served.worker.row_count == 3)
        # The worker goes on for a while with what the gateway has let go of.
        gone_row = dict(served.worker.streams[0].rows)
        gone.cancel()
        await served.worker.until(lambda: served.worker.row_count == 2)
        served.worker.streams[0].rows.update(gone_row)
        served.worker.step(3)

        answers = [await plain, await asked]

    assert [answer.candidates[0].text for answer in answers] == ["ab", "ab"]
    assert not answers[0].candidates[0].logprobs
    assert [report.token_id for report in answers[1].candidates[0].logprobs] == [*ids("ab"), EOS]


@pytest.mark.parametrize("echo", [False, True])
async def test_the_prompts_log_probabilities_come_in_parts_before_the_first_token(echo: bool) -> None:  # noqa: FBT001
    asked = asking("a long prompt", prompt_logprobs=True, top_logprobs=2, echo=echo)
    async with serving(FakeWorker(says("xy"), runs_freely=True)) as served:
        whole = await served.caller.generate(asked)
        streamed = await served.caller.stream(asked)

    assert list(whole.prompt_logprobs) == [expected(token_id, 0, 2) for token_id in ids("a long prompt")[1:]]
    assert prompt_logprobs(streamed) == list(whole.prompt_logprobs)
    kinds = [message.WhichOneof("event") for message in streamed]
    assert kinds.index("prompt_logprobs") == 1 + echo
    last_part = max(index for index, kind in enumerate(kinds) if kind == "prompt_logprobs")
    assert "delta" not in kinds[1 + echo : last_part]


async def test_a_prompt_of_one_token_has_none() -> None:
    async with serving(FakeWorker(says("x"), runs_freely=True)) as served:
        answer = await served.caller.generate(asking("a", prompt_logprobs=True))

        assert not served.worker.submits[0].prompt_logprobs
    assert not answer.prompt_logprobs


async def test_parts_of_a_long_prompt_stay_below_a_mebibyte() -> None:
    asked = asking("a" * 9000, prompt_logprobs=True, top_logprobs=20)
    async with serving(FakeWorker(says("x"), context_length=20_000)) as served:
        call = served.caller.generation.StreamGenerate(asked)
        await served.worker.until(lambda: served.worker.row_count == 1)
        served.worker.step(2)
        messages = [message async for message in call]

    assert len(prompt_logprobs(messages)) == 8999


async def test_a_prompt_above_the_limit_of_the_model_is_refused() -> None:
    async with serving(FakeWorker(says("x"), prompt_logprobs_limit=10, runs_freely=True)) as served:
        failure = await failing(served.caller.generate(asking("a" * 11, prompt_logprobs=True)))
        assert (await served.caller.generate(asking("a" * 10, prompt_logprobs=True))).prompt_logprobs

    assert failure.fields == {"output_options.prompt_logprobs"}
    assert "11 tokens" in failure.message
    assert "10 tokens" in failure.message


async def test_log_probabilities_that_do_not_fit_their_tokens_make_no_sense() -> None:
    async with serving(FakeWorker()) as served:
        call = served.caller.generation.StreamGenerate(asking(logprobs=True))
        await served.worker.until(lambda: served.worker.row_count == 1)
        (sequence_id,) = served.worker.streams[0].rows

        served.worker.send(
            worker_pb2.RunResponse(step=worker_pb2.Step(step=1, sequence_ids=[sequence_id], token_ids=[5]))
        )

        await served.worker.until(lambda: not served.worker.streams)
        call.cancel()
