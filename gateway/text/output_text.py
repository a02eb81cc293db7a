"""The text of one candidate: decoded token by token, and ended by a stop sequence. Pure.

Stop sequences are looked for in the text with its special tokens, as transformers' `stop_strings` are, also where those
are left out of what is delivered.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .stopping import StopMatcher

if TYPE_CHECKING:
    from .detokenizer import Detokenizer


@dataclass(frozen=True, slots=True)
class Stopping:
    """Where a request wants its candidates to end, besides the model's own end."""

    sequences: tuple[str, ...] = ()
    """Texts that end it, none of them empty."""

    token_ids: frozenset[int] = frozenset()
    """Tokens that end it."""

    min_new_tokens: int = 0
    """Stop sequences are looked for in the text of the tokens after so many; what came before is no part of any."""

    is_included: bool = False
    """Whether the stop sequence, or the text of the stop token, belongs to the text."""


class OutputText:
    """Turns tokens into the text that is to be delivered.

    Args:
        detokenizer: Its own, standing behind the prompt.
        stopping: Where the text ends.
    """

    def __init__(self, detokenizer: Detokenizer, stopping: Stopping) -> None:
        self.chars = 0
        """Characters that are complete, those included that are held back because they may become a stop sequence."""
        self.stop_sequence: str | None = None
        """The stop sequence that has ended the text. Nothing may be pushed after it."""
        self._detokenizer = detokenizer
        self._stopping = stopping
        self._matcher = StopMatcher(stopping.sequences) if stopping.sequences else None
        self._token_count = 0
        self._last = ""

    def fork(self) -> OutputText:
        """Another one in the same state, for another candidate of the same request."""
        forked = copy(self)
        forked._detokenizer = self._detokenizer.fork()  # noqa: SLF001 - its own class
        forked._matcher = self._matcher and self._matcher.fork()  # noqa: SLF001
        return forked

    def push(self, token_id: int) -> str:
        """Takes the next token; returns the text that is certain with it."""
        self._token_count += 1
        if token_id in self._stopping.token_ids:
            return self._push_end(token_id)
        text = self._detokenizer.push(token_id)
        if self._matcher is None:
            self.chars += len(text)
            return text
        text = self._match(text)
        if self.stop_sequence is None and (skipped := self._detokenizer.skipped(token_id)):
            text += self._match_skipped(skipped)
        return text

    def flush(self) -> str:
        """Returns what was held back, at an end without a stop sequence, which it may still turn out to have."""
        text = self._match(self._detokenizer.flush() + self._last)
        return text if self._matcher is None or self.stop_sequence is not None else text + self._matcher.flush()

    def _push_end(self, token_id: int) -> str:
        """Takes a stop token. What it completes, and the text of a special one, comes with the flush that follows."""
        if not self._stopping.is_included:
            return ""
        self._last = self._detokenizer.skipped(token_id)
        return self._match(self._detokenizer.push(token_id))

    def _match_skipped(self, skipped: str) -> str:
        """Looks for stop sequences in the text of a special token, behind what would be the last before it."""
        matcher, chars = copy(self._matcher), self.chars
        text = self._match(self._detokenizer.fork().flush())
        if self.stop_sequence is None:
            text += self._match(skipped, is_shown=False)
        if self.stop_sequence is None:  # then what follows may still change it
            self._matcher, self.chars = matcher, chars
            text = self._match(skipped, is_shown=False)
        return text

    def _match(self, text: str, *, is_shown: bool = True) -> str:
        self.chars += len(text) if is_shown else 0
        if self._matcher is None or not text or self._token_count <= self._stopping.min_new_tokens:
            return text if is_shown else ""
        result = self._matcher.push(text, is_shown=is_shown)
        self.stop_sequence = result.stop_sequence
        if result.stop_sequence is not None and self._stopping.is_included:
            return result.text + result.stop_sequence
        return result.text
