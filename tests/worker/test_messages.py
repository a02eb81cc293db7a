"""The edge between protobuf and the engine: what comes in is checked, what goes out is complete."""

import math
from typing import Any

import pytest

from textserve.internal.v1 import worker_pb2 as pb
from textserve.v1 import generation_pb2
from worker import messages
from worker.engine_thread import Emission, Progress, Start
from worker.facts import GenerationDefaults, ModelFacts
from worker.scheduler import Limits
from worker.sequence import SamplingParameters, Status
from worker.tokenizer_files import TokenizerFiles

VOCAB_SIZE = 100
CONFIG: dict[str, Any] = {
    "max_new_tokens": 5,
    "do_sample": True,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.9,
    "min_p": 0.25,
    "repetition_penalty": 1.5,
}
NAN, INF = math.nan, math.inf


def submit(*, prompt: list[int] | None = None, seed: int = 7, candidates: int = 1, **changes: Any) -> pb.Submit:
    return pb.Submit(
        sequences=[pb.SubmittedSequence(sequence_id=40 + n, seed=seed) for n in range(candidates)],
        prompt_token_ids=[5, 6] if prompt is None else prompt,
        generation_config=generation_pb2.GenerationConfig(**(CONFIG | changes)),
    )


def test_a_submission_becomes_a_sequence_with_every_parameter() -> None:
    sequence = messages.sequence(submit(), owner=3, vocab_size=VOCAB_SIZE)
    assert (sequence.sequence_id, sequence.owner, sequence.prompt) == (40, 3, [5, 6])
    assert sequence.parameters == SamplingParameters(**CONFIG, seed=7)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": [0, VOCAB_SIZE - 1]},
        {"seed": 0},
        {"seed": 2**63 - 1},
        {"max_new_tokens": 2**31 - 1},
        {"top_k": 0},
        {"top_k": 2**31 - 1},
        {"top_p": 1.0},
        {"top_p": 1e-9},
        {"min_p": 0.0},
        {"min_p": 1.0},
        {"temperature": 1e-9},
        {"temperature": 0.0, "do_sample": False},
        {"repetition_penalty": 1e-3},
    ],
    ids=str,
)
def test_the_ends_of_each_range_are_taken(changes: dict[str, Any]) -> None:
    messages.sequence(submit(**changes), owner=0, vocab_size=VOCAB_SIZE)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": []},
        {"prompt": [5, -1]},
        {"prompt": [5, VOCAB_SIZE]},
        {"candidates": 0},
        {"candidates": 2},
        {"seed": -1},
        {"max_new_tokens": 0},
        {"max_new_tokens": -1},
        {"top_k": -1},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": NAN},
        {"temperature": INF},
        {"top_p": 0.0},
        {"top_p": -0.5},
        {"top_p": 1.1},
        {"top_p": NAN},
        {"top_p": INF},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"min_p": NAN},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": -1.0},
        {"repetition_penalty": NAN},
        {"repetition_penalty": INF},
    ],
    ids=str,
)
def test_what_is_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        messages.sequence(submit(**changes), owner=0, vocab_size=VOCAB_SIZE)


@pytest.mark.parametrize("name", CONFIG)
def test_a_submission_that_lacks_a_parameter_whose_zero_is_out_of_range_is_refused(name: str) -> None:
    message = submit()
    message.generation_config.ClearField(name)  # type: ignore[arg-type] # the name of a field
    if name in {"do_sample", "top_k", "min_p"}:
        messages.sequence(message, owner=0, vocab_size=VOCAB_SIZE)
        return
    with pytest.raises(ValueError, match=name):
        messages.sequence(message, owner=0, vocab_size=VOCAB_SIZE)


def emission(sequence_id: int, **changes: Any) -> Emission:
    given: dict[str, Any] = {"token": 9, "start": None, "finish": None, "error": ""}
    return Emission(owner=0, sequence_id=sequence_id, **(given | changes))


