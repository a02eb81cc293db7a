"""A row of the logits during one step, and what sampling keeps for its sequence from step to step."""

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..domain.sequence import Beams, SamplingParameters, Sequence
from ..memory.copies import on_device

T = TypeVar("T")
Kept = dict[Callable[["Row"], object], Any]

# Derived from the sequences, and gone with them.
_kept: WeakKeyDictionary[Sequence, Kept] = WeakKeyDictionary()
# Of searches: their beams come and go, with the same prompt and parameters.
_kept_of_searches: WeakKeyDictionary[Beams, Kept] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Row:
    """The sequence behind one row of the scores, for as long as a step takes."""

    index: int
    """Its row of the scores."""
    sequence: Sequence
    vocabulary: int
    device: torch.device
    _kept: Kept

    @property
    def parameters(self) -> SamplingParameters:
        return self.sequence.parameters

    def kept(self, make: Callable[["Row"], T]) -> T:
        """Returns what `make` made when this sequence first needed it; what it makes must not hold the sequence."""
        return _kept_in(self._kept, make, self)

    def kept_of_prompt(self, make: Callable[["Row"], T]) -> T:
        """Returns the same of what depends on prompt and parameters alone, made once for all beams of a search."""
        beams = self.sequence.beams
        return self.kept(make) if beams is None else _kept_in(_kept_of_searches.setdefault(beams, {}), make, self)

    def ids(self, tokens: Iterable[int]) -> Tensor:
        """Returns token ids as a tensor on the scores' device, without those that the vocabulary does not have."""
        return on_device(self.inside(tokens), self.device, torch.long)

    def inside(self, tokens: Iterable[int]) -> list[int]:
        """Returns the token ids that the vocabulary has, each once, sorted."""
        return sorted({token for token in tokens if 0 <= token < self.vocabulary})


def _kept_in(kept: Kept, make: Callable[[Row], T], row: Row) -> T:
    made: T
    if make in kept:
        made = kept[make]
    else:
        made = kept[make] = make(row)
    return made


def inherit(sequence: Sequence, parent: Sequence) -> None:
    """Takes over what is kept for the sequence that a new one goes on from, as beams do in every step.

    The parent's history must be the beginning of the new one's, and its parameters the same.
    """
    kept = _kept.get(parent, {})
    _kept[sequence] = {make: value.fork() if hasattr(value, "fork") else value for make, value in kept.items()}


def rows_of(scores: Tensor, sequences: Rows[Sequence]) -> list[Row]:
    """Returns the rows of scores [rows, vocabulary]."""
    vocabulary, device = scores.shape[-1], scores.device
    return [
        Row(index, sequence, vocabulary, device, _kept.setdefault(sequence, {}))
        for index, sequence in enumerate(sequences)
    ]


def history_tail(sequence: Sequence, count: int) -> list[int]:
    """Returns the last `count` tokens of prompt and output, or all if there are fewer."""
    output = sequence.output
    from_prompt = count - len(output)
    if from_prompt <= 0:
        return output[len(output) - count :]
    return sequence.prompt[max(0, len(sequence.prompt) - from_prompt) :] + output
