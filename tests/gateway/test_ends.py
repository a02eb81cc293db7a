"""Where a candidate ends, and what of its end is delivered: the same whole and as a stream."""

from dataclasses import dataclass

import pytest

from tests.fakes import EOS, FakeWorker, ids, says
from tests.gateway.serving import candidates_of, serving
from textserve.v1 import generation_pb2 as pb
from textserve.v1 import model_pb2


@dataclass(frozen=True)
class End:
    """What a candidate comes to."""

    text: str
    reason: str
    token_ids: list[int]
    stop_sequence: str = ""


async def end_of(script: str, *, stops: tuple[str, ...] = (), include: bool = False, **config: object) -> End:
    """Asks whole and as a stream; both must be the same, byte for byte."""
    asked = pb.GenerateRequest(
        text="ab",
        stop_sequences=stops,
        generation_config=pb.GenerationConfig(seed=7, **config),  # type: ignore[arg-type]
        output_options=pb.OutputOptions(token_ids=True, include_stop_sequence=include, logprobs=True),
    )
    async with serving(FakeWorker(says(script), runs_freely=True)) as served:
        (candidate,) = (await served.caller.generate(asked)).candidates
        assert candidates_of(await served.caller.stream(asked)) == [candidate]
        await served.nothing_runs()
    assert [report.token_id for report in candidate.logprobs] == list(candidate.token_ids)
    reason = pb.FinishReason.Name(candidate.finish_reason).removeprefix("FINISH_REASON_")
    return End(candidate.text, reason, list(candidate.token_ids), candidate.stop_sequence)


@pytest.mark.parametrize(("include", "text"), [(False, "a, b, "), (True, "a, b, c, d")])
async def test_a_stop_sequence_is_delivered_only_if_asked_for(include: bool, text: str) -> None:  # noqa: FBT001
    end = await end_of("a, b, c, d, e", stops=("c, d",), include=include)

    assert end == End(text, "STOP_SEQUENCE", ids("a, b, c, d"), "c, d")


@pytest.mark.parametrize(("include", "text"), [(False, "don't s"), (True, "don't sto")])
async def test_nothing_behind_a_stop_sequence_inside_a_token_is_delivered(include: bool, text: str) -> None:  # noqa: FBT001
    end = await end_of("don't stop", stops=("to",), include=include)

    assert end == End(text, "STOP_SEQUENCE", ids("don't stop"), "to")


@pytest.mark.parametrize(("include", "text"), [(False, "ab"), (True, "abx")])
async def test_a_stop_token_is_reported_and_its_text_delivered_only_if_asked_for(include: bool, text: str) -> None:  # noqa: FBT001
    end = await end_of("abxy", stop_token_ids=ids("x"), include=include)

    assert end == End(text, "STOP_TOKEN", ids("abx"))


async def test_what_may_have_become_a_stop_sequence_is_text_at_a_stop_token() -> None:
    end = await end_of("aENx", stops=("END",), stop_token_ids=ids("x"))

    assert end == End("aEN", "STOP_TOKEN", ids("aENx"))


@pytest.mark.parametrize(
    ("min_new_tokens", "text"), [(0, "a"), (1, "a"), (2, "abxx"), (4, "abxx"), (5, "abxxbyy"), (100, "abxxbyy")]
)
async def test_stop_sequences_count_after_min_new_tokens(min_new_tokens: int, text: str) -> None:
    end = await end_of("abxxbyy", stops=("b",), min_new_tokens=min_new_tokens, max_new_tokens=200)

    assert end.text == text


async def test_the_models_end_is_a_token_like_others_if_it_is_to_be_ignored() -> None:
    end = await end_of("ab", ignore_eos=True, max_new_tokens=5)

    assert end == End("ab", "LENGTH", [*ids("ab"), EOS, EOS, EOS])


async def test_the_workers_are_told_what_ends_a_sequence() -> None:
    config = pb.GenerationConfig(stop_token_ids=ids("xy"), min_new_tokens=3, ignore_eos=True, max_new_tokens=9)
    async with serving(FakeWorker(says("x"), runs_freely=True)) as served:
        await served.caller.generate(pb.GenerateRequest(text="ab", generation_config=config))

        sent = served.worker.submits[0].generation_config
    assert (list(sent.stop_token_ids), sent.min_new_tokens, sent.ignore_eos) == (ids("xy"), 3, True)
    assert not sent.HasField("seed")


@pytest.mark.parametrize(("include", "text"), [(False, "ab"), (True, "ab<s>")])
async def test_a_special_token_is_a_stop_sequence_although_it_is_left_out_of_the_text(
    include: bool,  # noqa: FBT001
    text: str,
) -> None:
    end = await end_of("ab<s>cd", stops=("<s>",), include=include)

    assert end == End(text, "STOP_SEQUENCE", ids("ab<s>"), "<s>")


@pytest.mark.parametrize(("include", "text"), [(False, "ab"), (True, "ab<s>")])
async def test_the_text_of_a_special_stop_token_is_delivered_if_asked_for(include: bool, text: str) -> None:  # noqa: FBT001
    end = await end_of("ab<s>cd", stop_token_ids=ids("<s>"), include=include)

    assert end == End(text, "STOP_TOKEN", ids("ab<s>"))


@pytest.mark.parametrize(
    ("asked", "expected", "text"),
    [
        (pb.GenerateRequest(text="x"), ["c"], "ab"),
        (pb.GenerateRequest(text="x", stop_sequences=["d"]), ["d"], "abc"),
        (pb.GenerateRequest(text="x", generation_config=pb.GenerationConfig(num_beams=2)), [], "abcde"),
    ],
    ids=["a request with none", "one with its own", "a beam search"],
)
async def test_the_models_own_stop_sequences_hold_where_a_request_names_none(
    asked: pb.GenerateRequest, expected: list[str], text: str
) -> None:
    worker = FakeWorker(says("abcde"), runs_freely=True)
    worker.description.default_stop_sequences.append("c")
    async with serving(worker) as served:
        answer = await served.caller.generate(asked)
        (model,) = (await served.caller.models.ListModels(model_pb2.ListModelsRequest())).models

    assert list(answer.receipt.stop_sequences) == expected
    assert answer.candidates[0].text == text
    assert list(model.default_stop_sequences) == ["c"]
