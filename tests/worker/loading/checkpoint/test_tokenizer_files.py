"""The tokenizer as it is sent to gateways."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.worker.tiny_models import tiny_tokenizer
from worker.loading.checkpoint.tokenizer_files import CHUNK_BYTES, TokenizerFiles, tokenizer_files

MIB = 1 << 20


@given(st.sampled_from([0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 5 * MIB + 17]))
def test_chunks_of_at_most_one_mib_make_up_the_whole(size: int) -> None:
    files = TokenizerFiles(bytes(range(256)) * (size // 256) + b"x" * (size % 256), "", {}, False)
    chunks = list(files.chunks())
    assert b"".join(chunks) == files.serialized
    assert all(0 < len(chunk) <= CHUNK_BYTES == MIB for chunk in chunks)
    assert len(chunks) == -(-size // MIB)
    assert files.sha256 == hashlib.sha256(b"".join(chunks)).hexdigest()


@pytest.mark.parametrize("text", ["one two", "", "fünf 五 🙂", " \n\t"])
def test_the_serialized_tokenizer_encodes_as_the_original(text: str) -> None:
    original = tiny_tokenizer()
    copy = Tokenizer.from_str(tokenizer_files(original).serialized.decode())
    assert copy.encode(text).ids == original(text)["input_ids"]


def test_special_tokens_are_sent_by_name() -> None:
    assert tokenizer_files(tiny_tokenizer()).special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(
    ("template", "sent"), [(None, ""), ("{{ x }}", "{{ x }}"), ({"default": "a", "tool_use": "b"}, "a")]
)
def test_the_chat_template_is_sent_or_the_default_one(template: Any, sent: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    assert tokenizer_files(tokenizer).chat_template == sent


def test_several_chat_templates_without_a_default_leave_plain_text_with_a_line_that_names_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"rag": "a", "tool_use": "b"}
    assert tokenizer_files(tokenizer).chat_template == ""
    assert "named rag, tool_use and none named default" in caplog.text


@pytest.mark.parametrize("cleans", [True, False])
def test_whether_decoding_cleans_up_is_sent(*, cleans: bool) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.clean_up_tokenization_spaces = cleans
    assert tokenizer_files(tokenizer).clean_up_tokenization_spaces is cleans


@pytest.mark.parametrize("name", ["clean_up_bpe", "split_special_tokens"])
def test_what_else_changes_ids_or_text_is_sent(name: str) -> None:
    tokenizer = tiny_tokenizer()
    assert getattr(tokenizer_files(tokenizer), name) is False
    tokenizer.split_special_tokens = True
    tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    assert getattr(tokenizer_files(tokenizer), name) is True
