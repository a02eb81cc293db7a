"""What a generation_config.json sets is taken as `generate()` takes it, refused in a sentence, or named in the log."""

import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from tests.worker.tiny_models import VOCAB_SIZE, tiny_llama
from worker.domain.config import Config
from worker.loading.checkpoint.generation_defaults import (
    ELSEWHERE,
    HARMLESS,
    NOT_APPLIED,
    GenerationDefaults,
    eos_token_ids,
    read_generation_config,
)
from worker.loading.checkpoint.hub import Files


@pytest.mark.parametrize(
    ("configured", "of_tokenizer", "expected"),
    [(7, 9, (7,)), ([7, 8], 9, (7, 8)), (None, 9, (9,)), (None, None, ()), (0, 9, (0,)), (None, 0, (0,))],
)
def test_the_generation_config_says_what_ends_a_sequence_else_the_tokenizer(
    configured: Any, of_tokenizer: Any, expected: tuple[int, ...]
) -> None:
    found = eos_token_ids(SimpleNamespace(eos_token_id=configured), SimpleNamespace(eos_token_id=of_tokenizer))
    assert found == expected


def test_defaults_are_what_is_set_and_nothing_else() -> None:
    config = SimpleNamespace(temperature=0.0, top_k=0, do_sample=False, num_beams=4)
    assert GenerationDefaults.of(config) == GenerationDefaults(temperature=0.0, top_k=0, do_sample=False)


def test_a_generation_config_that_sets_nothing_gives_no_default() -> None:
    assert GenerationDefaults.of(GenerationConfig()) == GenerationDefaults()


EVERYTHING: dict[str, Any] = {
    "max_new_tokens": 5,
    "min_new_tokens": 2,
    "do_sample": True,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.9,
    "min_p": 0.25,
    "typical_p": 0.75,
    "epsilon_cutoff": 0.01,
    "repetition_penalty": 1.5,
    "no_repeat_ngram_size": 4,
    "bad_words_ids": [[3], [4, 5]],
    "sequence_bias": [[[6], 1.5], [[7, 8], -2.0], [[9], -1.0]],
    "exponential_decay_length_penalty": [10, 1.25],
    "suppress_tokens": [11, 12],
    "begin_suppress_tokens": [13],
    "forced_bos_token_id": 14,
    "forced_eos_token_id": 15,
    "length_penalty": 0.5,
    "early_stopping": "never",
    "stop_strings": ["END"],
}
AS_TUPLES = {
    "bad_words_ids": ((3,), (4, 5)),
    "logit_bias": ((6, 1.5), (9, -1.0)),
    "exponential_decay_length_penalty": (10, 1.25),
    "suppress_tokens": (11, 12),
    "begin_suppress_tokens": (13,),
    "stop_strings": ("END",),
}


def test_every_default_is_read_from_a_file_as_a_plain_value(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(EVERYTHING))
    expected = GenerationDefaults(**{name: v for name, v in EVERYTHING.items() if name != "sequence_bias"} | AS_TUPLES)
    assert GenerationDefaults.of(GenerationConfig.from_pretrained(tmp_path)) == expected
    assert all(getattr(expected, field.name) is not None for field in fields(expected))
    assert hash(expected)


def test_a_bias_on_several_tokens_is_left_out_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    defaults = GenerationDefaults.of(SimpleNamespace(sequence_bias={(1, 2): 3.0}))
    assert defaults.logit_bias is None
    assert "1 sequences of several tokens" in caplog.text


def test_of_several_forced_ends_the_lowest_is_taken_as_greedy_decoding_does() -> None:
    assert GenerationDefaults.of(SimpleNamespace(forced_eos_token_id=[7, 5, 6])).forced_eos_token_id == 5


@pytest.mark.parametrize("name", ["bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens"])
def test_an_empty_list_sets_nothing(name: str) -> None:
    assert GenerationDefaults.of(SimpleNamespace(**{name: []})) == GenerationDefaults()


OWN = {field.name for field in fields(GenerationDefaults)} - {"logit_bias"}


def read(folder: Path, text: str, *, vocab_size: int | None = VOCAB_SIZE) -> tuple[GenerationDefaults, Any]:
    (folder / "generation_config.json").write_text(text)
    return read_generation_config(Files(Config(model=str(folder))), vocab_size=vocab_size)


