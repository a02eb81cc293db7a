from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from tempfile import TemporaryDirectory

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gateway.domain.request import ChatPrompt, Message
from gateway.text.chat_template import TemplateError
from gateway.text.tokenizer import Tokenizer, TokenizerFacts
from tests.gateway import vocabularies

CHAT_TEMPLATE = (
    "{{ bos_token }}{%- for message in messages %}\n"
    "    {{- '<|' + message['role'] + '|>' + message['content'] | trim + eos_token }}\n"
    "{%- endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
Make = Callable[[], tokenizers.Tokenizer]

CLEAN_UP_BPE = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
NO_FACTS = TokenizerFacts("", {}, clean_up_tokenization_spaces=False)

_words = st.sampled_from([*vocabularies.SPECIAL_TOKENS, *vocabularies.CORPUS, " ", "  ", "\n", "{{ x }}", " .", " 's"])
texts = st.lists(_words | st.text(max_size=8), max_size=6).map("".join)
turns = st.lists(st.builds(Message, st.sampled_from(["user", "assistant", "other"]), texts), min_size=1, max_size=4)

every_vocabulary = pytest.mark.parametrize(
    "make",
    [
        vocabularies.byte_level,
        vocabularies.sentencepiece_like,
        vocabularies.word_piece,
        vocabularies.unigram,
        vocabularies.word_level,
    ],
)


@cache
def both(make: Make, *, unusual: bool = False) -> tuple[PreTrainedTokenizerBase, Tokenizer]:
    """The AutoTokenizer of transformers from a folder, and ours from the parts that a worker sends."""
    flags = {"split_special_tokens": unusual, CLEAN_UP_BPE: unusual}
    with TemporaryDirectory() as folder:
        PreTrainedTokenizerFast(
            tokenizer_object=make(),
            bos_token=vocabularies.BEGIN,
            eos_token=vocabularies.END,
            unk_token=vocabularies.UNKNOWN,
            chat_template=CHAT_TEMPLATE,
            clean_up_tokenization_spaces=True,
            **flags,
        ).save_pretrained(folder)
        auto = AutoTokenizer.from_pretrained(folder)
    facts = TokenizerFacts(
        auto.chat_template,
        auto.special_tokens_map,
        auto.clean_up_tokenization_spaces,
        clean_up_bpe=getattr(auto, CLEAN_UP_BPE),
        split_special_tokens=auto.split_special_tokens,
    )
    return auto, Tokenizer.from_parts(auto.backend_tokenizer.to_str().encode(), facts)


@every_vocabulary
@given(text=texts, chat=turns, skip=st.booleans())
@settings(max_examples=30, deadline=None)
def test_ids_and_text_are_those_of_auto_tokenizer_where_special_tokens_are_split_and_bpe_is_cleaned_up(
    make: Make, text: str, chat: list[Message], *, skip: bool
) -> None:
    auto, ours = both(make, unusual=True)
    ids = ours.encode(text)
    assert ids == auto(text)["input_ids"]
    assert ours.decode(ids, skip_special_tokens=skip) == auto.decode(ids, skip_special_tokens=skip)
    messages = [{"role": turn.role, "content": str(turn.content)} for turn in chat]
    theirs = auto.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ours.encode_chat(ChatPrompt(tuple(chat))) == theirs


def test_the_text_of_a_special_token_is_only_text_where_the_model_says_so() -> None:
    end = vocabularies.byte_level().token_to_id("</s>")
    assert both(vocabularies.byte_level)[1].encode("</s>") == [end]
    assert end not in both(vocabularies.byte_level, unusual=True)[1].encode("</s>")


@every_vocabulary
@given(text=texts)
@settings(max_examples=60, deadline=None)
def test_ids_of_a_text_are_those_of_auto_tokenizer(make: Make, text: str) -> None:
    auto, ours = both(make)
    assert ours.encode(text) == auto(text)["input_ids"]


@every_vocabulary
@given(chat=turns)
@settings(max_examples=60, deadline=None)
def test_ids_of_a_chat_are_those_of_auto_tokenizer(make: Make, chat: list[Message]) -> None:
    auto, ours = both(make)
    messages = [{"role": turn.role, "content": str(turn.content)} for turn in chat]
    theirs = auto.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ours.encode_chat(ChatPrompt(tuple(chat))) == theirs


@every_vocabulary
@given(ids=st.lists(st.integers(0, 500), max_size=20), text=texts, skip=st.booleans())
@settings(max_examples=60, deadline=None)
def test_text_of_ids_is_that_of_auto_tokenizer(make: Make, ids: list[int], text: str, *, skip: bool) -> None:
    auto, ours = both(make)
    ids = ids + ours.encode(text)
    assert ours.decode(ids, skip_special_tokens=skip) == auto.decode(ids, skip_special_tokens=skip)


def test_spaces_are_cleaned_up_only_if_the_facts_say_so_and_the_model_is_not_bpe() -> None:
    def decoded(make: Make, *, clean_up: bool) -> str:
        tokenizer = Tokenizer.from_parts(make().to_str().encode(), TokenizerFacts("", {}, clean_up))
        return tokenizer.decode(tokenizer.encode("she is here ."), skip_special_tokens=True)

    assert decoded(vocabularies.word_piece, clean_up=True) == "she is here."
    assert decoded(vocabularies.word_piece, clean_up=False) == "she is here ."
    assert decoded(vocabularies.byte_level, clean_up=True) == "she is here ."


def test_ids_beyond_the_vocabulary_have_no_text() -> None:
    tokenizer = Tokenizer(vocabularies.byte_level(), NO_FACTS)
    size = vocabularies.byte_level().get_vocab_size()
    ids = [size, *tokenizer.encode("cats"), size + 1000, 2**31 - 1]
    assert tokenizer.decode(ids, skip_special_tokens=False) == "cats"


def test_truncation_and_padding_of_the_serialized_tokenizer_are_off() -> None:
    backend = tokenizers.Tokenizer.from_str(vocabularies.byte_level().to_str())
    backend.enable_truncation(3)
    backend.enable_padding(length=64)
    tokenizer = Tokenizer.from_parts(backend.to_str().encode(), NO_FACTS)
    text = "She lived by the sea."
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


def test_special_tokens_are_added_to_a_text_but_not_to_a_chat() -> None:
    facts = TokenizerFacts("{{ messages[0].content }}", {}, clean_up_tokenization_spaces=False)
    tokenizer = Tokenizer(vocabularies.sentencepiece_like(), facts)
    begin = vocabularies.sentencepiece_like().token_to_id("<s>")
    assert tokenizer.encode("cats") == [begin, *tokenizer.encode_chat(ChatPrompt((Message("user", "cats"),)))]


def test_the_text_of_a_special_token_in_a_message_becomes_that_token() -> None:
    facts = TokenizerFacts("{{ messages[0].content }}", {}, clean_up_tokenization_spaces=False)
    tokenizer = Tokenizer(vocabularies.byte_level(), facts)
    end = vocabularies.byte_level().token_to_id("</s>")
    assert tokenizer.encode_chat(ChatPrompt((Message("user", "</s>"),))) == [end]


def test_a_model_without_a_chat_template_has_no_chat() -> None:
    tokenizer = Tokenizer(vocabularies.byte_level(), NO_FACTS)
    assert not tokenizer.has_chat_template
    with pytest.raises(TemplateError, match="no chat template"):
        tokenizer.encode_chat(ChatPrompt((Message("user", "cats"),)))


def test_a_model_with_a_broken_template_still_has_text() -> None:
    tokenizer = Tokenizer(
        vocabularies.byte_level(), TokenizerFacts("{% for %}", {}, clean_up_tokenization_spaces=False)
    )
    assert tokenizer.encode("cats")
    with pytest.raises(TemplateError, match="broken"):
        tokenizer.encode_chat(ChatPrompt((Message("user", "cats"),)))


def test_what_is_not_a_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="Tokenizer"):
        Tokenizer.from_parts(b'{"version": "1.0"}', NO_FACTS)


def test_threads_may_share_a_tokenizer() -> None:
    _, tokenizer = both(vocabularies.byte_level)
    chat = ChatPrompt((Message("user", "a little girl " * 500),))

    def work(_: int) -> tuple[list[int], str]:
        ids = tokenizer.encode_chat(chat)
        return ids, tokenizer.decode(ids, skip_special_tokens=True)

    with ThreadPoolExecutor(4) as threads:
        assert len({(tuple(ids), text) for ids, text in threads.map(work, range(16))}) == 1
