"""Chooses one token for each row, in one vectorized pass with every row's own parameters.

`stages` lists what is done, in order; `penalties`, `constraints` and `warpers` do it. A row's choice depends on its own
logits, parameters, history and (seed, token index) alone. `history` and `rows` hold what is kept from step to step.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..domain.outcome import TokenLogprob
from ..domain.sequence import Sequence
from ..memory.copies import on_device
from .drawing import draw
from .entries import MASKED
from .logprobs import Logprobs
from .rows import Row, rows_of
from .stages import Stage, forced_token, processors_due


@dataclass(frozen=True)
class Sampled:
    """One token for each row."""

    tokens: list[int]
    finite: list[bool]
    """False for a row whose logits hold NaN or an infinity; its token means nothing."""
    logprobs: list[TokenLogprob | None] = field(default_factory=list)
    """For each row that asks for them, and is finite; None for the others."""


def sample(logits: Tensor, rows: Rows[Sequence]) -> Sampled:
    """Chooses the next token of each row; where its processors leave it none, among what `resort` finds.

    Args:
        logits: [rows, vocabulary], any floating type; not changed.
        rows: the sequences behind the logits' rows.
    """
    raw = logits.float()
    # A NaN or an infinity anywhere makes the sum of its row one, too.
    finite = raw.sum(dim=-1).isfinite()
    scores = process(raw, rows)
    tokens = _choose(scores, rows)
    possible = scores.gather(-1, tokens[:, None])[:, 0] > MASKED
    reported = [index for index, row in enumerate(rows) if row.parameters.logprobs]
    reported = [index for index, row in enumerate(rows) if row.parameters.logprobs]
    found = _logprobs(raw, tokens, rows, reported)
    parts = [tokens, finite, possible, *([found.numbers] if found else [])]
    # One copy for all of it, as each waits for the device. A float64 holds every index and every float32 exactly.
    numbers = torch.cat([part.double().flatten() for part in parts]).tolist()
    chosen, is_finite, is_possible = (numbers[part * len(rows) : (part + 1) * len(rows)] for part in range(3))
    if not all(is_finite):  # or the sum alone is too large
        is_finite = raw.isfinite().all(dim=-1).tolist()
    sampled = Sampled([int(token) for token in chosen], [bool(flag) for flag in is_finite], [None] * len(rows))
    if found:
        _report(found.read_flat(numbers[3 * len(rows) :]), reported, sampled)
    if stuck := [index for index in range(len(rows)) if is_finite[index] and not is_possible[index]]:
        _free(stuck, sampled, raw, rows)
    return sampled


def _report(logprobs: list[TokenLogprob], where: list[int], sampled: Sampled) -> None:
    for index, logprob in zip(where, logprobs, strict=True):
        sampled.logprobs[index] = logprob if sampled.finite[index] else None


def _free(stuck: list[int], sampled: Sampled, raw: Tensor, rows: Rows[Sequence]) -> None:
    """Gives rows that their processors leave no token one among what `resort` finds."""
    them = [rows[index] for index in stuck]
    tokens = _choose(resort(raw[on_device(stuck, raw.device)], them), them)
    for index, token in zip(stuck, tokens.tolist(), strict=True):
        sampled.tokens[index] = token
    reported = [place for place, row in enumerate(them) if row.parameters.logprobs]
    where = [stuck[place] for place in reported]
    if found := _logprobs(raw, on_device(sampled.tokens, raw.device), rows, where):
        _report(found.read(found.numbers.tolist()), where, sampled)


def process(scores: Tensor, rows: Rows[Sequence]) -> Tensor:
    """Applies what does not depend on sampling: biases, penalties and constraints.

    Args:
        scores: [rows, vocabulary] float32, logits or log-probabilities; not changed.
        rows: the sequences behind the scores' rows.

    Returns:
        [rows, vocabulary]: the scores, masked ones minus infinity; the given ones if there is nothing to do.
    """
    return _apply(scores, processors_due(rows_of(scores, rows)))


def resort(scores: Tensor, rows: Rows[Sequence]) -> Tensor:
    """What is left of rows that `process` leaves no token: some constraints give way, and the row ends if it may.

    Those give way that depend on what came before. What tells which tokens may come up at all, and how many, holds:
    among what it leaves, the ids that end the row go before all others. If it leaves nothing either, the row takes the
    id that is forced; else the likeliest one of those that end it; else of those that are allowed.

    Args:
        scores: as for `process`, finite.
        rows: the sequences behind the scores' rows.

    Returns:
        [rows, vocabulary]: the scores, masked ones minus infinity; at least one of each row is not.
    """
    holding = [(stage, using) for stage, using in processors_due(rows_of(scores, rows)) if not stage.gives_way]
    left = _apply(scores, holding)
    alone = zip(scores.split(1), left.split(1), rows_of(scores, rows), strict=True)
    return torch.cat([_ends_first(*each) for each in alone])


def _choose(scores: Tensor, rows: Rows[Sequence]) -> Tensor:
    """Returns [rows]: a drawn token for rows that sample, the likeliest for the others."""
    tokens = scores.argmax(dim=-1)
    drawn = [index for index, row in enumerate(rows) if row.parameters.do_sample]
    if drawn:
        where = on_device(drawn, scores.device)
        tokens[where] = draw(scores[where], [rows[index] for index in drawn])
    return tokens


def _apply(scores: Tensor, due: list[tuple[Stage, list[Row]]]) -> Tensor:
    if due:
        scores = scores.clone(memory_format=torch.contiguous_format)
    for stage, using in due:
        stage.apply(scores, using)
    return scores


def _ends_first(scores: Tensor, left: Tensor, row: Row) -> Tensor:
    """Returns what `resort` does, [1, vocabulary] like the others, of a row that some constraints leave `left`."""
    parameters = row.parameters
    ends = row.ids(parameters.end_token_ids)
    if len(ends) and left[0, ends].amax() > MASKED:
        return _only(left, ends)
    if left.amax() > MASKED:
        return left
    forced = forced_token(row.sequence)
    choices = (row.ids([] if forced is None else [forced]), ends, row.ids(parameters.allowed_token_ids))
    among = next((ids for ids in choices if len(ids)), row.ids(range(row.vocabulary)))
    return _only(scores, among[scores[0, among].argmax()][None])


def _only(scores: Tensor, tokens: Tensor) -> Tensor:
    return torch.full_like(scores, MASKED).index_copy_(1, tokens, scores[:, tokens])


def _logprobs(logits: Tensor, tokens: Tensor, rows: Rows[Sequence], reported: list[int]) -> Logprobs | None:
    """Returns what is to be reported of some rows' tokens; None for no rows."""
    if not reported:
        return None
    if len(reported) < len(rows):
        where = on_device(reported, logits.device)
        logits, tokens = logits[where], tokens[where]
    return Logprobs(logits, tokens, [rows[index].parameters.top_logprobs for index in reported])