def test_every_field_of_transformers_is_taken_or_named_or_changes_no_text() -> None:
    of_transformers = vars(GenerationConfig()).keys()
    assert of_transformers <= OWN | ELSEWHERE.keys() | NOT_APPLIED.keys() | HARMLESS
    assert OWN | ELSEWHERE.keys() | NOT_APPLIED.keys() <= of_transformers
    assert not OWN & NOT_APPLIED.keys()
    assert not (OWN | NOT_APPLIED.keys()) & HARMLESS


UNUSUAL: dict[str, Any] = {
    "max_length": 77,
    "min_length": 3,
    "num_beams": 4,
    "eta_cutoff": 0.5,
    "top_h": 0.5,
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "token_healing": True,
    "watermarking_config": {},
}
"""Values of NOT_APPLIED; 2 for the others."""


@pytest.mark.parametrize("name", NOT_APPLIED)
def test_what_is_not_applied_is_named_in_the_log_unless_it_says_nothing(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for neutral in (None, *NOT_APPLIED[name]):
        read(tmp_path, json.dumps({"do_sample": True, name: neutral}))
    assert caplog.text == ""
    read(tmp_path, json.dumps({"do_sample": True, name: UNUSUAL.get(name, 2)}))
    assert f"generation_config.json sets {name} {json.dumps(UNUSUAL.get(name, 2))}: not applied here" in caplog.text


def test_what_nobody_knows_is_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(tmp_path, json.dumps({"max_new_token": 5, "transformers_version": "4.1", "_from_model_config": True}))
    assert "sets max_new_token: not known here" in caplog.text


TAKEN: list[tuple[str, Any, Any]] = [
    ("max_new_tokens", 30.0, 30),
    ("max_new_tokens", 1e10, 2**31 - 1),
    ("max_new_tokens", 10**400, 2**31 - 1),
    ("min_new_tokens", -1, 0),
    ("do_sample", 1, True),
    ("do_sample", 0, False),
    ("temperature", 1, 1.0),
    ("top_k", 50.0, 50),
    ("top_k", 1e10, 2**31 - 1),
    ("top_p", 0, 1e-9),
    ("top_p", 2, 1.0),
    ("typical_p", 3.5, 1.0),
    ("epsilon_cutoff", -1, 0.0),
    ("epsilon_cutoff", 1, 0.0),
    ("repetition_penalty", 2, 2.0),
    ("no_repeat_ngram_size", -1, 0),
    ("bad_words_ids", [[], [5]], ((5,),)),
    ("suppress_tokens", [5.0, 600, -1], (5,)),
    ("begin_suppress_tokens", [600], None),
    ("exponential_decay_length_penalty", [2.0, 2], (2, 2.0)),
    ("forced_bos_token_id", 5.0, 5),
    ("forced_eos_token_id", [7, 5], 5),
    ("length_penalty", 2, 2.0),
    ("early_stopping", 1, True),
    ("stop_strings", "END", ("END",)),
    ("stop_strings", [], None),
]


@pytest.mark.parametrize(("name", "value", "expected"), TAKEN)
def test_a_value_that_is_clear_is_taken_however_it_is_written(
    name: str, value: Any, expected: Any, tmp_path: Path
) -> None:
    defaults, _ = read(tmp_path, json.dumps({name: value}))
    assert getattr(defaults, name) == expected
    assert type(getattr(defaults, name)) is type(expected)


REFUSED: list[tuple[str, Any]] = [
    ("max_new_tokens", 0),
    ("max_new_tokens", "30"),
    ("max_new_tokens", 5.5),
    ("max_new_tokens", True),
    ("max_new_tokens", [30]),
    ("min_new_tokens", "3"),
    ("do_sample", "false"),
    ("do_sample", "true"),
    ("do_sample", []),
    ("do_sample", 2),
    ("temperature", "0.7"),
    ("temperature", -1.0),
    ("temperature", float("nan")),
    ("temperature", float("inf")),
    ("top_k", "50"),
    ("top_k", -1),
    ("top_k", 2.5),
    ("top_p", "0.9"),
    ("top_p", -0.5),
    ("min_p", 2),
    ("typical_p", 0),
    ("epsilon_cutoff", "0.1"),
    ("repetition_penalty", 0),
    ("repetition_penalty", "1.2"),
    ("no_repeat_ngram_size", "2"),
    ("bad_words_ids", [1]),
    ("bad_words_ids", [["1"]]),
    ("bad_words_ids", [[600]]),
    ("sequence_bias", {"5": 1.0}),
    ("sequence_bias", [[5, 1.0]]),
    ("sequence_bias", [[[5], "1.0"]]),
    ("sequence_bias", [[[600], 1.0]]),
    ("exponential_decay_length_penalty", 2),
    ("exponential_decay_length_penalty", [2]),
    ("exponential_decay_length_penalty", [2, "1.5"]),
    ("exponential_decay_length_penalty", [-1, 1.5]),
    ("suppress_tokens", 5),
    ("suppress_tokens", ["5"]),
    ("begin_suppress_tokens", {}),
    ("forced_bos_token_id", "5"),
    ("forced_eos_token_id", []),
    ("forced_eos_token_id", 600),
    ("length_penalty", "1.0"),
    ("early_stopping", "yes"),
    ("early_stopping", []),
    ("stop_strings", 5),
    ("stop_strings", [""]),
    ("stop_strings", ["x" * 257]),
    ("stop_strings", [str(number) for number in range(17)]),
    ("eos_token_id", "2"),
    ("eos_token_id", []),
    ("eos_token_id", [["2"]]),
    ("pad_token_id", "0"),
    ("bos_token_id", "1"),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_value_that_cannot_be_meant_is_refused_with_file_key_and_value(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^generation_config.json: ") as refused:
        read(tmp_path, json.dumps({name: value}))
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)
    assert json.dumps(value)[:60] in str(refused.value) or "600" in str(refused.value)


@pytest.mark.parametrize("text", ["[]", "{", "", "null", "3", '"x"', "\N{BYTE ORDER MARK}{}", '{"top_k": 5,}'])
def test_a_file_that_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^generation_config.json (is not JSON|is empty|must hold a JSON object)"):
        read(tmp_path, text)


def test_what_transformers_itself_refuses_is_refused_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"transformers refuses generation_config.json: .*cache_implementation"):
        read(tmp_path, '{"cache_implementation": "of dreams"}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=3), each, max_size=2),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(OWN | ELSEWHERE.keys())), JSON, max_size=4))
def test_whatever_a_file_sets_is_taken_or_refused_in_a_sentence(values: dict[str, Any]) -> None:
    given = SimpleNamespace(**values)
    try:
        defaults = GenerationDefaults.of(given, vocab_size=VOCAB_SIZE)
        ends = eos_token_ids(given, SimpleNamespace(eos_token_id=None))
    except ValueError as error:
        assert str(error).startswith("generation_config.json: ")  # noqa: PT017 - it need not be raised
    else:
        assert hash(defaults)
        assert all(isinstance(token, int) for token in ends)


@pytest.mark.parametrize(("written", "expected"), [(2.0, (2,)), ([[2], 3], (2, 3)), ([2, 2], (2, 2)), (-1, ())])
def test_the_ids_that_end_a_sequence_may_be_written_in_any_way_that_generate_takes(
    written: Any, expected: tuple[int, ...], tmp_path: Path
) -> None:
    _, config = read(tmp_path, json.dumps({"eos_token_id": written}))
    assert eos_token_ids(config, SimpleNamespace(eos_token_id=9)) == expected


def test_an_older_models_config_json_is_read_where_there_is_no_generation_config(tmp_path: Path) -> None:
    tiny_llama(num_hidden_layers=1).config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"temperature": 0.5, "eos_token_id": 7}))
    defaults, found = read_generation_config(Files(Config(model=str(tmp_path))))
    assert (defaults.temperature, found.eos_token_id) == (0.5, 7)
    (tmp_path / "config.json").write_text(json.dumps(config | {"temperature": "0.5"}))
    with pytest.raises(ValueError, match=r'^config.json: temperature is "0.5", and must be a number'):
        read_generation_config(Files(Config(model=str(tmp_path))))


@pytest.mark.parametrize(("name", "value", "plain"), [("max_new_tokens", 7.0, 7), ("eos_token_id", [[5]], [5])])
def test_generate_takes_what_is_taken_and_means_the_same(name: str, value: Any, plain: Any) -> None:
    model: Any = tiny_llama(num_hidden_layers=1, eos_token_id=None)
    ids = torch.tensor([[3, 4]])
    given: dict[str, Any] = {"max_new_tokens": 5, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    unusual, usual = (model.generate(ids, **(given | {name: each})) for each in (value, plain))
    assert torch.equal(unusual, usual)
