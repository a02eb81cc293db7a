"""The edge between protobuf and the engine: what comes in is checked, what goes out is complete."""

from dataclasses import replace
from typing import Any

import pytest

from textserve.internal.v1 import worker_pb2 as pb
from textserve.v1 import generation_pb2
from worker.domain.outcome import TokenLogprob
from worker.domain.sequence import Status
from worker.engine.engine_thread import Emission, Progress, PromptReport, Start
from worker.loading.checkpoint.generation_defaults import GenerationDefaults
from worker.loading.checkpoint.tokenizer_files import TokenizerFiles
from worker.loading.facts import ModelFacts
from worker.scheduling.scheduler import Limits
from worker.service import messages

VOCAB_SIZE = 100


def emission(sequence_id: int, **changes: Any) -> Emission:
    given: dict[str, Any] = {"tokens": (9,)} | changes
    return Emission(owner=0, sequence_id=sequence_id, **given)


def test_a_step_lists_tokens_starts_and_finishes() -> None:
    step = pb.Step()
    messages.add_emissions(
        step,
        17,
        [
            emission(1),
            emission(2, tokens=(8,), start=Start(wait_s=0.25, prefill_s=1.5)),
            emission(3, tokens=(0, 4), finish=Status.FINISHED_EOS, score=-0.5),
            emission(4, tokens=(), finish=Status.FAILED, error="NON_FINITE_LOGITS"),
        ],
    )
    assert (step.step, list(step.sequence_ids), list(step.token_ids)) == (17, [1, 2, 3, 3], [9, 8, 0, 4])
    (start,) = step.starts
    assert (start.sequence_id, start.wait.ToSeconds(), start.wait.nanos) == (2, 0, 250_000_000)
    assert start.prefill.ToMilliseconds() == 1500
    assert list(step.finishes) == [
        pb.SequenceFinish(sequence_id=3, reason=pb.SEQUENCE_FINISH_REASON_END_OF_SEQUENCE, score=-0.5),
        pb.SequenceFinish(sequence_id=4, reason=pb.SEQUENCE_FINISH_REASON_FAILED, error="NON_FINITE_LOGITS"),
    ]


def test_a_step_lists_the_log_probabilities_of_those_who_asked_in_the_order_of_the_tokens() -> None:
    step = pb.Step()
    one, other = TokenLogprob(-0.5, 1, ()), TokenLogprob(-2.0, 3, ((7, -0.25), (8, -1.0)))
    messages.add_emissions(step, 1, [emission(1, logprobs=(one,)), emission(2), emission(3, logprobs=(other,))])
    assert list(step.logprobs) == [
        pb.TokenLogprobs(logprob=-0.5, rank=1),
        pb.TokenLogprobs(logprob=-2.0, rank=3, top_token_ids=[7, 8], top_logprobs=[-0.25, -1.0]),
    ]


def test_the_longest_part_of_a_prompts_log_probabilities_is_under_1_mib() -> None:
    most = TokenLogprob(-12.5, 100_000, tuple((2**17 + n, -13.5) for n in range(20)))
    report = PromptReport(owner=0, sequence_id=2**40, position=2**20, logprobs=[most] * 256)
    assert messages.prompt_logprobs(report).ByteSize() < 2**20


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
    defaults=GenerationDefaults(temperature=0.0, top_k=0, do_sample=False, stop_strings=("END",)),
    eos_token_ids=(1, 2),
    devices=("cpu",),
)
TOKENIZER = TokenizerFiles(
    b"{}",
    "{{ x }}",
    {"bos_token": "<s>"},
    clean_up_tokenization_spaces=True,
    clean_up_bpe=True,
    split_special_tokens=True,
)


def test_a_description_has_every_field_and_the_context_that_memory_holds() -> None:
    limits = Limits(max_rows=8, context_length=1024, pool_tokens=4096, group_tokens=1024)
    described = messages.description(FACTS, limits, TOKENIZER, "me")
    assert {field.name for field, _ in described.ListFields()} == set(described.DESCRIPTOR.fields_by_name)
    assert described.context_length == 1024
    assert described.tokenizer_sha256 == TOKENIZER.sha256


def test_defaults_that_are_zero_are_set_and_those_that_are_unset_are_not() -> None:
    described = messages.description(FACTS, Limits(8, 1024, 4096, 1024), TOKENIZER, "me").generation_defaults
    assert {field.name for field, _ in described.ListFields()} == {"temperature", "top_k", "do_sample"}


def test_every_default_that_a_model_may_set_is_described() -> None:
    defaults = GenerationDefaults(
        bad_words_ids=((5, 6), (7,)),
        logit_bias=((3, -1.5),),
        exponential_decay_length_penalty=(4, 1.5),
        early_stopping="never",
        suppress_tokens=(8, 9),
        forced_eos_token_id=0,
    )
    described = messages.description(replace(FACTS, defaults=defaults), Limits(8, 9, 99, 9), TOKENIZER, "me")
    assert described.generation_defaults == generation_pb2.GenerationConfig(
        bad_words_ids=[generation_pb2.TokenSequence(ids=[5, 6]), generation_pb2.TokenSequence(ids=[7])],
        logit_bias={3: -1.5},
        exponential_decay_length_penalty=generation_pb2.ExponentialDecayLengthPenalty(start_index=4, factor=1.5),
        early_stopping=generation_pb2.EARLY_STOPPING_NEVER,
        suppress_tokens=[8, 9],
        forced_eos_token_id=0,
    )


@pytest.mark.parametrize(("whole", "limit"), [(False, 1024), (True, 128)])
def test_prompts_that_are_read_whole_can_report_as_many_tokens_as_one_chunk(*, whole: bool, limit: int) -> None:
    limits = Limits(8, 1024, 4096, 1024, prefills_whole=whole)
    assert messages.description(FACTS, limits, TOKENIZER, "me").prompt_logprobs_limit == limit


def test_the_tokenizers_first_part_has_every_field() -> None:
    info = messages.tokenizer_info(TOKENIZER)
    assert {field.name for field, _ in info.ListFields()} == set(info.DESCRIPTOR.fields_by_name)
    assert info.size_bytes == 2


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.1, 1.0, 86_400.5])
def test_durations_keep_their_nanoseconds(seconds: float) -> None:
    assert messages.duration(seconds).ToNanoseconds() == pytest.approx(seconds * 1e9, abs=1)
