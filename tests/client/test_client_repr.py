"""What is looked at in a debugger, a notebook or a log is short, and names what matters."""

import dataclasses
from typing import Any

import pytest

from client import AsyncClient, Candidate, Client, Delta, GenerationConfig, Model, ModelLimits, Started
from client._wire.convert import generation_from
from client.types.values import FinishReason, TokenLogprob, TopLogprob
from tests.client.scripted_server import ANSWER, ScriptedServer

LIMITS = ModelLimits(8, 4096, 512)
LONG = "word " * 10_000
IDS = tuple(range(65_536))
LOGPROBS = (TokenLogprob(5, -0.5, 1, 0, tuple(TopLogprob(each, -1.0) for each in range(20))),) * 5_000
GENERATION = generation_from(ANSWER)
CONFIG = GenerationConfig(max_new_tokens=9, temperature=0.0, allowed_token_ids=IDS, logit_bias=((5, 1.0),) * 1024)
CANDIDATE = Candidate(LONG, FinishReason.LENGTH, "", IDS, 7, LOGPROBS)


def test_a_generation_shows_its_text_and_how_it_ended() -> None:
    assert repr(GENERATION) == (
        "Generation(text=', green', finish_reason='end_of_sequence', candidates=1, prompt_tokens=3, output_tokens=2,"
        " model='tutor', seed=7)"
    )


@pytest.mark.parametrize(
    "value",
    [
        dataclasses.replace(GENERATION, candidates=(CANDIDATE,) * 64, config=CONFIG, prompt_token_ids=IDS),
        dataclasses.replace(GENERATION, candidates=()),
        CANDIDATE,
        CONFIG,
        Delta(LONG, IDS, 0, LOGPROBS),
        Started("tutor", 7, 3, IDS),
        LOGPROBS[0],
        Model("tutor", "Llama", 512, 512, "nf4", 0.9, "f00d", CONFIG, frozenset(), LIMITS, IDS, 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_value_fills_the_screen(value: Any) -> None:
    assert repr(value).startswith(f"{type(value).__name__}(")
    assert len(repr(value)) < 1000


def test_a_config_shows_what_is_set_and_zeros_too() -> None:
    assert repr(GenerationConfig()) == "GenerationConfig()"
    assert repr(GenerationConfig(temperature=0.0, ignore_eos=False)) == (
        "GenerationConfig(ignore_eos=False, temperature=0.0)"
    )


def test_a_delta_shows_its_text() -> None:
    assert repr(Delta("a")) == "Delta(text='a')"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_shows_its_address_and_none_of_its_metadata(kind: Any) -> None:
    client = kind("gateway:50051", timeout=5, metadata=[("authorization", "secret")])
    assert repr(client) == f"{kind.__name__}('gateway:50051', timeout=5)"


def test_a_closed_client_says_so() -> None:
    with Client("gateway:50051") as client:
        pass
    assert repr(client) == "Client('gateway:50051', timeout=60, closed)"


async def test_a_closed_asynchronous_client_says_so() -> None:
    async with AsyncClient("gateway:50051") as client:
        pass
    assert repr(client) == "AsyncClient('gateway:50051', timeout=60, closed)"


def test_a_stream_shows_how_far_it_is(server: ScriptedServer) -> None:
    with Client(server.address) as client:
        stream = client.stream("hi")
        assert repr(stream) == "<Stream not started>"
        next(stream)
        assert repr(stream) == "<Stream running: model='tutor' seed=7 characters=2>"
        list(stream)
        assert repr(stream) == "<Stream ended: model='tutor' seed=7 characters=7>"


async def test_an_asynchronous_stream_shows_how_far_it_is(server: ScriptedServer) -> None:
    async with AsyncClient(server.address) as client, client.stream("hi") as stream:
        assert repr(stream) == "<AsyncStream running: model='tutor' seed=7 characters=0>"
