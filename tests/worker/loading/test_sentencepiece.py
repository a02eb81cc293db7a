"""Models whose tokenizer is a SentencePiece model alone."""

import json
import logging
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer

from tests.worker.tiny_models import save_tiny_llama
from worker.domain.config import Config
from worker.loading.loading import LoadedModel, load

SPELLED_IN_BYTES = ["five, six", "日本 x"]
CASES = {
    "bpe": ("LlamaTokenizer", ["one two three", "one", *SPELLED_IN_BYTES]),
    "unigram": ("T5Tokenizer", ["one two three", "one"]),  # transformers has no class of this kind that spells bytes
}
"""For each kind of model a class of transformers that reads it as it is meant, and texts."""


@pytest.fixture(scope="module", params=list(CASES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of which the tokenizer is tokenizer.model, with byte fallback as Llama's and T5's have it."""
    folder = save_tiny_llama(tmp_path_factory.mktemp("pieces") / request.param, num_hidden_layers=1)
    (folder / "tokenizer.json").unlink()
    text = ["one two three four five six seven eight nine ten"] * 50
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=300,
        model_type=request.param,
        byte_fallback=True,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return folder


def loaded(folder: Path, tokenizer_class: str) -> LoadedModel:
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class}))
    return load(Config(model=str(folder), quantization="none"))


def test_it_is_read_and_gateways_get_the_ids_of_sentencepiece_itself(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, texts = CASES[folder.name]
    backend = Tokenizer.from_str(loaded(folder, name).tokenizer.serialized.decode())
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for text in texts:
        assert backend.encode(text, add_special_tokens=False).ids == pieces.encode(text)
        assert backend.decode(pieces.encode(text)) == text
    assert "splits text otherwise" not in caplog.text


def test_a_class_that_splits_text_otherwise_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        loaded(folder, "PreTrainedTokenizerFast")
    assert "tokenizer.model is read as a TokenizersBackend, which splits text otherwise" in caplog.text
