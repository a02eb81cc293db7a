"""Token ids to text, one token at a time, exactly.

Decoding is not a concatenation: characters span tokens, one invalid byte changes the bytes beside it, the first token
loses its space, special tokens vanish. But all of that is local, so a token is decoded together with the few tokens
before it, and text is given out as soon as nothing that follows can change it. The method is that of
text-generation-inference (a window of ids with an offset up to which it has been read), made exact for runs of byte
tokens and for text that stays invalid.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..domain.served_model import Tokenizer

# An unfinished UTF-8 character has at most 3 bytes, and a token that stands alone has at least one: what lies before
# the last 3 of them cannot change how the text goes on. The rules for the first token and a leading space need one.
_CONTEXT = 3

_REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Decodes the output of one sequence as it comes. Constant time for each token, whatever came before.

    With `before = decode(prompt)` and `after = decode(prompt + output)`, all pushes and the flush concatenated are
    exactly `after[len(common):]`, where `common` is the longest common prefix of `before` and `after`. Nearly always
    that is all of `before`. It is not if the prompt ends within a character (its U+FFFD is then completed by the
    output: the character is given out as a whole), within a run of byte tokens, or before a space that decoding
    cleans up. For the text of prompt and output together, even then, push the prompt's ids behind an empty prompt.

    No U+FFFD is given out that `after` does not have, and no character twice.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], *, skip_special_tokens: bool) -> None:
        """Starts behind a prompt.

        Args:
            tokenizer: The model's tokenizer.
            prompt_ids: The prompt. Only its end is looked at, unless the tokenizer cleans up spaces.
            skip_special_tokens: Whether special tokens are left out of the text, those of the prompt included.
        """
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._skipped_ids = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
        self._ids: list[int] = []
        """The window: the last few tokens that have a text, which unknown and skipped ones have not."""
        self._read = 0
        """Characters of the window's text that have been read."""
        self._replacers: list[_Replacer] = []
        self._prompt_rest = ""
        """The uncertain end of the prompt's own text: output that merely confirms it adds nothing."""
        for token_id in self._tail(filter(self._has_text, reversed(prompt_ids))):
            self.push(token_id)
        self._replacers = [_Replacer(old, new) for old, new in tokenizer.replacements]
        if self._replacers:
            text = tokenizer.join(prompt_ids, skip_special_tokens=skip_special_tokens)
            self._replace(text.removesuffix(self._join()[self._read :]))
        self._prompt_rest = self._rest()

    def push(self, token_id: int) -> str:
        """Takes the next token. Returns the text that became certain with it; often "", never part of a character."""
        tokenizer = self._tokenizer
        if token_id in self._skipped_ids or tokenizer.name_of(token_id) is None:
            return ""
        self._ids.append(token_id)
        if token_id in tokenizer.dependent_ids:
            return ""
        text = tokenizer.join(self._ids, skip_special_tokens=self._skip_special_tokens)
        # At most one U+FFFD stands for a character that is not complete; earlier ones stay.
        certain = len(text) - text.endswith(_REPLACEMENT_CHARACTER)
        new = text[self._read : certain]
        self._read = certain
        if len(self._ids) > 2 * _CONTEXT:
            self._shorten(unread=len(text) - certain)
        if self._replacers:
            new = self._replace(new)
        return self._added(new) if self._prompt_rest else new

    def skipped(self, token_id: int) -> str:
        """The text of a special token that is left out of the text, else ""."""
        return (self._tokenizer.name_of(token_id) or "") if token_id in self._skipped_ids else ""

    def flush(self) -> str:
        """Returns the rest, at the end of the sequence. To be called once."""
        return self._added(self._rest())

    def fork(self) -> Detokenizer:
        """Another one in the same state, for another output of the same prompt."""
        forked = copy(self)
        forked._ids = self._ids.copy()  # noqa: SLF001 - its own class
        forked._replacers = [copy(replacer) for replacer in self._replacers]  # noqa: SLF001
        return forked

    def _replace(self, text: str) -> str:
        for replacer in self._replacers:
            text = replacer.push(text)
        return text

    def _rest(self) -> str:
        """The text that would be the last if nothing followed."""
        text = self._join()[self._read :]
        for replacer in self._replacers:
            text = replacer.rest(text)
        return text

    def _added(self, text: str) -> str:
        """What a text adds to the uncertain end of the prompt's."""
        if not self._prompt_rest:
            return text
        known = _common_length(self._prompt_rest, text)
        self._prompt_rest = self._prompt_rest[known:] if known == len(text) else ""
        return text[known:]

    def _shorten(self, *, unread: int) -> None:
        self._ids = self._tail(reversed(self._ids))
        self._read = len(self._join()) - unread

    def _tail(self, backwards: Iterable[int]) -> list[int]:
        """The shortest end of ids, given from their end on, that determines how their text goes on."""
        tail: list[int] = []
        standing_alone = 0
        for token_id in backwards:
            tail.append(token_id)
            standing_alone += token_id not in self._tokenizer.dependent_ids
            if standing_alone == _CONTEXT:
                break
        return tail[::-1]

    def _has_text(self, token_id: int) -> bool:
        return token_id not in self._skipped_ids and self._tokenizer.name_of(token_id) is not None

    def _join(self) -> str:
        return self._tokenizer.join(self._ids, skip_special_tokens=self._skip_special_tokens)


class _Replacer:
    """`str.replace` over a text that comes in parts."""

    def __init__(self, old: str, new: str) -> None:
        self._old = old
        self._new = new
        self._held = ""

    def push(self, text: str) -> str:
        """Returns what is certain; holds back what may become the beginning of `old`."""
        *before, last = (self._held + text).split(self._old)
        self._held = self._beginning_at_end_of(last)
        return self._new.join([*before, last.removesuffix(self._held)])

    def rest(self, text: str) -> str:
        """Returns what would be the last if only text followed."""
        return (self._held + text).replace(self._old, self._new)

    def _beginning_at_end_of(self, text: str) -> str:
        lengths = range(min(len(self._old) - 1, len(text)), 0, -1)
        return next((self._old[:length] for length in lengths if text.endswith(self._old[:length])), "")


def _common_length(first: str, second: str) -> int:
    differing = (index for index, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    return next(differing, min(len(first), len(second)))
