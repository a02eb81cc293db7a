"""What holds for answers of several candidates: in calls, in streams and on the command line."""

import json
from collections.abc import Iterator

import pytest

from client.cli.main import main
from tests.client.callers import Caller
from tests.client.scripted_server import ANSWER, STARTED, Event, Response, ScriptedServer, answering, telling
from textserve.v1 import generation_pb2

Capture = pytest.CaptureFixture[str]


def logprob(token_id: int) -> generation_pb2.TokenLogprob:
    top = [generation_pb2.TopLogprob(token_id=9, logprob=-0.25)]
    return generation_pb2.TokenLogprob(token_id=token_id, logprob=-0.5, rank=2, text_offset=3, top=top)


def candidate(index: int) -> generation_pb2.Candidate:
    return generation_pb2.Candidate(
        candidate_index=index,
        text=f"candidate {index}",
        finish_reason=generation_pb2.FINISH_REASON_LENGTH,
        token_ids=[index, 5],
        logprobs=[logprob(index), logprob(5)],
        seed=7 + index,
    )


SEVERAL = Response(
    candidates=[candidate(index) for index in range(3)],
    usage=ANSWER.usage,
    receipt=ANSWER.receipt,
    prompt_logprobs=[logprob(1), logprob(2), logprob(3)],
)


@pytest.mark.parametrize("answer", [ANSWER, SEVERAL])
def test_a_stream_and_a_call_give_the_same_answer(answer: Response, server: ScriptedServer, caller: Caller) -> None:
    server.answer = answering(answer)
    server.script = telling(*events_of(answer))
    assert caller.read("hi").result == caller.generate("hi")


def events_of(answer: Response) -> Iterator[Event]:
    """The answer as a stream would tell it: the candidates by turns, the last one first to finish."""
    yield STARTED
    for position, of_token in enumerate(answer.prompt_logprobs, start=1):
        yield Event(prompt_logprobs=generation_pb2.StreamPromptLogprobs(position=position, logprobs=[of_token]))
    for part in (slice(0, 1), slice(1, None)):
        for each in answer.candidates:
            yield Event(delta=delta_of(each, part))
    for each in reversed(answer.candidates):
        yield Event(finished=finish_of(each, answer))


def delta_of(candidate: generation_pb2.Candidate, part: slice) -> generation_pb2.StreamDelta:
    return generation_pb2.StreamDelta(
        candidate_index=candidate.candidate_index,
        text=candidate.text[part],
        token_ids=candidate.token_ids[part],
        logprobs=candidate.logprobs[part],
    )


def finish_of(candidate: generation_pb2.Candidate, answer: Response) -> generation_pb2.StreamFinished:
    return generation_pb2.StreamFinished(
        candidate_index=candidate.candidate_index,
        finish_reason=candidate.finish_reason,
        seed=candidate.seed,
        usage=answer.usage,
        timing=answer.timing,
        receipt=answer.receipt,
    )


def test_the_deltas_of_several_candidates_say_whose_they_are(server: ScriptedServer, caller: Caller) -> None:
    server.script = telling(*events_of(SEVERAL))
    texts = [""] * 3
    reading = caller.read("hi")
    for each in reading.deltas:
        texts[each.candidate_index] += each.text
    assert texts == [each.text for each in reading.result.candidates]


@pytest.fixture
def address(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTSERVE_ADDRESS", server.address)


TWO = Response(
    candidates=[
        generation_pb2.Candidate(
            text="one",
            seed=7,
            score=-0.5,
            logprobs=[
                generation_pb2.TokenLogprob(
                    token_id=5, logprob=-0.5, rank=2, top=[generation_pb2.TopLogprob(token_id=9, logprob=-0.25)]
                )
            ],
        ),
        generation_pb2.Candidate(text="two\n", candidate_index=1, seed=8),
    ],
    receipt=generation_pb2.Receipt(
        generation_config=generation_pb2.GenerationConfig(
            logit_bias={5: 1}, early_stopping=generation_pb2.EARLY_STOPPING_NEVER
        )
    ),
)


@pytest.mark.usefixtures("address")
def test_several_candidates_stand_below_their_numbers(server: ScriptedServer, capsys: Capture) -> None:
    server.answer = answering(TWO)
    assert main(["generate", "hi", "-n", "2", "--temperature", "1"]) == 0
    assert capsys.readouterr().out == "[0]\none\n[1]\ntwo\n\n"


@pytest.mark.usefixtures("address")
def test_json_has_every_candidate_and_the_config_that_was_named(server: ScriptedServer, capsys: Capture) -> None:
    server.answer = answering(TWO)
    assert main(["generate", "hi", "-n", "2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [(each["text"], each["seed"], each["score"]) for each in answer["candidates"]] == [
        ("one", 7, -0.5),
        ("two\n", 8, None),
    ]
    assert answer["candidates"][0]["logprobs"] == [
        {"token_id": 5, "logprob": -0.5, "rank": 2, "text_offset": 0, "top": [{"token_id": 9, "logprob": -0.25}]}
    ]
    assert answer["config"] == {"logit_bias": [[5, 1.0]], "early_stopping": "never"}


@pytest.mark.usefixtures("address")
def test_a_stream_of_several_candidates_is_for_json_only(server: ScriptedServer, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["generate", "hi", "-n", "2", "--stream"])
    assert caught.value.code == 2
    assert "--stream prints one candidate" in capsys.readouterr().err
    assert main(["generate", "hi", "-n", "2", "--stream", "--json"]) == 0
    assert main(["generate", "hi", "-n", "1", "--stream"]) == 0
    assert len(server.requests) == 2
