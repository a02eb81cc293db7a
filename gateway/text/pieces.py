"""What single tokens stand for: their bytes as the vocabulary has them, and where they are in a text."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import tokenizers


@dataclass(frozen=True, slots=True)
class Piece:
    """What one token of a text stands for. Places are in bytes of UTF-8."""

    token_id: int
    data: bytes
    """Its bytes; of a special token, its name."""
    begin: int
    end: int
    is_special: bool


class PieceReader:
    """Tells what the tokens of one tokenizer stand for.

    Args:
        backend: The tokenizer.
        special_ids: Ids of its special tokens.
    """

    def __init__(self, backend: tokenizers.Tokenizer, special_ids: frozenset[int]) -> None:
        self._backend = backend
        self._special_ids = special_ids
        self._added = {token_id: str(token.content) for token_id, token in backend.get_added_tokens_decoder().items()}
        self._bytes_of = _bytes_of(backend)

    def read(self, text: str, *, add_special_tokens: bool) -> list[Piece]:
        """The tokens of a text, in order."""
        (encoding,) = self._backend.encode_batch([text], add_special_tokens=add_special_tokens)
        places = [0, *accumulate(len(character.encode()) for character in text)]
        return [
            Piece(
                token_id,
                self._data(token_id, token, text[begin:end]),
                places[begin],
                places[end],
                token_id in self._special_ids,
            )
            for token_id, token, (begin, end) in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
        ]

    def _data(self, token_id: int, token: str, text: str) -> bytes:
        # An added token is taken from the text as it is, whatever the model's alphabet; but the name of a byte may be
        # added, too, and stands for that byte in other characters.
        added = self._added.get(token_id)
        if added is None or not (token_id in self._special_ids or added in text):
            return self._bytes_of(token)
        return added.encode()


def _bytes_of(backend: tokenizers.Tokenizer) -> Callable[[str], bytes]:
    """How a token's name becomes its bytes, as the tokenizer's own decoder does it."""

    def joined(*tokens: str) -> str:
        return "".join(tokens) if backend.decoder is None else backend.decoder.decode(list(tokens))

    if joined("Ġ") == " ":
        return lambda token: bytes(_BYTES.get(character, ord("?")) for character in token)
    has_byte_fallback = joined("<0x41>") == "A"
    space = "▁" if joined("x", "▁y") == "x y" else ""
    inner = "##" if joined("x", "##y") == "xy" else ""

    def bytes_of(token: str) -> bytes:
        if has_byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes.fromhex(token[3:5])
        bare = token.removeprefix(inner)
        return (bare.replace(space, " ") if space else bare).encode()

    return bytes_of


def _alphabet() -> Sequence[tuple[str, int]]:
    """The characters that byte-level vocabularies write bytes with: visible ones as they are, others from 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return [(chr(byte), byte) for byte in visible] + [(chr(256 + index), byte) for index, byte in enumerate(others)]


_BYTES = dict(_alphabet())
