"""Messages of the server become values without loss."""

import pytest
from google.protobuf.duration_pb2 import Duration

from client import (
    Candidate,
    Delta,
    FinishReason,
    Generation,
    GenerationConfig,
    Model,
    ModelCapability,
    ModelLimits,
    ServerError,
    Timing,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from client._wire.convert import event_from, generation_from, models_from
from client.types.events import PromptLogprobs
from tests.client.scripted_server import ANSWER, RECEIPT, Event, Response
from textserve.v1 import generation_pb2, model_pb2

LOGPROB = generation_pb2.TokenLogprob(
    token_id=5, logprob=-0.5, rank=2, text_offset=3, top=[generation_pb2.TopLogprob(token_id=9, logprob=-0.25)]
)
TOKEN_LOGPROB = TokenLogprob(5, -0.5, 2, 3, (TopLogprob(9, -0.25),))


def test_a_zero_is_told_from_nothing_in_a_config() -> None:
    config = generation_from(ANSWER).config
    assert config == GenerationConfig(max_new_tokens=256, temperature=0.0)
    assert config.top_k is None


def test_a_finish_reason_of_a_newer_server_is_unknown() -> None:
    candidate = generation_pb2.Candidate.FromString(b"\x18\x63")  # finish_reason: 99
    assert generation_from(Response(candidates=[candidate])).finish_reason is FinishReason.UNKNOWN


def test_an_event_of_a_newer_server_is_none() -> None:
    assert event_from(Event.FromString(b"\xa2\x06\x00")) is None  # field 100


def test_an_answer_is_converted_whole() -> None:
    response = Response(
        candidates=[
            generation_pb2.Candidate(
                text="one",
                finish_reason=generation_pb2.FINISH_REASON_STOP_SEQUENCE,
                stop_sequence="END",
                token_ids=[4, 5],
                logprobs=[LOGPROB, LOGPROB],
                seed=7,
                score=0,
            ),
            generation_pb2.Candidate(
                text="two", candidate_index=1, finish_reason=generation_pb2.FINISH_REASON_LENGTH, seed=8
            ),
        ],
        usage=generation_pb2.Usage(prompt_token_count=3, output_token_count=4),
        timing=generation_pb2.Timing(
            queue=Duration(nanos=1_000_000), prefill=Duration(seconds=1), decode=Duration(seconds=2, nanos=500_000_000)
        ),
        receipt=RECEIPT,
        prompt_token_ids=[1, 2, 3],
        prompt_logprobs=[LOGPROB],
    )
    generation = generation_from(response)
    assert generation == Generation(
        candidates=(
            Candidate("one", FinishReason.STOP_SEQUENCE, "END", (4, 5), 7, (TOKEN_LOGPROB, TOKEN_LOGPROB), 0.0),
            Candidate("two", FinishReason.LENGTH, "", (), 8),
        ),
        usage=Usage(3, 4),
        timing=Timing(queue=0.001, prefill=1.0, decode=2.5, time_to_first_token=0.0),
        model="tutor",
        fingerprint="f00d",
        seed=7,
        config=GenerationConfig(max_new_tokens=256, temperature=0.0),
        worker="worker-0",
        attempt_count=1,
        server_request_id="00c0ffee00c0ffee",
        prompt_token_ids=(1, 2, 3),
        prompt_logprobs=(TOKEN_LOGPROB,),
    )
    # Its shortcuts are those of the first candidate.
    assert (generation.text, generation.finish_reason) == ("one", FinishReason.STOP_SEQUENCE)
    assert (generation.stop_sequence, generation.token_ids) == ("END", (4, 5))


def test_an_answer_without_a_candidate_is_the_servers_fault() -> None:
    with pytest.raises(ServerError, match="no candidate"):
        generation_from(Response())


def test_a_delta_is_converted_whole() -> None:
    message = generation_pb2.StreamDelta(text="né", token_ids=[1, 2], candidate_index=1, logprobs=[LOGPROB])
    assert len(message.ListFields()) == len(message.DESCRIPTOR.fields)
    assert event_from(Event(delta=message)) == Delta("né", (1, 2), 1, (TOKEN_LOGPROB,))


def test_log_probabilities_of_the_prompt_keep_their_position() -> None:
    message = generation_pb2.StreamPromptLogprobs(position=9, logprobs=[LOGPROB])
    assert event_from(Event(prompt_logprobs=message)) == PromptLogprobs(9, (TOKEN_LOGPROB,))


def test_a_score_of_zero_is_told_from_none() -> None:
    scored = Response(candidates=[generation_pb2.Candidate(score=0), generation_pb2.Candidate()])
    assert [each.score for each in generation_from(scored).candidates] == [0.0, None]


def test_an_early_stopping_of_a_newer_server_is_none() -> None:
    config = generation_pb2.GenerationConfig.FromString(b"\xb8\x01\x63")  # early_stopping: 99
    receipt = generation_pb2.Receipt(generation_config=config)
    answer = generation_from(Response(candidates=[generation_pb2.Candidate()], receipt=receipt))
    assert answer.config == GenerationConfig()


def test_models_are_converted_whole() -> None:
    message = model_pb2.Model(
        name="tutor",
        architecture="LlamaForCausalLM",
        context_length=512,
        vocab_size=2048,
        quantization="nf4",
        quantized_share=0.75,
        fingerprint="f00d",
        default_generation_config=generation_pb2.GenerationConfig(do_sample=False),
        capabilities=[model_pb2.MODEL_CAPABILITY_CHAT],
        eos_token_ids=[0, 2],
        ready_worker_count=2,
        default_stop_sequences=["END"],
        limits=model_pb2.ModelLimits(
            max_sequence_count=8, max_beam_token_count=4096, max_prompt_logprobs_token_count=512
        ),
    )
    assert len(message.ListFields()) == len(model_pb2.Model.DESCRIPTOR.fields)
    assert models_from(model_pb2.ListModelsResponse(models=[message])) == [
        Model(
            "tutor",
            "LlamaForCausalLM",
            512,
            2048,
            "nf4",
            0.75,
            "f00d",
            GenerationConfig(do_sample=False),
            capabilities=frozenset({ModelCapability.CHAT}),
            limits=ModelLimits(8, 4096, 512),
            eos_token_ids=(0, 2),
            ready_worker_count=2,
            default_stop_sequences=("END",),
        )
    ]
