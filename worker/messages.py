"""Between protobuf and the engine's own objects. The messages of the API go no deeper than this."""

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from textserve.internal.v1 import worker_pb2 as pb
from textserve.v1 import generation_pb2

from .engine_thread import Emission, Progress
from .facts import GenerationDefaults, ModelFacts
from .scheduler import Limits
from .sequence import SamplingParameters, Sequence, Status
from .tokenizer_files import TokenizerFiles

_FINISH_REASONS = {
    Status.FINISHED_EOS: pb.SEQUENCE_FINISH_REASON_END_OF_SEQUENCE,
    Status.FINISHED_LENGTH: pb.SEQUENCE_FINISH_REASON_LENGTH,
    Status.FAILED: pb.SEQUENCE_FINISH_REASON_FAILED,
}


def duration(seconds: float) -> Duration:
    """Returns seconds as a protobuf duration."""
    message = Duration()
    message.FromNanoseconds(int(seconds * 1e9))
    return message


def sequence(submit: pb.Submit, *, owner: int, vocab_size: int) -> Sequence:
    """Returns what a submission asks for.

    Raises ValueError if the gateway sent what the engine could not survive. Gateways validate what callers send; this
    only keeps a faulty one from harming the others.
    """
    if len(submit.sequences) != 1:
        raise ValueError(f"{len(submit.sequences)} sequences in one submission")
    prompt = list(submit.prompt_token_ids)
    if not prompt or min(prompt) < 0 or max(prompt) >= vocab_size:
        raise ValueError("no prompt, or token ids out of range")
    (candidate,) = submit.sequences
    config = submit.generation_config
    if config.max_new_tokens < 1 or config.top_k < 0 or candidate.seed < 0:
        raise ValueError("max_new_tokens, top_k or seed out of range")
    # Written so that NaN fails: a comparison with it is false.
    if not (0 < config.temperature <= 100 or not config.do_sample) or not 0 < config.repetition_penalty <= 100:
        raise ValueError("temperature or repetition_penalty out of range")
    if not 0 < config.top_p <= 1 or not 0 <= config.min_p <= 1:
        raise ValueError("top_p or min_p out of range")
    return Sequence(candidate.sequence_id, prompt, _parameters(config, candidate.seed), owner)


def _parameters(config: generation_pb2.GenerationConfig, seed: int) -> SamplingParameters:
    return SamplingParameters(
        max_new_tokens=config.max_new_tokens,
        do_sample=config.do_sample,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
        repetition_penalty=config.repetition_penalty,
        seed=seed,
    )


def add_emissions(step: pb.Step, number: int, emissions: Iterable[Emission]) -> None:
    """Appends what an engine step made to a message, which may hold earlier steps already."""
    step.step = number
    for emission in emissions:
        if emission.token is not None:
            step.sequence_ids.append(emission.sequence_id)
            step.token_ids.append(emission.token)
        if emission.start is not None:
            step.starts.add(
                sequence_id=emission.sequence_id,
                wait=duration(emission.start.wait_s),
                prefill=duration(emission.start.prefill_s),
            )
        if emission.finish is not None:
            reason = _FINISH_REASONS[emission.finish]
            step.finishes.add(sequence_id=emission.sequence_id, reason=reason, error=emission.error)


def failure(sequence_id: int, error: str) -> pb.SequenceFinish:
    """Returns the end of a sequence that was never run."""
    return pb.SequenceFinish(sequence_id=sequence_id, reason=pb.SEQUENCE_FINISH_REASON_FAILED, error=error)


def heartbeat(progress: Progress, incarnation_id: str, now: float) -> pb.RunResponse:
    """Returns the engine's state as a heartbeat."""
    beat = pb.Heartbeat(incarnation_id=incarnation_id, step=progress.step)
    if progress.began_at is not None:
        beat.step_limit.CopyFrom(duration(progress.limit_s))
        beat.step_elapsed.CopyFrom(duration(max(0.0, now - progress.began_at)))
    return pb.RunResponse(heartbeat=beat)


def description(
    facts: ModelFacts, limits: Limits, tokenizer: TokenizerFiles, incarnation_id: str
) -> pb.DescribeResponse:
    """Returns the answer to Describe."""
    return pb.DescribeResponse(
        model=facts.name,
        architecture=facts.architecture,
        context_length=limits.context_length,
        vocab_size=facts.vocab_size,
        quantization=facts.quantization,
        quantized_share=facts.quantized_share,
        fingerprint=facts.fingerprint,
        generation_defaults=_defaults(facts.defaults),
        eos_token_ids=facts.eos_token_ids,
        max_rows=limits.max_rows,
        incarnation_id=incarnation_id,
        devices=facts.devices,
        tokenizer_sha256=tokenizer.sha256,
    )


def _defaults(defaults: GenerationDefaults) -> generation_pb2.GenerationConfig:
    return generation_pb2.GenerationConfig(
        max_new_tokens=defaults.max_new_tokens,
        do_sample=defaults.do_sample,
        temperature=defaults.temperature,
        top_k=defaults.top_k,
        top_p=defaults.top_p,
        min_p=defaults.min_p,
        repetition_penalty=defaults.repetition_penalty,
    )


def tokenizer_info(tokenizer: TokenizerFiles) -> pb.TokenizerInfo:
    """Returns the first part of the answer to GetTokenizer."""
    return pb.TokenizerInfo(
        sha256=tokenizer.sha256,
        size_bytes=len(tokenizer.serialized),
        chat_template=tokenizer.chat_template,
        special_tokens=tokenizer.special_tokens,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
    )
