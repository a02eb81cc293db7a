"""Processors that rule tokens out. All change the scores in place."""

from collections.abc import Iterable

import torch
from torch import Tensor

from .entries import ban, entries, mask_whole
from .history import BadWords, NGrams
from .rows import Row


def forbid_repeated_ngrams(scores: Tensor, rows: list[Row]) -> None:
    """Masks tokens that would repeat an n-gram of prompt and output."""
    ban(scores, rows, [_host_ids(row, row.kept(NGrams).followers(row.sequence)) for row in rows])


def forbid_bad_tokens(scores: Tensor, rows: list[Row]) -> None:
    """Masks tokens that are a forbidden sequence alone."""
    ban(scores, rows, [row.kept(bad_ids) for row in rows])


def forbid_bad_words(scores: Tensor, rows: list[Row]) -> None:
    """Masks tokens that would complete a forbidden sequence of several."""
    ban(scores, rows, [_host_ids(row, row.kept(BadWords).completing(row.sequence)) for row in rows])


def forbid_end(scores: Tensor, rows: list[Row]) -> None:
    """Masks tokens that would end the sequence."""
    ban(scores, rows, [row.kept(end_ids) for row in rows])


def suppress(scores: Tensor, rows: list[Row]) -> None:
    """Masks the tokens that must not come up."""
    ban(scores, rows, [row.kept(suppressed_ids) for row in rows])


def suppress_at_begin(scores: Tensor, rows: list[Row]) -> None:
    """Masks the tokens that must not come up first."""
    ban(scores, rows, [row.kept(begin_suppressed_ids) for row in rows])


def keep_allowed(scores: Tensor, rows: list[Row]) -> None:
    """Masks all but the allowed tokens and those that end the sequence."""
    allowed = entries(scores, rows, [row.kept(allowed_ids) for row in rows])
    kept = scores.view(-1)[allowed.flat]
    mask_whole(scores, rows)
    scores.view(-1)[allowed.flat] = kept


def force_begin(scores: Tensor, rows: list[Row]) -> None:
    """Masks all but the forced first token."""
    _force(scores, rows, [row.kept(forced_bos_id) for row in rows])


def force_end(scores: Tensor, rows: list[Row]) -> None:
    """Masks all but the forced last token."""
    _force(scores, rows, [row.kept(forced_eos_id) for row in rows])


def _force(scores: Tensor, rows: list[Row], tokens: list[Tensor]) -> None:
    mask_whole(scores, rows)
    scores.view(-1).index_fill_(0, entries(scores, rows, tokens).flat, 0.0)


def _host_ids(row: Row, tokens: Iterable[int]) -> Tensor:
    """Returns ids that hold for one step only: they go to the device with those of the other rows."""
    return torch.tensor([token for token in tokens if token < row.vocabulary], dtype=torch.long)


def end_ids(row: Row) -> Tensor:
    """Returns the ids that end the row, on the scores' device, as all that follow."""
    return row.ids(row.parameters.end_token_ids)


def bad_ids(row: Row) -> Tensor:
    """Returns the tokens that are a forbidden sequence alone."""
    words = (words[0] for words in row.parameters.bad_words_ids if len(words) == 1)
    # As in transformers, that the sequence ends cannot be forbidden.
    return row.ids(token for token in words if token not in row.parameters.eos_token_ids)


def suppressed_ids(row: Row) -> Tensor:
    """Returns the tokens that must not come up."""
    return row.ids(row.parameters.suppress_tokens)


def begin_suppressed_ids(row: Row) -> Tensor:
    """Returns the tokens that must not come up first."""
    return row.ids(row.parameters.begin_suppress_tokens)


def allowed_ids(row: Row) -> Tensor:
    """Returns the tokens that may come up, in their order."""
    return row.ids(row.parameters.allowed_token_ids | row.parameters.end_token_ids)


def forced_bos_id(row: Row) -> Tensor:
    """Returns the forced first token, or nothing."""
    return _optional_id(row, row.parameters.forced_bos_token_id)


def forced_eos_id(row: Row) -> Tensor:
    """Returns the forced last token, or nothing."""
    return _optional_id(row, row.parameters.forced_eos_token_id)


def _optional_id(row: Row, token: int | None) -> Tensor:
    return row.ids([] if token is None else [token])
