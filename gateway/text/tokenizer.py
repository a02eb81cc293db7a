"""Text to token ids and back: the worker's own tokenizer, run without transformers and torch.

Ids and text are those of transformers' AutoTokenizer for the same model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import tokenizers

from .chat_template import ChatTemplate, TemplateError
from .pieces import PieceReader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..domain.request import ChatPrompt
    from .pieces import Piece

_FEW_IDS = 256

# As in transformers' clean_up_tokenization: applied to the whole text, one after the other.
_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """What a tokenizer.json does not hold."""

    chat_template: str
    """Jinja source of the chat template; empty if there is none."""

    special_tokens: Mapping[str, str]
    """The named special tokens, such as bos_token to "<s>"."""

    clean_up_tokenization_spaces: bool
    """Whether decoding removes spaces before punctuation. No effect on BPE models, as in transformers."""

    clean_up_bpe: bool = False
    """Whether it has an effect on BPE models, too."""

    split_special_tokens: bool = False
    """Whether the text of a special token in a prompt is tokenized like other text."""


class Tokenizer:
    """A model's tokenizer and chat template. Immutable; may be used from several threads at once.

    `encode`, `encode_chat` and `decode` let other threads run while they work, so that a caller with an event loop can
    put long prompts into a thread: a megabyte takes about a second. All are linear in the length of the text.
    """

    def __init__(self, backend: tokenizers.Tokenizer, facts: TokenizerFacts) -> None:
        """Takes over the backend: its truncation and padding are switched off."""
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = facts.split_special_tokens
        self._backend = backend
        self._facts = facts
        # Looked at for each token: attributes, not properties.
        self.special_ids = _special_ids(backend)
        """Ids of the special tokens."""
        self.dependent_ids = _dependent_ids(backend)
        """Ids of the tokens whose text depends on their neighbours.

        These are the byte tokens of a vocabulary with byte fallback, of which a run is decoded as a whole: one invalid
        byte turns every byte of its run into U+FFFD; and the token without text, if the vocabulary has one.
        """
        self.replacements = _replacements(backend, facts)
        """The replacements (old, new) that `decode` makes in the whole joined text, in order; usually none."""
        self.name_of: Callable[[int], str | None] = backend.id_to_token
        """What a token is called in the vocabulary, such as "<|im_start|>"; None for an id that is not there."""
        self.id_count = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        """One more than the largest id that `encode` may give."""
        self.takes_tools = self._looks_at_tools()
        """Whether the chat template looks at tools. Found out once: a broken one would be compiled for each request."""

    @classmethod
    def from_parts(cls, serialized: bytes, info: TokenizerFacts) -> Tokenizer:
        """Reads a serialized tokenizer: the content of a tokenizer.json.

        Raises:
            ValueError: It is not one.
        """
        return cls(tokenizers.Tokenizer.from_buffer(serialized), info)

    @property
    def has_chat_template(self) -> bool:
        """Whether `encode_chat` can work."""
        return bool(self._facts.chat_template)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, with the special tokens that the tokenizer adds by itself, or without.

        The text of a special token within it becomes that token, as in transformers, unless the model says otherwise.
        """
        # Not `encode`: that one computes offsets, and keeps all other threads waiting.
        return self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids

    def pieces(self, text: str, *, add_special_tokens: bool = True) -> list[Piece]:
        """The same tokens, with what each stands for. It takes several times as long."""
        return self._pieces.read(text, add_special_tokens=add_special_tokens)

    def render(self, chat: ChatPrompt) -> str:
        """The text of a conversation; raises as `encode_chat`."""
        return self._chat_template.render(chat)

    def encode_chat(self, chat: ChatPrompt) -> list[int]:
        """Token ids of a conversation, up to where the model goes on. The template writes the special tokens.

        What callers write is data to the template, never part of it. But the text of a special token within a message
        becomes that token, as in transformers: so a caller can forge turns, in the own conversation only.

        Raises:
            TemplateError: There is no template, it is broken, or it refuses the messages.
        """
        return self.encode(self.render(chat), add_special_tokens=False)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of token ids. An id that the tokenizer does not know has no text.

        A model's vocabulary may be larger than its tokenizer's, so such ids can be generated.
        """
        text = self._backend.decode_batch([ids], skip_special_tokens=skip_special_tokens)[0]
        for old, new in self.replacements:
            text = text.replace(old, new)
        return text

    def join(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of token ids before the `replacements`."""
        if len(ids) > _FEW_IDS:
            return self._backend.decode_batch([ids], skip_special_tokens=skip_special_tokens)[0]
        # Faster, but it keeps all other threads waiting.
        return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def _looks_at_tools(self) -> bool:
        try:
            return self._chat_template.takes_tools
        except TemplateError:
            return False  # a model with a broken template, or none, still serves plain text

    @cached_property
    def _chat_template(self) -> ChatTemplate:
        if not self.has_chat_template:
            raise TemplateError("the model has no chat template")
        return ChatTemplate(self._facts.chat_template, self._facts.special_tokens)

    @cached_property
    def _pieces(self) -> PieceReader:
        return PieceReader(self._backend, self.special_ids)


def _replacements(backend: tokenizers.Tokenizer, facts: TokenizerFacts) -> tuple[tuple[str, str], ...]:
    is_bpe = isinstance(backend.model, tokenizers.models.BPE)
    return _CLEAN_UP if facts.clean_up_tokenization_spaces and (facts.clean_up_bpe or not is_bpe) else ()


def _special_ids(backend: tokenizers.Tokenizer) -> frozenset[int]:
    return frozenset(token_id for token_id, token in backend.get_added_tokens_decoder().items() if token.special)


def _dependent_ids(backend: tokenizers.Tokenizer) -> frozenset[int]:
    decoder = backend.decoder
    has_byte_fallback = decoder is not None and decoder.decode(["<0x41>"]) == "A"
    digits = product("0123456789ABCDEFabcdef", repeat=2) if has_byte_fallback else ()
    ids = (backend.token_to_id(token) for token in ("", *(f"<0x{high}{low}>" for high, low in digits)))
    return frozenset(token_id for token_id in ids if token_id is not None)
