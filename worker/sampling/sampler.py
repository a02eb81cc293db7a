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
from .drawing import draw
from .entries import MASKED
from .logprobs import token_logprobs
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
    chosen, is_finite, is_possible = torch.stack((tokens, finite, possible)).tolist()
    if not all(is_finite):  # or the sum alone is too large
        is_finite = raw.isfinite().all(dim=-1).tolist()
    stuck = [index for index in range(len(rows)) if is_finite[index] and not is_possible[index]]
    if stuck:
        them = [rows[index] for index in stuck]
        for index, token in zip(stuck, _choose(resort(raw[stuck], them), them).tolist(), strict=True):
            chosen[index] = token
    reported = [index for index, row in enumerate(rows) if row.parameters.logprobs and is_finite[index]]
    return Sampled(chosen, [bool(flag) for flag in is_finite], _logprobs(raw, rows, chosen, reported))


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
        where = torch.tensor(drawn, device=scores.device)
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


def _logprobs(
    logits: Tensor, rows: Rows[Sequence], tokens: list[int], reported: list[int]
) -> list[TokenLogprob | None]:
    """Returns the reported rows' logprobs, None for the others."""
    found: list[TokenLogprob | None] = [None] * len(rows)
    if reported:
        where = torch.tensor(reported, device=logits.device)
        chosen = torch.tensor([tokens[index] for index in reported], device=logits.device)
        tops = [rows[index].parameters.top_logprobs for index in reported]
        for index, logprob in zip(reported, token_logprobs(logits[where], chosen, tops), strict=True):
            found[index] = logprob
    return found
