"""What single tokens stand for: bytes that add up to the text, at the places where the text has them."""

from collections.abc import Callable

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from gateway.text.tokenizer import Tokenizer, TokenizerFacts
from tests.gateway import vocabularies

NO_FACTS = TokenizerFacts("", {}, clean_up_tokenization_spaces=False)
MAKERS = [
    vocabularies.byte_level,
    vocabularies.sentencepiece_like,
    vocabularies.word_piece,
    vocabularies.unigram,
    vocabularies.word_level,
]
words = st.sampled_from([*vocabularies.SPECIAL_TOKENS, *vocabularies.CORPUS, " ", "\n", "é", "汉字", "🚀"])
texts = st.lists(words | st.text(max_size=6), max_size=6).map("".join)


@pytest.mark.parametrize("make", MAKERS)
@given(text=texts, adds=st.booleans())
def test_the_tokens_are_those_that_encode_gives_and_lie_in_the_text(
    make: Callable[[], tokenizers.Tokenizer], text: str, *, adds: bool
) -> None:
    tokenizer = Tokenizer(make(), NO_FACTS)
    pieces = tokenizer.pieces(text, add_special_tokens=adds)
    assert [piece.token_id for piece in pieces] == tokenizer.encode(text, add_special_tokens=adds)
    size = len(text.encode())
    for piece in pieces:
        assert 0 <= piece.begin <= piece.end <= size
        text.encode()[piece.begin : piece.end].decode()  # whole characters
        assert piece.is_special == (piece.token_id in tokenizer.special_ids)


@given(text=texts)
def test_bytes_of_a_byte_level_vocabulary_add_up_to_the_text(text: str) -> None:
    pieces = Tokenizer(vocabularies.byte_level(), NO_FACTS).pieces(text, add_special_tokens=False)
    assert b"".join(piece.data for piece in pieces) == text.encode()


@given(text=texts)
def test_bytes_with_byte_fallback_add_up_to_the_text_behind_a_space(text: str) -> None:
    tokenizer = Tokenizer(vocabularies.sentencepiece_like(), NO_FACTS)
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = tokenizer.pieces(text, add_special_tokens=False)
    joined = b"".join(piece.data for piece in pieces)
    assert joined.decode(errors="replace").lstrip(" ") == tokenizer.decode(ids, skip_special_tokens=False).lstrip(" ")


def test_a_part_of_a_character_has_all_of_it() -> None:
    pieces = Tokenizer(vocabularies.byte_level(), NO_FACTS).pieces("a🚀", add_special_tokens=False)
    assert (pieces[0].data, pieces[0].begin, pieces[0].end) == (b"a", 0, 1)
    assert {(piece.begin, piece.end) for piece in pieces[1:]} == {(1, 5)}
    assert b"".join(piece.data for piece in pieces[1:]) == "🚀".encode()


def test_a_special_token_in_the_text_is_called_by_its_name() -> None:
    (piece,) = Tokenizer(vocabularies.byte_level(), NO_FACTS).pieces("</s>", add_special_tokens=False)
    assert (piece.data, piece.begin, piece.end, piece.is_special) == (b"</s>", 0, 4, True)
