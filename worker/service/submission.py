"""Reads a submission: what one generation asks of the engine.

Gateways validate what callers send, field by field; the checks here only keep a faulty gateway from harming the other
ones' sequences.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from textserve.internal.v1 import worker_pb2 as pb
from textserve.v1 import generation_pb2

from ..domain.sequence import Beams, EarlyStopping, Root, SamplingParameters, Sequence

_EARLY_STOPPING = {
    generation_pb2.EARLY_STOPPING_UNSPECIFIED: EarlyStopping.HEURISTIC,
    generation_pb2.EARLY_STOPPING_HEURISTIC: EarlyStopping.HEURISTIC,
    generation_pb2.EARLY_STOPPING_FIRST: EarlyStopping.FIRST,
    generation_pb2.EARLY_STOPPING_NEVER: EarlyStopping.NEVER,
}
_MOST_PRIORITY = 2
# Written so that NaN fails: a comparison with it is false.
_RANGES: dict[str, Callable[[float], bool]] = {
    "max_new_tokens": lambda value: value >= 1,
    "min_new_tokens": lambda value: value >= 0,
    "top_k": lambda value: value >= 0,
    "top_p": lambda value: 0 < value <= 1,
    "min_p": lambda value: 0 <= value <= 1,
    "typical_p": lambda value: 0 < value <= 1,
    "epsilon_cutoff": lambda value: 0 <= value < 1,
    "repetition_penalty": lambda value: 0 < value <= 100,
    "presence_penalty": lambda value: -100 <= value <= 100,
    "frequency_penalty": lambda value: -100 <= value <= 100,
    "no_repeat_ngram_size": lambda value: value >= 0,
    "length_penalty": lambda value: -100 <= value <= 100,
}


def roots(submit: pb.Submit, *, owner: int, vocab_size: int, eos_token_ids: Iterable[int], max_rows: int) -> list[Root]:
    """Returns the rows to prefill: one for the prompt, and one for each sequence that goes on from tokens of its own.

    Raises ValueError if the gateway sent what the engine could not survive.
    """
    config = submit.generation_config
    _check(submit, vocab_size)
    prompt = list(submit.prompt_token_ids)
    parameters = _parameters(submit, frozenset() if config.ignore_eos else frozenset(eos_token_ids))
    sequences = [
        Sequence(
            sequence_id=each.sequence_id,
            prompt=prompt,
            parameters=replace(parameters, seed=each.seed),
            owner=owner,
            output=list(each.output_token_ids),
            priority=submit.priority,
        )
        for each in submit.sequences
    ]
    reporting = submit.top_logprobs if submit.prompt_logprobs else None
    if config.num_beams > 1:
        return [Root(prompt, _beams(config, sequences, max_rows).rows(), reporting)]
    return _roots(prompt, sequences, reporting)


def _roots(prompt: list[int], sequences: list[Sequence], reporting: int | None) -> list[Root]:
    fresh = [sequence for sequence in sequences if not sequence.output]
    begun = [Root(prompt + sequence.output, [sequence]) for sequence in sequences if sequence.output]
    found = [Root(prompt, fresh), *begun] if fresh else begun
    found[0].prompt_logprobs = reporting
    return found


def _beams(config: generation_pb2.GenerationConfig, candidates: list[Sequence], max_rows: int) -> Beams:
    if config.num_beams > max_rows or len(candidates) > config.num_beams:
        raise ValueError(f"{config.num_beams} beams for {len(candidates)} candidates in {max_rows} rows")
    if any(candidate.output for candidate in candidates):
        raise ValueError("a beam search cannot go on from tokens")
    if config.early_stopping not in _EARLY_STOPPING:
        raise ValueError(f"early_stopping is not known: {config.early_stopping}")
    return Beams(config.num_beams, config.length_penalty, _EARLY_STOPPING[config.early_stopping], candidates)


def _check(submit: pb.Submit, vocab_size: int) -> None:
    _check_frame(submit)
    config = submit.generation_config
    if any(not 0 <= token < vocab_size for token in _token_ids(submit)):
        raise ValueError("token ids out of range")
    for name, allowed in _RANGES.items():
        if not allowed(getattr(config, name)):
            raise ValueError(f"{name} out of range: {getattr(config, name)}")
    if config.do_sample and not 0 < config.temperature <= 100:
        raise ValueError(f"temperature out of range: {config.temperature}")
    if not all(map(math.isfinite, config.logit_bias.values())):
        raise ValueError("a logit bias is not finite")
    if any(len(each.output_token_ids) >= config.max_new_tokens for each in submit.sequences):
        raise ValueError("a sequence has all its tokens already")
    decay = config.exponential_decay_length_penalty
    if config.HasField("exponential_decay_length_penalty") and not (decay.start_index >= 0 and 0 < decay.factor <= 100):
        raise ValueError("exponential_decay_length_penalty out of range")


def _check_frame(submit: pb.Submit) -> None:
    """Checks what stands beside the generation config."""
    if not submit.sequences or not submit.prompt_token_ids:
        raise ValueError("no sequences, or no prompt")
    if submit.top_logprobs < 0 or any(each.seed < 0 for each in submit.sequences):
        raise ValueError("top_logprobs or a seed is negative")
    if not 0 <= submit.priority <= _MOST_PRIORITY:
        raise ValueError(f"priority out of range: {submit.priority}")


def _token_ids(submit: pb.Submit) -> Iterable[int]:
    """Yields every token id in a submission."""
    config = submit.generation_config
    yield from submit.prompt_token_ids
    for each in submit.sequences:
        yield from each.output_token_ids
    for words in config.bad_words_ids:
        yield from words.ids
    yield from config.logit_bias
    yield from config.allowed_token_ids
    yield from config.stop_token_ids
    yield from config.suppress_tokens
    yield from config.begin_suppress_tokens
    yield from (config.forced_bos_token_id, config.forced_eos_token_id)  # 0, which is valid, where unset


def _parameters(submit: pb.Submit, eos_token_ids: frozenset[int]) -> SamplingParameters:
    config = submit.generation_config
    decay = config.exponential_decay_length_penalty
    has_decay = config.HasField("exponential_decay_length_penalty")
    return SamplingParameters(
        max_new_tokens=config.max_new_tokens,
        min_new_tokens=config.min_new_tokens,
        eos_token_ids=eos_token_ids,
        stop_token_ids=frozenset(config.stop_token_ids),
        do_sample=config.do_sample,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
        typical_p=config.typical_p,
        epsilon_cutoff=config.epsilon_cutoff,
        repetition_penalty=config.repetition_penalty,
        presence_penalty=config.presence_penalty,
        frequency_penalty=config.frequency_penalty,
        no_repeat_ngram_size=config.no_repeat_ngram_size,
        exponential_decay=(decay.start_index, decay.factor) if has_decay else None,
        logit_bias=tuple(sorted(config.logit_bias.items())),
        bad_words_ids=tuple(tuple(words.ids) for words in config.bad_words_ids if words.ids),
        allowed_token_ids=frozenset(config.allowed_token_ids),
        suppress_tokens=frozenset(config.suppress_tokens),
        begin_suppress_tokens=frozenset(config.begin_suppress_tokens),
        forced_bos_token_id=config.forced_bos_token_id if config.HasField("forced_bos_token_id") else None,
        forced_eos_token_id=config.forced_eos_token_id if config.HasField("forced_eos_token_id") else None,
        logprobs=submit.logprobs,
        top_logprobs=submit.top_logprobs,
    )
