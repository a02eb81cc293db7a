"""Several candidates of one prompt: each with its seed, the best of them if asked for, or those of a beam search."""

from collections.abc import Sequence

import pytest

from gateway.text.stopping import _Automaton
from tests.fake_engine import beam_score, logprob_of
from tests.fakes import FakeWorker, ids, says_each
from tests.gateway.serving import candidates_of, failing, serving, until_tokens
from textserve.internal.v1 import worker_pb2
from textserve.v1 import generation_pb2 as pb


def by_seed(submit: worker_pb2.Submit) -> list[int]:
    """A script that gives every seed a text of its own."""
    return ids(f"{submit.sequences[0].seed}")


def asking(*, seed: int | None = 7, output: pb.OutputOptions | None = None, **config: float) -> pb.GenerateRequest:
    generation_config = pb.GenerationConfig(seed=seed, **config)  # type: ignore[arg-type]
    return pb.GenerateRequest(text="ab", generation_config=generation_config, output_options=output)


def mean_logprob(text: str) -> float:
    tokens = [*ids(text), 1]
    return sum(logprob_of(token).logprob for token in tokens) / len(tokens)


@pytest.mark.parametrize("output", [pb.OutputOptions(), pb.OutputOptions(echo=True, token_ids=True, logprobs=True)])
async def test_a_stream_of_candidates_adds_up_to_the_whole_answer(output: pb.OutputOptions) -> None:
    asked = asking(num_return_sequences=4, temperature=1.0, output=output)
    async with serving(FakeWorker(by_seed, runs_freely=True)) as served:
        whole = await served.caller.generate(asked)
        streamed = await served.caller.stream(asked)

    assert candidates_of(streamed) == list(whole.candidates)
    assert [candidate.candidate_index for candidate in whole.candidates] == [0, 1, 2, 3]
    prompt = "ab" if output.echo else ""
    assert [candidate.text for candidate in whole.candidates] == [f"{prompt}{each.seed}" for each in whole.candidates]
    assert not any(candidate.HasField("score") for candidate in whole.candidates)
    assert streamed[-1].finished.usage == whole.usage
    assert whole.usage.output_token_count == sum(len(f"{each.seed}") + 1 for each in whole.candidates)


async def test_candidates_share_one_submission_and_have_their_own_seeds() -> None:
    async with serving(FakeWorker(by_seed, runs_freely=True)) as served:
        answer = await served.caller.generate(asking(num_return_sequences=3, temperature=1.0))

        (submit,) = served.worker.submits
    seeds = [candidate.seed for candidate in answer.candidates]
    assert seeds[0] == answer.receipt.seed == 7
    assert len(set(seeds)) == 3
    assert [sequence.seed for sequence in submit.sequences] == seeds
    assert not submit.logprobs


async def test_a_candidates_seed_alone_gives_the_same_candidate() -> None:
    async with serving(FakeWorker(by_seed, runs_freely=True)) as served:
        answer = await served.caller.generate(asking(num_return_sequences=3, temperature=1.0))
        alone = [
            (await served.caller.generate(asking(seed=candidate.seed, temperature=1.0))).candidates[0].text
            for candidate in answer.candidates
        ]

    assert alone == [candidate.text for candidate in answer.candidates]


async def test_candidates_that_end_at_different_times_all_come_to_their_end() -> None:
    asked = asking(num_return_sequences=3, temperature=1.0)
    async with serving(FakeWorker(says_each("long text", "x", "end"))) as served:
        call = served.caller.generation.Generate(asked)
        await served.worker.until(lambda: served.worker.row_count == 3)
        served.worker.step(10)

        answer = await call
        await served.nothing_runs()

    assert [candidate.text for candidate in answer.candidates] == ["long text", "x", "end"]


async def test_characters_of_candidates_that_come_in_turns_do_not_mix() -> None:
    asked = asking(num_return_sequences=3, temperature=1.0)
    async with serving(FakeWorker(says_each("é汉字", "汉é字", "aéa汉"), runs_freely=True)) as served:
        answer = await served.caller.generate(asked)

    assert [candidate.text for candidate in answer.candidates] == ["é汉字", "汉é字", "aéa汉"]


async def test_a_stop_sequence_ends_its_candidate_only() -> None:
    asked = asking(num_return_sequences=2, temperature=1.0)
    asked.stop_sequences.append("b")
    async with serving(FakeWorker(says_each("abc", "cde"), runs_freely=True)) as served:
        answer = await served.caller.generate(asked)
        await served.nothing_runs()

    assert [(candidate.text, candidate.finish_reason) for candidate in answer.candidates] == [
        ("a", pb.FINISH_REASON_STOP_SEQUENCE),
        ("cde", pb.FINISH_REASON_END_OF_SEQUENCE),
    ]


async def test_best_of_returns_those_with_the_highest_mean_log_probability() -> None:
    texts = ["aaaa", "bb", "c", "dddddd", "zz"]
    asked = asking(num_return_sequences=2, best_of=5, temperature=1.0)
    async with serving(FakeWorker(says_each(*texts), runs_freely=True)) as served:
        answer = await served.caller.generate(asked)

        (submit,) = served.worker.submits
    ranked = sorted(texts, key=mean_logprob, reverse=True)
    assert [candidate.text for candidate in answer.candidates] == ranked[:2]
    assert [candidate.candidate_index for candidate in answer.candidates] == [0, 1]
    assert [candidate.score for candidate in answer.candidates] == [mean_logprob(text) for text in ranked[:2]]
    assert answer.usage.output_token_count == sum(len(ids(text)) + 1 for text in texts)
    assert submit.logprobs
    assert not any(candidate.logprobs for candidate in answer.candidates)


