"""Lists that are far too long are refused before anything is made of what they have."""

from collections.abc import Callable

import pytest

from gateway.api.codec import list_violations
from gateway.domain.generation_config import MAX_BAD_WORDS, MAX_LOGIT_BIASES
from gateway.request.prompt_validation import MAX_CHAT_MESSAGES
from gateway.request.validation import MAX_RESUMED_CANDIDATES
from tests.fakes import FakeWorker
from tests.gateway.serving import failing, serving
from textserve.v1 import generation_pb2 as pb

Make = Callable[[int], pb.GenerateRequest]


def chat(count: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(chat=pb.ChatPrompt(messages=[pb.ChatMessage()] * count))


def bad_words(count: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(generation_config=pb.GenerationConfig(bad_words_ids=[pb.TokenSequence()] * count))


def biases(count: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(generation_config=pb.GenerationConfig(logit_bias=dict.fromkeys(range(count), 0.0)))


def candidates(count: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(resume_from=pb.ResumeFrom(candidates=[pb.ResumedCandidate()] * count))


LISTS: dict[str, tuple[Make, int]] = {
    "chat.messages": (chat, MAX_CHAT_MESSAGES),
    "generation_config.bad_words_ids": (bad_words, MAX_BAD_WORDS),
    "generation_config.logit_bias": (biases, MAX_LOGIT_BIASES),
    "resume_from.candidates": (candidates, MAX_RESUMED_CANDIDATES),
}


@pytest.mark.parametrize("field", LISTS)
def test_a_list_may_be_as_long_as_its_limit_and_no_longer(field: str) -> None:
    make, limit = LISTS[field]

    assert list(list_violations(make(limit))) == []
    (violation,) = list_violations(make(limit + 1))
    assert (violation.field, violation.reason) == (field, "OUT_OF_RANGE")


@pytest.mark.parametrize("field", LISTS)
async def test_no_value_is_made_of_a_list_that_is_too_long(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, limit = LISTS[field]
    monkeypatch.delattr("gateway.api.services.read_request")
    async with serving(FakeWorker()) as served:
        failure = await failing(served.caller.generate(make(limit + 1)))

    assert failure.fields == {field}
