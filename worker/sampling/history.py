"""What a row's history says to its processors, kept up from step to step: each step costs only its newest token.

It is held in host memory. The one transfer that a step makes, of all rows together and of distinct tokens only, costs a
device less than an update of a tensor of its own for each row would.
"""

from collections.abc import Iterable
from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..domain.sequence import Sequence
from .rows import Row, history_tail

_FIRST_ROOM = 64


class TokenCounts:
    """The distinct tokens of a row's history, and how often each is in it."""

    def __init__(self, vocabulary: int, prompt: Iterable[int] = ()) -> None:
        self._vocabulary = vocabulary
        self._places: dict[int, int] = {}
        self._ids: NDArray[np.int64] = np.zeros(_FIRST_ROOM, dtype=np.int64)
        self._counts: NDArray[np.float32] = np.zeros(_FIRST_ROOM, dtype=np.float32)
        self._followed = 0
        self._add(prompt)

    @property
    def ids(self) -> Tensor:
        """[distinct] the tokens, without those that the vocabulary does not have."""
        return torch.from_numpy(self._ids[: len(self._places)])

    @property
    def counts(self) -> Tensor:
        """[distinct] float32: how often each is there."""
        return torch.from_numpy(self._counts[: len(self._places)])

    def follow(self, output: list[int]) -> None:
        """Counts what the output has got since the last call."""
        self._add(output[self._followed :])
        self._followed = len(output)

    def fork(self) -> "TokenCounts":
        """Returns a copy that follows another output with the same beginning."""
        other = copy(self)
        other._places = dict(self._places)  # noqa: SLF001 - the same class
        other._ids, other._counts = self._ids.copy(), self._counts.copy()  # noqa: SLF001 - the same class
        return other

    def _add(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            if token < self._vocabulary:
                place = self._place(token)
                self._counts[place] += 1

    def _place(self, token: int) -> int:
        place = self._places.get(token)
        if place is None:
            place = self._places[token] = len(self._places)
            if place == len(self._ids):
                self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
                self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
            self._ids[place] = token
        return place


def seen_tokens(row: Row) -> TokenCounts:
    """Returns the counts of the row's prompt and output."""
    counts = row.kept(_of_prompt_and_output)
    counts.follow(row.sequence.output)
    return counts


def output_tokens(row: Row) -> TokenCounts:
    """Returns the counts of the row's output."""
    counts = row.kept(_of_output)
    counts.follow(row.sequence.output)
    return counts


def _of_prompt_and_output(row: Row) -> TokenCounts:
    return TokenCounts(row.vocabulary, row.sequence.prompt)


def _of_output(row: Row) -> TokenCounts:
    return TokenCounts(row.vocabulary)


class NGrams:
    """Which tokens have followed which n - 1 tokens in a row's prompt and output."""

    def __init__(self, row: Row) -> None:
        self._size = row.parameters.no_repeat_ngram_size
        self._followers: dict[tuple[int, ...], set[int]] = {}
        self._followed = 0

    def followers(self, sequence: Sequence) -> set[int]:
        """Returns the tokens that would repeat an n-gram of the sequence."""
        self._follow(sequence)
        return self._followers.get(tuple(history_tail(sequence, self._size - 1)), set())

    def fork(self) -> "NGrams":
        """Returns a copy that follows another sequence with the same beginning."""
        other = copy(self)
        other._followers = {prefix: set(tokens) for prefix, tokens in self._followers.items()}  # noqa: SLF001 - same class
        return other

    def _follow(self, sequence: Sequence) -> None:
        new = sequence.length - self._followed
        tail = history_tail(sequence, new + self._size - 1)
        for start in range(len(tail) - self._size + 1):
            *prefix, last = tail[start : start + self._size]
            self._followers.setdefault(tuple(prefix), set()).add(last)
        self._followed = sequence.length


class BadWords:
    """Which tokens would complete a forbidden sequence of several, by the tokens before."""

    def __init__(self, row: Row) -> None:
        self._followers: dict[tuple[int, ...], set[int]] = {}
        for *prefix, last in row.parameters.bad_words_ids:
            if prefix:
                self._followers.setdefault(tuple(prefix), set()).add(last)
        self._lengths = sorted({len(prefix) for prefix in self._followers})

    def completing(self, sequence: Sequence) -> set[int]:
        """Returns the tokens that would complete a forbidden sequence."""
        found: set[int] = set()
        for length in self._lengths:
            found |= self._followers.get(tuple(history_tail(sequence, length)), set())
        return found
