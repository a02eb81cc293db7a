"""Between protobuf and the engine's own objects. The messages of the API go no deeper than this."""

from collections.abc import Iterable
from dataclasses import asdict

from google.protobuf.duration_pb2 import Duration

from textserve.internal.v1 import worker_pb2 as pb
from textserve.v1 import generation_pb2

from ..domain.outcome import TokenLogprob
from ..domain.sequence import Status
from ..engine.engine_thread import Emission, Progress, PromptReport
from ..loading.checkpoint.generation_defaults import GenerationDefaults
from ..loading.checkpoint.tokenizer_files import TokenizerFiles
from ..loading.facts import ModelFacts
from ..scheduling.scheduler import Limits

_FINISH_REASONS = {
    Status.FINISHED_EOS: pb.SEQUENCE_FINISH_REASON_END_OF_SEQUENCE,
    Status.FINISHED_STOP_TOKEN: pb.SEQUENCE_FINISH_REASON_STOP_TOKEN,
    Status.FINISHED_LENGTH: pb.SEQUENCE_FINISH_REASON_LENGTH,
    Status.FAILED: pb.SEQUENCE_FINISH_REASON_FAILED,
}

_EARLY_STOPPING: dict[bool | str, generation_pb2.EarlyStopping.ValueType] = {
    False: generation_pb2.EARLY_STOPPING_HEURISTIC,
    True: generation_pb2.EARLY_STOPPING_FIRST,
    "never": generation_pb2.EARLY_STOPPING_NEVER,
}


def duration(seconds: float) -> Duration:
    """Returns seconds as a protobuf duration."""
    message = Duration()
    message.FromNanoseconds(int(seconds * 1e9))
    return message


def add_emissions(step: pb.Step, number: int, emissions: Iterable[Emission]) -> None:
    """Appends what an engine step made to a message, which may hold earlier steps already."""
    step.step = number
    for emission in emissions:
        step.sequence_ids.extend([emission.sequence_id] * len(emission.tokens))
        step.token_ids.extend(emission.tokens)
        step.logprobs.extend(map(_token_logprobs, emission.logprobs))
        if emission.start is not None:
            step.starts.add(
                sequence_id=emission.sequence_id,
                wait=duration(emission.start.wait_s),
                prefill=duration(emission.start.prefill_s),
            )
        if emission.finish is not None:
            reason = _FINISH_REASONS[emission.finish]
            step.finishes.add(
                sequence_id=emission.sequence_id, reason=reason, error=emission.error, score=emission.score
            )


def prompt_logprobs(report: PromptReport) -> pb.RunResponse:
    """Returns the log-probabilities of a part of a prompt."""
    entries = [_token_logprobs(logprob) for logprob in report.logprobs]
    return pb.RunResponse(
        prompt_logprobs=pb.PromptLogprobs(sequence_id=report.sequence_id, position=report.position, logprobs=entries)
    )


def _token_logprobs(logprob: TokenLogprob) -> pb.TokenLogprobs:
    return pb.TokenLogprobs(
        logprob=logprob.logprob,
        rank=logprob.rank,
        top_token_ids=[token for token, _ in logprob.top],
        top_logprobs=[value for _, value in logprob.top],
    )


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
        prompt_logprobs_limit=limits.logprob_chunk_tokens if limits.prefills_whole else limits.context_length,
        pool_tokens=limits.pool_tokens,
        default_stop_sequences=facts.defaults.stop_strings or (),
    )


def _defaults(defaults: GenerationDefaults) -> generation_pb2.GenerationConfig:
    config = generation_pb2.GenerationConfig()
    for name, value in asdict(defaults).items():
        match name, value:
            case ("stop_strings", _) | (_, None):
                pass  # those are no parameter of the API: texts are no business of the worker's engine
            case "bad_words_ids", words:
                config.bad_words_ids.extend(generation_pb2.TokenSequence(ids=ids) for ids in words)
            case "logit_bias", bias:
                config.logit_bias.update(bias)
            case "exponential_decay_length_penalty", (start_index, factor):
                config.exponential_decay_length_penalty.start_index = start_index
                config.exponential_decay_length_penalty.factor = factor
            case "early_stopping", choice:
                config.early_stopping = _EARLY_STOPPING[choice]
            case _, tuple(ids):
                getattr(config, name).extend(ids)
            case _:
                setattr(config, name, value)
    return config


def tokenizer_info(tokenizer: TokenizerFiles) -> pb.TokenizerInfo:
    """Returns the first part of the answer to GetTokenizer."""
    return pb.TokenizerInfo(
        sha256=tokenizer.sha256,
        size_bytes=len(tokenizer.serialized),
        chat_template=tokenizer.chat_template,
        special_tokens=tokenizer.special_tokens,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
        clean_up_bpe=tokenizer.clean_up_bpe,
        split_special_tokens=tokenizer.split_special_tokens,
    )
