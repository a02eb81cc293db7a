"""Goes on behind output that the caller holds from a call that it lost. Pure.

The tokens are replayed through the text of their sequence, so that the detokenizer, the search for stop sequences, text
offsets and usage stand where they stood when the last of them was delivered; only what follows is delivered. Nothing
of the lost call is needed: any gateway can do it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..domain.errors import Violation
from ..domain.sequence import Status
from .config_limits import id_list_violations, out_of_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Sequence as Many

    from ..domain.request import GenerationConfig, ModelFacts, OutputOptions, ResumedCandidate
    from ..domain.sequence import Sequence
    from .defaults import EffectiveConfig

FIELD = "resume_from.candidates"
MAX_RESUMED_CANDIDATES = 1024


def held_count(resumed: Iterable[ResumedCandidate]) -> int:
    """Tokens that the caller holds."""
    return sum(len(candidate.token_ids) for candidate in resumed)


def resumption_violations(
    resumed: Many[ResumedCandidate], config: GenerationConfig, facts: ModelFacts
) -> Iterator[Violation]:
    """What is wrong before the effective parameters are known."""
    if not resumed:
        return
    if config.seed is None:
        yield Violation("generation_config.seed", "REQUIRED", "resume_from needs the seed that the lost call reported")
    yield from _index_violations(resumed)
    for place, candidate in enumerate(resumed):
        field = f"{FIELD}[{place}].token_ids"
        yield from id_list_violations(field, candidate.token_ids, facts.vocab_size, limit=facts.context_length)


def fit_violations(resumed: Many[ResumedCandidate], config: EffectiveConfig) -> Iterator[Violation]:
    """What does not fit the effective parameters."""
    if resumed and config.num_beams > 1:
        yield Violation(FIELD, "CONTRADICTION", "must be empty with beam search, which has nothing before its end")
    if resumed and config.is_ranked:
        yield Violation(FIELD, "CONTRADICTION", "must be empty with best_of, which ranks by all tokens' probabilities")
    for place, candidate in enumerate(resumed):
        if candidate.candidate_index >= config.sequence_count:
            yield out_of_range(
                f"{FIELD}[{place}].candidate_index",
                f"must be below {config.sequence_count}, the number of candidates, is {candidate.candidate_index}",
            )
        if len(candidate.token_ids) > config.max_new_tokens:
            yield out_of_range(
                f"{FIELD}[{place}].token_ids",
                f"must be at most max_new_tokens {config.max_new_tokens} ids, are {len(candidate.token_ids)}",
            )


def remaining_output(output: OutputOptions, resumed: Iterable[ResumedCandidate]) -> OutputOptions:
    """What is still to be delivered: the prompt's log-probabilities came before the first token."""
    return replace(output, prompt_logprobs=False) if held_count(resumed) else output


def resume(
    sequences: Many[Sequence], resumed: Iterable[ResumedCandidate], config: EffectiveConfig, facts: ModelFacts
) -> Iterator[Violation]:
    """Gives each sequence its tokens, before anything else. A candidate whose tokens are its whole output ends.

    One without tokens is given that its caller holds the echo: that came first, and may have been all that came.

    Takes time linear in the tokens. Yields a violation for tokens behind an end; the sequences are then of no use.
    """
    eos_token_ids = frozenset() if config.ignore_eos else frozenset(facts.eos_token_ids)
    for place, candidate in enumerate(resumed):
        sequence = sequences[candidate.candidate_index]
        taken = _replay(sequence, candidate.token_ids, config, eos_token_ids)
        if taken < len(candidate.token_ids):
            reason = f"ends with the token at {taken - 1}: {sequence.status.name}"
            yield Violation(f"{FIELD}[{place}].token_ids[{taken}]", "BEHIND_THE_END", f"the output {reason}")


def _index_violations(resumed: Iterable[ResumedCandidate]) -> Iterator[Violation]:
    seen: set[int] = set()
    for place, candidate in enumerate(resumed):
        index, field = candidate.candidate_index, f"{FIELD}[{place}].candidate_index"
        if index < 0:
            yield out_of_range(field, f"must be at least 0, is {index}")
        elif index in seen:
            yield Violation(field, "DUPLICATE", f"candidate {index} comes twice")
        seen.add(index)


def _replay(sequence: Sequence, token_ids: Many[int], config: EffectiveConfig, eos_token_ids: frozenset[int]) -> int:
    """Returns how many of the tokens were taken until the sequence ended, if it did."""
    for count, token_id in enumerate(token_ids, start=1):
        sequence.replay(token_id)
        if (end := _end(token_id, count, config, eos_token_ids)) is not None:
            sequence.finish(end)
        if sequence.finished:
            break
    sequence.hold_as_taken()
    return sequence.output_token_count


def _end(token_id: int, count: int, config: EffectiveConfig, eos_token_ids: frozenset[int]) -> Status | None:
    """How a worker ends a sequence with this token, the count-th; None if it goes on."""
    if token_id in eos_token_ids:
        return Status.END_OF_SEQUENCE
    if token_id in config.stop_token_ids:
        return Status.STOP_TOKEN
    return Status.LENGTH if count == config.max_new_tokens else None
