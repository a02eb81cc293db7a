"""The stages between the model's logits and a token, in the order of transformers' `_get_logits_processor`.

A stage works on the rows that use it in this step, all at once; one that no row uses is not run.
"""

from collections import defaultdict
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from torch import Tensor

from ..domain.sequence import SamplingParameters, Sequence
from ..memory.copies import on_device
from . import constraints, penalties, warpers
from .entries import row_by_row
from .rows import Row

Apply = Callable[[Tensor, list[Row]], None]


def _always(_: Sequence) -> bool:
    return True


@dataclass(frozen=True)
class Stage:
    """One processor or warper."""

    apply: Apply
    """Changes scores [rows, vocabulary] in place, in the given rows only."""
    is_on: Callable[[SamplingParameters], bool]
    """Whether a sequence with these parameters ever uses it."""
    is_due: Callable[[Sequence], bool] = _always
    """Whether such a sequence uses it for its next token."""
    spares_others: bool = False
    """Whether it changes nothing in a row that has it off: then it is run on all rows, which saves a copy of some."""
    gives_way: bool = False
    """Whether it is left out where all of them together would leave a row no token."""


def _on_rows(warp: Apply) -> Apply:
    """Returns a stage's function for a warper, which takes the scores of the rows that use it alone."""

    def apply(scores: Tensor, rows: list[Row]) -> None:
        if len(rows) == len(scores):
            warp(scores, rows)
            return
        where = on_device([row.index for row in rows], scores.device)
        part = scores[where]
        warp(part, rows)
        scores.index_copy_(0, where, part)

    return apply


def _is_too_short(sequence: Sequence) -> bool:
    return len(sequence.output) < sequence.parameters.min_new_tokens


def _is_last(sequence: Sequence) -> bool:
    return len(sequence.output) == sequence.parameters.max_new_tokens - 1


def _follows_one_token(sequence: Sequence) -> bool:
    return sequence.length == 1


def forced_token(sequence: Sequence) -> int | None:
    """Returns the id that the next token is forced to be, if any."""
    parameters = sequence.parameters
    if parameters.forced_eos_token_id is not None and _is_last(sequence):
        return parameters.forced_eos_token_id
    return parameters.forced_bos_token_id if _follows_one_token(sequence) else None


def _decays(sequence: Sequence) -> bool:
    decay = sequence.parameters.exponential_decay
    return decay is not None and len(sequence.output) > decay[0]


def _begins(sequence: Sequence) -> bool:
    """Whether the first token comes that is not forced."""
    forced = sequence.parameters.forced_bos_token_id is not None and len(sequence.prompt) == 1
    return len(sequence.output) == int(forced)


PROCESSORS = (
    Stage(penalties.add_bias, lambda p: bool(p.logit_bias)),
    Stage(penalties.penalize_repetition, lambda p: p.repetition_penalty != 1.0),
    # Not of transformers: with the other penalties on what is there already.
    Stage(
        penalties.penalize_output,
        lambda p: p.presence_penalty != 0.0 or p.frequency_penalty != 0.0,
        lambda sequence: bool(sequence.output),
    ),
    Stage(constraints.forbid_repeated_ngrams, lambda p: p.no_repeat_ngram_size > 0, gives_way=True),
    # Two, because a token that must not come up at all never does, and a sequence of them may have to.
    Stage(constraints.forbid_bad_tokens, lambda p: any(len(words) == 1 for words in p.bad_words_ids)),
    Stage(constraints.forbid_bad_words, lambda p: any(len(words) > 1 for words in p.bad_words_ids), gives_way=True),
    Stage(constraints.forbid_end, lambda p: p.min_new_tokens > 0, _is_too_short),
    Stage(constraints.keep_allowed, lambda p: bool(p.allowed_token_ids)),
    Stage(constraints.force_begin, lambda p: p.forced_bos_token_id is not None, _follows_one_token),
    Stage(constraints.force_end, lambda p: p.forced_eos_token_id is not None, _is_last),
    Stage(penalties.favour_end, lambda p: p.exponential_decay is not None, _decays),
    Stage(constraints.suppress, lambda p: bool(p.suppress_tokens)),
    Stage(constraints.suppress_at_begin, lambda p: bool(p.begin_suppress_tokens), _begins),
)
"""What holds for every row, in this order."""

WARPERS = (
    Stage(_on_rows(warpers.apply_temperature), lambda p: p.temperature != 1.0, spares_others=True),
    Stage(_on_rows(row_by_row(warpers.keep_top_k)), lambda p: p.top_k > 0),
    Stage(_on_rows(row_by_row(warpers.keep_top_p)), lambda p: p.top_p < 1.0),
    Stage(_on_rows(warpers.keep_min_p), lambda p: p.min_p > 0.0, spares_others=True),
    Stage(_on_rows(row_by_row(warpers.keep_typical)), lambda p: p.typical_p < 1.0),
    Stage(_on_rows(warpers.cut_epsilon), lambda p: p.epsilon_cutoff > 0.0, spares_others=True),
)
"""What holds for rows that sample, after that, in this order."""


def processors_due(rows: Rows[Row]) -> list[tuple[Stage, list[Row]]]:
    """Returns the processors that some rows use in this step, in their order, with these rows."""
    return _due(PROCESSORS, rows, _processors_of)


def warpers_due(rows: Rows[Row]) -> list[tuple[Stage, list[Row]]]:
    """Returns the warpers that some rows use, in their order, with these rows."""
    return _due(WARPERS, rows, _warpers_of)


def row_processors(row: Row) -> list[Stage]:
    """Returns the processors that one row uses in this step, in their order."""
    stages = (PROCESSORS[place] for place in row.kept(_processors_of))
    return [stage for stage in stages if stage.is_due(row.sequence)]


def _due(
    stages: tuple[Stage, ...], rows: Rows[Row], places_of: Callable[[Row], list[int]]
) -> list[tuple[Stage, list[Row]]]:
    users: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        for place in row.kept(places_of):
            if stages[place].is_due(row.sequence):
                users[place].append(row)
    return [(stages[place], list(rows) if stages[place].spares_others else users[place]) for place in sorted(users)]


def _processors_of(row: Row) -> list[int]:
    return [place for place, stage in enumerate(PROCESSORS) if stage.is_on(row.parameters)]


def _warpers_of(row: Row) -> list[int]:
    return [place for place, stage in enumerate(WARPERS) if stage.is_on(row.parameters)]