async def test_the_receipt_of_best_of_gives_the_same_answer_again() -> None:
    async with serving(FakeWorker(by_seed, runs_freely=True)) as served:
        answer = await served.caller.generate(asking(num_return_sequences=2, best_of=5, temperature=1.0))
        again = pb.GenerateRequest(text="ab", generation_config=answer.receipt.generation_config)

        assert (await served.caller.generate(again)).candidates == answer.candidates


async def test_beams_are_submitted_together_and_come_with_their_scores() -> None:
    asked = asking(num_beams=4, num_return_sequences=2, length_penalty=0.5)
    async with serving(FakeWorker(says_each("best", "second"), runs_freely=True)) as served:
        answer = await served.caller.generate(asked)
        await served.nothing_runs()

        (submit,) = served.worker.submits
    assert [candidate.text for candidate in answer.candidates] == ["best", "second"]
    assert [candidate.score for candidate in answer.candidates] == [beam_score(0), beam_score(1)]
    assert len(submit.sequences) == 2
    assert submit.generation_config.num_beams == 4
    assert not submit.generation_config.do_sample
    assert not answer.receipt.generation_config.HasField("best_of")


async def test_beams_wait_until_there_is_room_for_all_of_them() -> None:
    async with serving(FakeWorker(rows=4)) as served:
        first = served.caller.generation.StreamGenerate(asking(max_new_tokens=2))
        await served.worker.until(lambda: served.worker.row_count == 1)
        search = served.caller.generation.Generate(asking(num_beams=4, max_new_tokens=2))
        await served.worker.until(lambda: served.worker.demand == 4)
        assert len(served.worker.submits) == 1

        served.worker.step(2)
        await served.worker.until(lambda: len(served.worker.submits) == 2)
        served.worker.step()

        assert (await search).candidates[0].text == "ab"
        first.cancel()


async def test_more_rows_than_the_smallest_worker_has_are_refused_with_both_numbers() -> None:
    async with serving(FakeWorker(rows=8), FakeWorker(rows=4)) as served:
        await served.workers[1].until(lambda: bool(served.workers[1].streams))
        failure = await failing(served.caller.generate(asking(num_return_sequences=5, temperature=1.0)))

    assert failure.reason == "TOO_MANY_ROWS"
    assert "5 rows" in failure.message
    assert "4" in failure.message


async def test_candidates_whose_worker_is_lost_go_on_elsewhere_behind_their_last_tokens() -> None:
    output = pb.OutputOptions(token_ids=True, logprobs=True, prompt_logprobs=True)
    asked = asking(num_return_sequences=2, temperature=1.0, output=output)
    async with serving(FakeWorker(by_seed, runs_freely=True)) as served:
        undisturbed = await served.caller.generate(asked)
    async with serving(FakeWorker(by_seed), FakeWorker(by_seed)) as served:
        lost, other = served.workers
        messages = aiter(served.caller.generation.StreamGenerate(asked))
        await lost.until(lambda: lost.row_count == 2)
        # The first candidate, "7" and an end, is over with this; the second one is not.
        lost.step(3)
        received = await until_tokens(messages, 5)
        await lost.die()
        await other.until(lambda: other.row_count == 1)
        other.step(20)
        received += [message async for message in messages]

    (submit,) = other.submits
    (resumed,) = submit.sequences
    assert list(resumed.output_token_ids) == ids(f"{undisturbed.candidates[1].seed}")[:3]
    assert not submit.prompt_logprobs
    assert candidates_of(received) == list(undisturbed.candidates)
    parts = [message.prompt_logprobs for message in received if message.HasField("prompt_logprobs")]
    assert [each for part in parts for each in part.logprobs] == list(undisturbed.prompt_logprobs)
    receipt = received[-1].finished.receipt
    assert (receipt.worker, receipt.attempt_count, undisturbed.receipt.attempt_count) == ("worker-1", 2, 1)


async def test_a_beam_search_whose_worker_is_lost_begins_again() -> None:
    asked = asking(num_beams=4)
    async with serving(FakeWorker(by_seed), FakeWorker(by_seed)) as served:
        lost, other = served.workers
        call = served.caller.generation.Generate(asked)
        await lost.until(lambda: lost.row_count == 1)
        await lost.die()
        await other.until(lambda: other.row_count == 1)
        other.step()

        assert (await call).candidates[0].text == "7"
    assert not other.submits[0].sequences[0].output_token_ids


async def test_stop_sequences_are_prepared_once_for_all_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[Sequence[str]] = []
    prepare = _Automaton.__init__

    def counted(automaton: _Automaton, stop_sequences: Sequence[str]) -> None:
        prepared.append(stop_sequences)
        prepare(automaton, stop_sequences)

    monkeypatch.setattr(_Automaton, "__init__", counted)
    asked = asking(num_return_sequences=4, temperature=1.0)
    asked.stop_sequences.extend(["1", "5"])
    async with serving(FakeWorker(by_seed, runs_freely=True)) as served:
        answer = await served.caller.generate(asked)

    assert prepared == [("1", "5")]
    for candidate in answer.candidates:
        digits = str(candidate.seed)
        first = next((digit for digit in digits if digit in "15"), "")
        assert (candidate.text, candidate.stop_sequence) == (digits.partition(first)[0] if first else digits, first)
