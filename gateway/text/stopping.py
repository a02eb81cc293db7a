"""Stop sequences: where the text of a candidate ends. Pure; knows text only, no tokens.

The automaton is that of Aho and Corasick, "Efficient string matching" (1975): it finds all stop sequences in one pass,
and its depth is the length of the longest end of the text that may still become one.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class StopResult:
    """What one push leads to."""

    text: str
    """To be delivered now."""

    stop_sequence: str | None
    """The stop sequence that ended the text, None while there is none."""


class StopMatcher:
    """Finds the first stop sequence in a text that comes in parts, and holds back what may become one.

    The stop sequence that is complete first ends the text, the longest if several are complete with the same character:
    what the text looks like is then decided as soon as it is there, and is the same however the text is cut into parts.
    (So one that contains another, other than at its end, never comes about: the inner one is complete before it.) No
    character of the stop sequence found is delivered; as few others as possible are held back.

    Takes time linear in the text, whatever the stop sequences are.

    The push that returns a stop sequence is the one whose token completed it: the token ids that belong to the text are
    those up to and including that token. All that the worker generated later is dropped. At the end of a sequence
    without a match, push what the detokenizer flushes (it may complete a stop sequence), then flush.
    """

    def __init__(self, stop_sequences: Sequence[str]) -> None:
        """Builds the automaton, in time linear in the stop sequences.

        Args:
            stop_sequences: Texts that end the generation; none of them empty.

        Raises:
            ValueError: One is empty.
        """
        self._automaton = _Automaton(stop_sequences) if stop_sequences else None
        self._state = 0
        self._held = ""
        self._shown = b""

    def fork(self) -> StopMatcher:
        """Another one in the same state, for another text. They share the automaton."""
        return copy(self)

    def push(self, text: str, *, is_shown: bool = True) -> StopResult:
        """Takes more text, which is searched but never delivered unless `is_shown`. Nothing may follow a match."""
        if self._automaton is None:
            return StopResult(text if is_shown else "", None)
        self._state, end = self._automaton.advance(self._state, text)
        stop_sequence = self._automaton.complete[self._state]
        text, shown = self._held + text[:end], self._shown + bytes([is_shown]) * end
        cut = len(text) - (len(stop_sequence) if stop_sequence else self._automaton.depth[self._state])
        self._held, self._shown = ("", b"") if stop_sequence else (text[cut:], shown[cut:])
        return StopResult(_delivered(text[:cut], shown), stop_sequence)

    def flush(self) -> str:
        """Returns what was held back, at an end without a match."""
        held = _delivered(self._held, self._shown)
        self._held, self._shown, self._state = "", b"", 0
        return held


def _delivered(text: str, shown: bytes) -> str:
    """The characters that are shown."""
    return text if 0 not in shown else "".join(compress(text, shown))


class _Automaton:
    """Its states are the beginnings of the stop sequences; 0 is the empty one.

    Attributes:
        depth: For each state, its length in characters.
        complete: For each state, the longest stop sequence that it ends with, or None.
    """

    def __init__(self, stop_sequences: Sequence[str]) -> None:
        self.depth = [0]
        self.complete: list[str | None] = [None]
        self._next: list[dict[str, int]] = [{}]
        self._shorter = [0]
        for stop_sequence in stop_sequences:
            self._insert(stop_sequence)
        self._link()

    def advance(self, state: int, text: str) -> tuple[int, int]:
        """The state after text, or after the first stop sequence in it, and how much of text leads there."""
        if not state and self._next[0].keys().isdisjoint(text):
            return 0, len(text)  # by far the most frequent case
        for end, character in enumerate(text, start=1):
            state = self._step(state, character)
            if self.complete[state] is not None:
                return state, end
        return state, len(text)

    def _insert(self, stop_sequence: str) -> None:
        if not stop_sequence:
            raise ValueError("a stop sequence cannot be empty")
        state = 0
        for character in stop_sequence:
            state = self._next[state].get(character) or self._add(state, character)
        self.complete[state] = stop_sequence

    def _add(self, parent: int, character: str) -> int:
        state = len(self.depth)
        self._next[parent][character] = state
        self._next.append({})
        self._shorter.append(0)
        self.depth.append(self.depth[parent] + 1)
        self.complete.append(None)
        return state

    def _link(self) -> None:
        """Links each state to the longest shorter one that it ends with, shorter states first."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for character, child in self._next[state].items():
                self._shorter[child] = self._step(self._shorter[state], character)
                queue.append(child)
            if self.complete[state] is None:
                self.complete[state] = self.complete[self._shorter[state]]

    def _step(self, state: int, character: str) -> int:
        while state and character not in self._next[state]:
            state = self._shorter[state]
        return self._next[state].get(character, 0)
