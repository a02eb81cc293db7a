"""What a row's history says to its processors, kept up from step to step: each step costs only its newest token.

What the prompt says is a table of its own that never changes and that all beams of a search share: a beam that goes on
from another copies what has come from its output alone. All is held in host memory: the one transfer that a step makes,
of all rows together and of distinct tokens only, costs a device less than an update of a tensor of its own for each row
would.
"""

from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..domain.sequence import Sequence
from .rows import Row, history_tail

_FIRST_ROOM = 64
Followers = dict[tuple[int, ...], frozenset[int]]
"""Tokens by the tokens before."""


class TokenCounts:
    """The distinct tokens of a row's output that its prompt does not have, and how often each is in it."""

    def __init__(self, vocabulary: int, prompt: frozenset[int] = frozenset()) -> None:
        """Takes the tokens that are not to be counted."""
        self._vocabulary = vocabulary
        self._prompt = prompt
        self._places: dict[int, int] = {}
        self._ids: NDArray[np.int64] = np.zeros(_FIRST_ROOM, dtype=np.int64)
        self._counts: NDArray[np.float32] = np.zeros(_FIRST_ROOM, dtype=np.float32)
        self._followed = 0

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
        for token in output[self._followed :]:
            if token < self._vocabulary and token not in self._prompt:
                place = self._place(token)
                self._counts[place] += 1
        self._followed = len(output)

    def fork(self) -> "TokenCounts":
        """Returns what follows another output with the same beginning: a copy of all but the prompt."""
        other = copy(self)
        other._places = dict(self._places)  # noqa: SLF001 - the same class
        other._ids, other._counts = self._ids.copy(), self._counts.copy()  # noqa: SLF001 - the same class
        return other

    def _place(self, token: int) -> int:
        place = self._places.get(token)
        if place is None:
            place = self._places[token] = len(self._places)
            if place == len(self._ids):
                self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
                self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
            self._ids[place] = token
        return place


def seen_tokens(row: Row) -> tuple[Tensor, Tensor]:
    """Returns the distinct tokens of the row's prompt, and those that its output has beside them."""
    counts = row.kept(_of_prompt_and_output)
    counts.follow(row.sequence.output)
    return row.kept_of_prompt(_prompt_ids), counts.ids


def output_tokens(row: Row) -> TokenCounts:
    """Returns the counts of the row's output."""
    counts = row.kept(_of_output)
    counts.follow(row.sequence.output)
    return counts


def _of_prompt_and_output(row: Row) -> TokenCounts:
    return TokenCounts(row.vocabulary, row.kept_of_prompt(_prompt_tokens))


def _of_output(row: Row) -> TokenCounts:
    return TokenCounts(row.vocabulary)


def _prompt_tokens(row: Row) -> frozenset[int]:
    return frozenset(row.sequence.prompt)


def _prompt_ids(row: Row) -> Tensor:
    ids = [token for token in row.kept_of_prompt(_prompt_tokens) if token < row.vocabulary]
    return torch.tensor(ids, dtype=torch.long)


class NGrams:
    """Which tokens have followed which n - 1 tokens in a row's prompt and output."""

    def __init__(self, row: Row) -> None:
        self._size = row.parameters.no_repeat_ngram_size
        self._in_prompt = row.kept_of_prompt(_prompt_ngrams)
        self._in_output: Followers = {}
        self._followed = len(row.sequence.prompt)

    def followers(self, sequence: Sequence) -> frozenset[int]:
        """Returns the tokens that would repeat an n-gram of the sequence."""
        self._follow(sequence)
        prefix = tuple(history_tail(sequence, self._size - 1))
        return self._in_prompt.get(prefix, frozenset()) | self._in_output.get(prefix, frozenset())

    def fork(self) -> "NGrams":
        """Returns what follows another sequence with the same beginning: a copy of all but the prompt's."""
        other = copy(self)
        other._in_output = dict(self._in_output)  # noqa: SLF001 - the same class
        return other

    def _follow(self, sequence: Sequence) -> None:
        new = sequence.length - self._followed
        tail = history_tail(sequence, new + self._size - 1)
        for start in range(len(tail) - self._size + 1):
            *before, last = tail[start : start + self._size]
            prefix = tuple(before)
            # Replaced and not changed, as forks share it.
            self._in_output[prefix] = self._in_output.get(prefix, frozenset()) | {last}
        self._followed = sequence.length


def _prompt_ngrams(row: Row) -> Followers:
    size, prompt = row.parameters.no_repeat_ngram_size, row.sequence.prompt
    followers: dict[tuple[int, ...], set[int]] = {}
    for start in range(len(prompt) - size + 1):
        *prefix, last = prompt[start : start + size]
        followers.setdefault(tuple(prefix), set()).add(last)
    return {prefix: frozenset(tokens) for prefix, tokens in followers.items()}


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
