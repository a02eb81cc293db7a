from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from gateway.text.detokenizer import Detokenizer
from gateway.text.tokenizer import Tokenizer, TokenizerFacts
from tests.gateway import vocabularies

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def _flatten(parts: Iterable[list[int]]) -> list[int]:
    return [token_id for part in parts for token_id in part]


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and the ids of it that are worth trying."""

    backend: tokenizers.Tokenizer
    tokenizer: Tokenizer
    broken_ids: tuple[int, ...]
    special_ids: tuple[int, ...]

    def ids(self) -> st.SearchStrategy[list[int]]:
        """Any ids, with many special ones, halves of characters, ids that the tokenizer lacks, and pieces of text."""
        size = self.backend.get_vocab_size()
        single = st.one_of(
            st.integers(0, size + 2), st.sampled_from(self.broken_ids or (0,)), st.sampled_from(self.special_ids)
        )
        texts = [self.backend.encode(line, add_special_tokens=False).ids for line in vocabularies.CORPUS]
        places = st.tuples(st.sampled_from(texts), st.integers(0, 99), st.integers(1, 8))
        piece = places.map(lambda drawn: drawn[0][drawn[1] : drawn[1] + drawn[2]])
        return st.lists(st.one_of(st.lists(single, max_size=4), piece), max_size=8).map(_flatten)

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def id(self, token: str) -> int:
        token_id = self.backend.token_to_id(token)
        assert token_id is not None
        return token_id


def build(backend: tokenizers.Tokenizer) -> Vocabulary:
    backend = tokenizers.Tokenizer.from_str(backend.to_str())
    tokenizer = Tokenizer(backend, TokenizerFacts("", {}, clean_up_tokenization_spaces=True))
    broken = tuple(i for i in range(backend.get_vocab_size()) if _UNKNOWN in backend.decode([i]))
    special = tuple(i for i, token in backend.get_added_tokens_decoder().items() if token.special)
    return Vocabulary(backend, tokenizer, broken, special)


BYTE_LEVEL = build(vocabularies.byte_level())
SENTENCEPIECE_LIKE = build(vocabularies.sentencepiece_like())
WORD_PIECE = build(vocabularies.word_piece())
OTHERS = [build(make()) for make in (vocabularies.unigram, vocabularies.word_level)]

every_vocabulary = pytest.mark.parametrize(
    "vocabulary",
    [BYTE_LEVEL, SENTENCEPIECE_LIKE, WORD_PIECE, *OTHERS],
    ids=["byte-level", "sentencepiece-like", "word-piece", "unigram", "word-level"],
)


def single_bytes(vocabulary: Vocabulary, text: bytes) -> list[int]:
    """The ids of the tokens that stand for one byte each."""
    if vocabulary is SENTENCEPIECE_LIKE:
        return [vocabulary.id(f"<0x{byte:02X}>") for byte in text]
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in visible]
    return [vocabulary.id(chr(byte if byte in visible else 0x100 + others.index(byte))) for byte in text]


def pushed(vocabulary: Vocabulary, prompt: Sequence[int], output: Sequence[int], *, skip: bool = True) -> list[str]:
    """What each push gives, and the flush last."""
    detokenizer = Detokenizer(vocabulary.tokenizer, prompt, skip_special_tokens=skip)
    return [*map(detokenizer.push, output), detokenizer.flush()]


def added(vocabulary: Vocabulary, prompt: Sequence[int], output: Sequence[int], *, skip: bool = True) -> str:
    """What decode(prompt + output) adds to decode(prompt)."""
    before = vocabulary.tokenizer.decode(prompt, skip_special_tokens=skip)
    after = vocabulary.tokenizer.decode([*prompt, *output], skip_special_tokens=skip)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    return after[common:]


@every_vocabulary
@given(data=st.data(), skip=st.booleans())
@settings(max_examples=100, deadline=None)
def test_pushes_and_flush_are_what_the_output_adds_to_the_prompt(
    vocabulary: Vocabulary, data: st.DataObject, *, skip: bool
) -> None:
    prompt, output = data.draw(vocabulary.ids()), data.draw(vocabulary.ids())
    assert "".join(pushed(vocabulary, prompt, output, skip=skip)) == added(vocabulary, prompt, output, skip=skip)


@every_vocabulary
@given(data=st.data(), skip=st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_prompt_pushed_behind_an_empty_one_gives_the_whole_text(
    vocabulary: Vocabulary, data: st.DataObject, *, skip: bool
) -> None:
    ids = data.draw(vocabulary.ids())
    assert "".join(pushed(vocabulary, [], ids, skip=skip)) == vocabulary.tokenizer.decode(ids, skip_special_tokens=skip)


@every_vocabulary
@given(data=st.data(), skip=st.booleans())
@settings(max_examples=50, deadline=None)
def test_forks_go_on_each_by_itself(vocabulary: Vocabulary, data: st.DataObject, *, skip: bool) -> None:
    prompt, shared, one, other = (data.draw(vocabulary.ids()) for _ in range(4))
    detokenizer = Detokenizer(vocabulary.tokenizer, prompt, skip_special_tokens=skip)
    before = [detokenizer.push(token_id) for token_id in shared]
    forks = [detokenizer.fork(), detokenizer.fork()]

    for fork, output in zip(forks, (one, other), strict=True):
        texts = [*before, *map(fork.push, output), fork.flush()]
        assert texts == pushed(vocabulary, prompt, [*shared, *output], skip=skip)


@given(output=BYTE_LEVEL.ids())
@settings(max_examples=100, deadline=None)
def test_byte_level_text_comes_with_its_last_byte(output: list[int]) -> None:
    texts = pushed(BYTE_LEVEL, [], output)
    for end in range(len(output) + 1):
        so_far = BYTE_LEVEL.tokenizer.decode(output[:end], skip_special_tokens=True)
        assert "".join(texts[:end]) == so_far.removesuffix(_UNKNOWN)


@given(output=SENTENCEPIECE_LIKE.ids())
@settings(max_examples=100, deadline=None)
def test_text_with_byte_fallback_comes_unless_a_run_of_byte_tokens_goes_on(output: list[int]) -> None:
    output = [token_id for token_id in output if SENTENCEPIECE_LIKE.backend.id_to_token(token_id) is not None]
    texts = pushed(SENTENCEPIECE_LIKE, [], output, skip=False)
    for end in range(1, len(output) + 1):
        if output[end - 1] not in SENTENCEPIECE_LIKE.tokenizer.dependent_ids:
            so_far = SENTENCEPIECE_LIKE.tokenizer.decode(output[:end], skip_special_tokens=False)
            assert "".join(texts[:end]) == so_far


def test_a_character_comes_whole_with_its_last_token() -> None:
    output = BYTE_LEVEL.encode("\N{SLICE OF PIZZA}")
    assert len(output) > 1
    assert pushed(BYTE_LEVEL, [], output) == [*[""] * (len(output) - 1), "\N{SLICE OF PIZZA}", ""]


def test_a_character_that_the_prompt_begins_is_completed() -> None:
    *prompt, last = BYTE_LEVEL.encode("cats \N{SLICE OF PIZZA}")
    assert BYTE_LEVEL.tokenizer.decode(prompt, skip_special_tokens=True) == f"cats {_UNKNOWN}"
    assert pushed(BYTE_LEVEL, prompt, [last]) == ["\N{SLICE OF PIZZA}", ""]


def test_a_character_that_the_prompt_begins_and_nothing_completes_is_not_repeated() -> None:
    *prompt, _ = BYTE_LEVEL.encode("cats \N{SLICE OF PIZZA}")
    assert pushed(BYTE_LEVEL, prompt, BYTE_LEVEL.encode("s")) == ["s", ""]
    assert pushed(BYTE_LEVEL, prompt, []) == [""]


def test_the_space_between_prompt_and_output_is_kept() -> None:
    prompt, output = SENTENCEPIECE_LIKE.encode("Once upon"), SENTENCEPIECE_LIKE.encode("a time")
    assert "".join(pushed(SENTENCEPIECE_LIKE, prompt, output)) == " a time"
    assert "".join(pushed(SENTENCEPIECE_LIKE, [], output)) == "a time"


def test_one_invalid_byte_turns_its_whole_run_into_replacement_characters() -> None:
    run = [SENTENCEPIECE_LIKE.id(f"<0x{byte:02X}>") for byte in (0xE2, 0x82, 0xAC, 0xFF)]
    word = SENTENCEPIECE_LIKE.encode("cats")
    assert "".join(pushed(SENTENCEPIECE_LIKE, word, [*run[:3], *word])) == "€ cats"
    assert "".join(pushed(SENTENCEPIECE_LIKE, word, [*run, *word])) == f"{_UNKNOWN * 4} cats"


@pytest.mark.parametrize("invalid", [b"", b"\xff"], ids=["valid", "invalid"])
@pytest.mark.parametrize("vocabulary", [BYTE_LEVEL, SENTENCEPIECE_LIKE], ids=["byte-level", "sentencepiece-like"])
def test_characters_may_be_cut_into_single_bytes_and_prompt_and_output_anywhere(
    vocabulary: Vocabulary, invalid: bytes
) -> None:
    word = vocabulary.encode(" cats")
    ids = [*word, *single_bytes(vocabulary, "é€\N{SLICE OF PIZZA}".encode() * 2 + invalid), *word]
    for cut in range(len(ids)):
        assert "".join(pushed(vocabulary, ids[:cut], ids[cut:])) == added(vocabulary, ids[:cut], ids[cut:])


def test_an_added_token_that_decodes_to_an_invalid_byte_delays_nothing_for_long() -> None:
    token_id = BYTE_LEVEL.id("ö")
    assert pushed(BYTE_LEVEL, [], [token_id] * 3) == ["", _UNKNOWN, _UNKNOWN, _UNKNOWN]


def test_spaces_are_cleaned_up_across_tokens_and_from_the_prompt_on() -> None:
    prompt = WORD_PIECE.encode("she loved dogs")
    output = WORD_PIECE.encode(", cats . it ' s")
    assert "".join(pushed(WORD_PIECE, prompt, output)) == ", cats. it's"


def test_a_space_that_clean_up_took_from_the_prompt_comes_back_if_its_reason_goes() -> None:
    tokens = ["<unk>", "cats", " ", "<0x2E>", "<0xFF>"]
    backend = tokenizers.Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, tokens[0]))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    vocabulary = build(backend)
    cats, space, stop, invalid = (vocabulary.id(token) for token in tokens[1:])
    assert vocabulary.tokenizer.decode([cats, space, stop], skip_special_tokens=True) == "cats."
    assert "".join(pushed(vocabulary, [cats, space, stop], [cats])) == "cats"
    assert "".join(pushed(vocabulary, [cats, space, stop], [invalid, cats])) == f" {_UNKNOWN * 2}cats"


@pytest.mark.parametrize(
    ("vocabulary", "unit"),
    [
        (BYTE_LEVEL, BYTE_LEVEL.encode("a little girl who loved 日本語 ")),
        (BYTE_LEVEL, BYTE_LEVEL.broken_ids),
        (BYTE_LEVEL, BYTE_LEVEL.special_ids),
        (SENTENCEPIECE_LIKE, SENTENCEPIECE_LIKE.encode("a little girl who loved 日本語 ")),
        (SENTENCEPIECE_LIKE, SENTENCEPIECE_LIKE.broken_ids),
        (OTHERS[1], (OTHERS[1].id(""),)),
    ],
    ids=["text", "invalid bytes", "special", "text with byte fallback", "byte tokens", "token without text"],
)
def test_the_cost_of_a_token_does_not_grow(
    vocabulary: Vocabulary, unit: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = counted(vocabulary.tokenizer.join, monkeypatch, vocabulary.tokenizer)
    output = ([*unit] * 2000)[:2000]
    pushed(vocabulary, output, output)
    assert sum(decoded) <= 20 * len(output)


def test_only_the_end_of_a_long_prompt_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = counted(BYTE_LEVEL.tokenizer.join, monkeypatch, BYTE_LEVEL.tokenizer)
    Detokenizer(BYTE_LEVEL.tokenizer, BYTE_LEVEL.encode("cats and dogs ") * 10_000, skip_special_tokens=True)
    assert 0 < sum(decoded) < 50


def counted(join: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> list[int]:
    """Records how many ids each decoding takes from now on."""
    lengths: list[int] = []

    def counting(ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        lengths.append(len(ids))
        return join(ids, skip_special_tokens=skip_special_tokens)

    monkeypatch.setattr(tokenizer, "join", counting)
    return lengths
