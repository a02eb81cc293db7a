"""Chooses one token for each row, in one vectorized pass with every row's own parameters.

`stages` lists what is done, in order; `penalties`, `constraints` and `warpers` do it. A row's choice depends on its own
logits, parameters, history and (seed, token index) alone. `history` and `rows` hold what is kept from step to step.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..sequence import Sequence
from .drawing import draw
from .logprobs import TokenLogprob, token_logprobs
from .rows import inherit, rows_of
from .stages import processors_due

__all__ = ["Sampled", "TokenLogprob", "inherit", "process", "sample", "token_logprobs"]


@dataclass(frozen=True)
class Sampled:
    """One token for each row."""

    tokens: list[int]
    finite: list[bool]
    """False for a row whose logits hold NaN or an infinity; its token means nothing."""
    logprobs: list[TokenLogprob | None] = field(default_factory=list)
    """For each row that asks for them, and is finite; None for the others."""


def sample(logits: Tensor, rows: Rows[Sequence]) -> Sampled:
    """Chooses the next token of each row.

    A row whose processors leave it no token ends: it gets the likeliest of the ids that end it. If it has none, its
    processors are overruled, and it gets its likeliest token.

    Args:
        logits: [rows, vocabulary], any floating type; not changed.
        rows: the sequences behind the logits' rows.
    """
    raw = logits.float()
    # A NaN or an infinity anywhere makes the sum of its row one, too.
    finite = raw.sum(dim=-1).isfinite()
    scores = process(raw, rows)
    tokens = _choose(scores, rows)
    possible = scores.gather(-1, tokens[:, None])[:, 0] > float("-inf")
    chosen, is_finite, is_possible = torch.stack((tokens, finite, possible)).tolist()
    if not all(is_finite):  # or the sum alone is too large
        is_finite = raw.isfinite().all(dim=-1).tolist()
    for index, row in enumerate(rows):
        if is_finite[index] and not is_possible[index]:
            chosen[index] = _last_resort(raw[index], row)
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
    due = processors_due(rows_of(scores, rows))
    if due:
        scores = scores.clone(memory_format=torch.contiguous_format)
    for stage, using in due:
        stage.apply(scores, using)
    return scores


def _choose(scores: Tensor, rows: Rows[Sequence]) -> Tensor:
    """Returns [rows]: a drawn token for rows that sample, the likeliest for the others."""
    tokens = scores.argmax(dim=-1)
    drawn = [index for index, row in enumerate(rows) if row.parameters.do_sample]
    if drawn:
        where = torch.tensor(drawn, device=scores.device)
        tokens[where] = draw(scores[where], [rows[index] for index in drawn])
    return tokens


def _last_resort(logits: Tensor, row: Sequence) -> int:
    """Returns the token of a row, logits [vocabulary], that has no other left."""
    ends = [token for token in sorted(row.parameters.end_token_ids) if token < len(logits)]
    return ends[int(logits[ends].argmax())] if ends else int(logits.argmax())


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
