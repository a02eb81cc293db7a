"""What the processors do to single logits of a row, for the C code: `stages.PROCESSORS`, one by one."""

from collections.abc import Callable, Iterable

import numpy as np

from .. import constraints, penalties
from ..history import BadWords, NGrams, output_tokens, seen_tokens
from ..rows import Row
from ..stages import Apply, row_processors
from .structures import Edit, Kind, edit


def edits_of(row: Row) -> list[Edit]:
    """Returns what is to be done to a row in this step, in order. Valid until the sequence goes on."""
    return [each for stage in row_processors(row) for each in MAKERS[stage.apply](row)]


def _kept(make: Callable[[Row], Edit]) -> Callable[[Row], list[Edit]]:
    """Returns a maker of what is the same at every step."""

    def made(row: Row) -> list[Edit]:
        return [row.kept(make)]

    return made


def _bias(row: Row) -> Edit:
    return edit(Kind.ADD, *row.kept(penalties.bias))


def _repetition(row: Row) -> list[Edit]:
    penalty = penalties.bounded_penalty(row.parameters.repetition_penalty)
    return [edit(Kind.REPEAT, ids, first=penalty) for ids in seen_tokens(row)]


def _output(row: Row) -> list[Edit]:
    counts, parameters = output_tokens(row), row.parameters
    frequency, presence = parameters.frequency_penalty, parameters.presence_penalty
    return [edit(Kind.OUTPUT, counts.ids, counts.counts, first=frequency, second=presence)]


def _ngrams(row: Row) -> list[Edit]:
    return _ban(row, row.kept(NGrams).followers(row.sequence))


def _bad_words(row: Row) -> list[Edit]:
    return _ban(row, row.kept(BadWords).completing(row.sequence))


def _ban(row: Row, tokens: Iterable[int]) -> list[Edit]:
    ids = np.array([token for token in tokens if token < row.vocabulary], dtype=np.int64)
    return [edit(Kind.BAN, ids)] if len(ids) else []


def _growth(row: Row) -> list[Edit]:
    return [edit(Kind.GROW, row.kept(penalties.eos_ids), first=penalties.growth(row))]


MAKERS: dict[Apply, Callable[[Row], list[Edit]]] = {
    penalties.add_bias: _kept(_bias),
    penalties.penalize_repetition: _repetition,
    penalties.penalize_output: _output,
    constraints.forbid_repeated_ngrams: _ngrams,
    constraints.forbid_bad_tokens: _kept(lambda row: edit(Kind.BAN, row.kept(constraints.bad_ids))),
    constraints.forbid_bad_words: _bad_words,
    constraints.forbid_end: _kept(lambda row: edit(Kind.BAN, row.kept(constraints.end_ids))),
    constraints.keep_allowed: _kept(lambda row: edit(Kind.ONLY, row.kept(constraints.allowed_ids))),
    constraints.force_begin: _kept(lambda row: edit(Kind.FORCE, row.kept(constraints.forced_bos_id))),
    constraints.force_end: _kept(lambda row: edit(Kind.FORCE, row.kept(constraints.forced_eos_id))),
    penalties.favour_end: _growth,
    constraints.suppress: _kept(lambda row: edit(Kind.BAN, row.kept(constraints.suppressed_ids))),
    constraints.suppress_at_begin: _kept(lambda row: edit(Kind.BAN, row.kept(constraints.begin_suppressed_ids))),
}
"""By a stage's function."""