def test_a_step_lists_tokens_starts_and_finishes() -> None:
    step = pb.Step()
    messages.add_emissions(
        step,
        17,
        [
            emission(1),
            emission(2, token=8, start=Start(wait_s=0.25, prefill_s=1.5)),
            emission(3, token=0, finish=Status.FINISHED_EOS),
            emission(4, token=None, finish=Status.FAILED, error="NON_FINITE_LOGITS"),
        ],
    )
    assert (step.step, list(step.sequence_ids), list(step.token_ids)) == (17, [1, 2, 3], [9, 8, 0])
    (start,) = step.starts
    assert (start.sequence_id, start.wait.ToSeconds(), start.wait.nanos) == (2, 0, 250_000_000)
    assert start.prefill.ToMilliseconds() == 1500
    assert list(step.finishes) == [
        pb.SequenceFinish(sequence_id=3, reason=pb.SEQUENCE_FINISH_REASON_END_OF_SEQUENCE),
        pb.SequenceFinish(sequence_id=4, reason=pb.SEQUENCE_FINISH_REASON_FAILED, error="NON_FINITE_LOGITS"),
    ]


def test_every_end_but_a_cancel_has_a_reason_of_its_own() -> None:
    ends = [status for status in Status if status >= Status.FINISHED_EOS and status is not Status.CANCELLED]
    step = pb.Step()
    messages.add_emissions(step, 1, [emission(n, finish=status) for n, status in enumerate(ends)])
    reasons = {finish.reason for finish in step.finishes}
    assert len(reasons) == len(ends)
    assert pb.SEQUENCE_FINISH_REASON_UNSPECIFIED not in reasons


def test_a_heartbeat_of_a_busy_engine_carries_limit_and_elapsed_time() -> None:
    beat = messages.heartbeat(Progress(5, began_at=100.0, limit_s=3.0), "me", now=100.5).heartbeat
    assert (beat.step, beat.incarnation_id) == (5, "me")
    assert (beat.step_limit.ToMilliseconds(), beat.step_elapsed.ToMilliseconds()) == (3000, 500)


def test_a_heartbeat_of_an_idle_engine_carries_neither() -> None:
    beat = messages.heartbeat(Progress(5), "me", now=100.5).heartbeat
    assert beat.step == 5
    assert (beat.step_limit.ToNanoseconds(), beat.step_elapsed.ToNanoseconds()) == (0, 0)


FACTS = ModelFacts(
    name="tiny",
    architecture="LlamaForCausalLM",
    context_length=4096,
    vocab_size=VOCAB_SIZE,
    quantization="nf4",
    quantized_share=0.75,
    fingerprint="00ff",
    defaults=GenerationDefaults(temperature=0.0, top_k=0, do_sample=False),
    eos_token_ids=(1, 2),
    devices=("cpu",),
)
TOKENIZER = TokenizerFiles(b"{}", "{{ x }}", {"bos_token": "<s>"}, clean_up_tokenization_spaces=True)


def test_a_description_has_every_field_and_the_context_that_memory_holds() -> None:
    limits = Limits(max_rows=8, context_length=1024, group_tokens=1024)
    described = messages.description(FACTS, limits, TOKENIZER, "me")
    assert {field.name for field, _ in described.ListFields()} == set(described.DESCRIPTOR.fields_by_name)
    assert described.context_length == 1024
    assert described.tokenizer_sha256 == TOKENIZER.sha256


def test_defaults_that_are_zero_are_set_and_those_that_are_unset_are_not() -> None:
    described = messages.description(FACTS, Limits(8, 1024, 1024), TOKENIZER, "me").generation_defaults
    assert {field.name for field, _ in described.ListFields()} == {"temperature", "top_k", "do_sample"}


def test_the_tokenizers_first_part_has_every_field() -> None:
    info = messages.tokenizer_info(TOKENIZER)
    assert {field.name for field, _ in info.ListFields()} == set(info.DESCRIPTOR.fields_by_name)
    assert info.size_bytes == 2


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.1, 1.0, 86_400.5])
def test_durations_keep_their_nanoseconds(seconds: float) -> None:
    assert messages.duration(seconds).ToNanoseconds() == pytest.approx(seconds * 1e9, abs=1)
