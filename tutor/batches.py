"""Documents packed into rows of one length."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .compose import documents
from .tokenizer import CONTEXT_LENGTH, encode

SHORT_LENGTH = 128
"""Length of most rows; their documents do not see one another, as requests do not."""
LONG_ONE_IN = 8
"""One batch in so many has rows as long as the context, each one text, so that all positions are learned."""


class Batch(NamedTuple):
    """Rows of packed documents, each field [rows, length], int64."""

    ids: Tensor
    labels: Tensor
    positions: Tensor
    """They begin again with each document that is to be seen alone."""


def batches(tokenizer: Tokenizer, seed: int, tokens_per_batch: int) -> Iterator[Batch]:
    """Batches without end, of `tokens_per_batch` tokens, a multiple of `CONTEXT_LENGTH`."""
    encoded = (encode(tokenizer, document) for document in documents(seed))
    for number in count(1):
        alone = number % LONG_ONE_IN != 0
        length = SHORT_LENGTH if alone else CONTEXT_LENGTH
        rows = [_row(encoded, length) for _ in range(tokens_per_batch // length)]
        ids, labels, positions = (torch.tensor(column) for column in zip(*rows, strict=True))
        yield Batch(ids, labels, positions if alone else torch.arange(length).expand_as(ids))


def _row(encoded: Iterator[tuple[list[int], list[int]]], length: int) -> tuple[list[int], list[int], list[int]]:
    """Ids, labels and positions of whole documents one after another; the last one is cut off at the row's end."""
    ids: list[int] = []
    labels: list[int] = []
    positions: list[int] = []
    while len(ids) < length:
        document_ids, document_labels = next(encoded)
        ids += document_ids
        labels += document_labels
        positions += range(len(document_ids))
    return ids[:length], labels[:length], positions[:length]
