"""Checkpoints that differ from the ordinary: in their head, vocabulary, ends, positions or tokenizer."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CpmAntForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    Llama4TextConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    RoFormerForCausalLM,
)
from transformers.models.llama import modeling_llama

from tests.worker.parity import (
    CONTEXT_LENGTH,
    Recorder,
    engine_for,
    generate_each_alone,
    mismatches,
    mixed_sequences,
    run_with_random_arrivals,
)
from tests.worker.tiny_models import EOS, VOCAB_SIZE, save_tiny_llama, tiny_llama, tiny_tokenizer
from worker.assembly import assemble
from worker.domain.config import Config
from worker.domain.refusal import UnsupportedModelError
from worker.domain.sequence import Root, SamplingParameters, Sequence, Status
from worker.loading.facts import context_length
from worker.loading.loading import LoadedModel, load
from worker.loading.probe import layer_layouts
from worker.memory.layout import bytes_per_token

TEXTS = ["one two three", " one", "one  two ", "fünf 五 🙂\n", "<tool>one</s> two<tool>", ""]
UNKNOWN_LENGTH = SimpleNamespace(model_max_length=10**30)


def load_exactly(folder: Path) -> LoadedModel:
    return load(Config(model=str(folder), quantization="none", compute_dtype="float32"))


def differing(model: Any, vocab_size: int = VOCAB_SIZE) -> list[str]:
    """Returns the requests in which the engine and `generate()` differ."""
    recorder = Recorder()
    sequences = mixed_sequences(8, 2, vocab_size=vocab_size)
    run_with_random_arrivals(engine_for(model, recorder), sequences, 2)
    return mismatches(recorder, sequences, generate_each_alone(model, sequences))


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads_are_exact(tmp_path: Path, *, tied: bool) -> None:
    model = load_exactly(save_tiny_llama(tmp_path, tie_word_embeddings=tied)).model
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    assert differing(model) == []


def test_a_vocabulary_larger_than_the_tokenizers_is_exact_and_its_ids_have_no_text(tmp_path: Path) -> None:
    loaded = load_exactly(save_tiny_llama(tmp_path, vocab_size=400))
    backend = Tokenizer.from_str(loaded.tokenizer.serialized.decode())
    assert backend.get_vocab_size() < loaded.facts.vocab_size == 400
    assert differing(loaded.model, vocab_size=400) == []
    assert backend.decode([399, *backend.encode("one").ids, 398]) == "one"


def test_a_model_without_a_beginning_of_sequence_gets_none(tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer, eos_token="</s>")
    loaded = load_exactly(save_tiny_llama(tmp_path, tokenizer=tokenizer, num_hidden_layers=1, bos_token_id=None))
    assert "bos_token" not in loaded.tokenizer.special_tokens
    backend = Tokenizer.from_str(loaded.tokenizer.serialized.decode())
    assert backend.encode("one", add_special_tokens=True).tokens == backend.encode("one").tokens != []


def test_each_of_several_ends_of_sequence_ends_it_where_generate_ends(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path)
    path = folder / "generation_config.json"
    prompts = [[token] for token in range(2, 50)]
    ends = [EOS, *range(20, 60)]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ends}))
    loaded = load_exactly(folder)
    assert loaded.facts.eos_token_ids == tuple(ends)
    sequences = complete(loaded, prompts)
    assert len({s.output[-1] for s in sequences if s.status is Status.FINISHED_EOS}) > 1
    for sequence in sequences:
        alone = loaded.model.generate(torch.tensor([sequence.prompt]), max_new_tokens=16, do_sample=False)
        assert sequence.output == alone[0, 1:].tolist()


def complete(loaded: LoadedModel, prompts: list[list[int]]) -> list[Sequence]:
    """Returns greedy continuations of at most 16 tokens, from the engine that the worker itself would make."""
    engine = assemble(loaded, Config(memory_gib=0.01))
    parameters = SamplingParameters(max_new_tokens=16, eos_token_ids=frozenset(loaded.facts.eos_token_ids))
    sequences = [Sequence(number, prompt, parameters) for number, prompt in enumerate(prompts)]
    for sequence in sequences:
        engine.scheduler.submit(Root(sequence.prompt, [sequence]))
    while engine.scheduler.has_work:
        engine.step()
    return sequences


def test_a_context_that_the_memory_does_not_hold_is_warned_of_with_both_numbers_and_a_way_out(
    llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_exactly(llama_folder)
    caplog.clear()
    whole = assemble(loaded, Config(memory_gib=1))
    assert whole.scheduler.limits.context_length == loaded.facts.context_length
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
    needed = 2.5 * loaded.facts.context_length * bytes_per_token(layer_layouts(loaded.model))
    cut = assemble(loaded, Config(memory_gib=needed / 2 / 2**30))
    assert cut.scheduler.limits.context_length < loaded.facts.context_length
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert f"{cut.scheduler.limits.context_length:,} of the model's {loaded.facts.context_length:,}" in warning.message
    assert "--memory-gib" in warning.message


HALF_HEAD = 8
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
    "llama3": {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "longrope": {
        "short_factor": [2.0] * HALF_HEAD,
        "long_factor": [4.0] * HALF_HEAD,
        "factor": 2.0,
        "original_max_position_embeddings": CONTEXT_LENGTH,
    },
}


def scaled(kind: str) -> dict[str, Any]:
    """Returns settings of a Llama with scaled rotary positions."""
    # The dynamic kind scales beyond max_position_embeddings, where no sequence comes.
    length = CONTEXT_LENGTH if kind == "dynamic" else 128
    rope = {"rope_type": kind, "rope_theta": 10000.0, **SCALINGS[kind]}
    return {"max_position_embeddings": length, "rope_parameters": rope}


@pytest.mark.parametrize("kind", SCALINGS)
def test_scaled_rotary_positions_are_exact(tmp_path: Path, kind: str) -> None:
    model = load_exactly(save_tiny_llama(tmp_path, **scaled(kind))).model
    assert model.model.rotary_emb.rope_type == kind
    assert differing(model) == []


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_positions_that_only_a_fixed_scaling_gives_are_exact(tmp_path: Path, kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
    loaded = load_exactly(save_tiny_llama(tmp_path, max_position_embeddings=16, rope_parameters=rope))
    assert loaded.facts.context_length == CONTEXT_LENGTH == 4 * 16
    # One of the requests fills the context. In float64: YaRN sharpens attention, and with it what rounding does.
    assert differing(loaded.model.double()) == []


@pytest.mark.parametrize("kind", sorted(SCALINGS.keys() - {"dynamic"}))
def test_scaled_rotary_positions_are_not_the_ordinary_ones(kind: str) -> None:
    tokens = torch.arange(2, 40)[None]
    with torch.inference_mode():
        plain, other = (tiny_llama(**settings)(tokens).logits for settings in ({}, scaled(kind)))
    assert (plain - other).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_transformers_scales_all_rows_of_a_batch_for_its_longest_one(kind: str) -> None:
    """Why the context of such models ends where the scaling changes: a longer row would change the others' logits."""
    rotate = tiny_llama(**scaled(kind)).model.rotary_emb
    values = torch.zeros(1)
    short, long = (rotate(values, torch.tensor([[1], [last]]))[0][0] for last in (CONTEXT_LENGTH - 1, CONTEXT_LENGTH))
    assert not torch.equal(short, long)


PHI: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "pad_token_id": None,
    "original_max_position_embeddings": CONTEXT_LENGTH,
}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Phi3Config(**PHI, **scaled("longrope")), CONTEXT_LENGTH),
        (Llama4TextConfig(max_position_embeddings=10**6, floor_scale=8192), 8191),
        (Llama4TextConfig(max_position_embeddings=10**6, attn_temperature_tuning=False), 10**6),
    ],
    ids=["longrope", "Llama 4", "Llama 4 without temperature tuning"],
)
def test_the_context_ends_where_a_row_would_change_the_others(config: Any, expected: int) -> None:
    assert context_length(config, UNKNOWN_LENGTH) == expected


@pytest.mark.parametrize("model_class", [RoFormerForCausalLM, CpmAntForCausalLM])
def test_a_model_that_counts_padding_as_positions_is_refused(model_class: Any) -> None:
    settings = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    model = model_class(model_class.config_class(**settings, vocab_size=VOCAB_SIZE, is_decoder=True)).eval()
    with pytest.raises(UnsupportedModelError, match="position_ids"):
        layer_layouts(model)


ENCODER: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@pytest.mark.parametrize(
    "name",
    ["Bert", "Roberta", "XLMRoberta", "Camembert", "Electra", "Ernie", "MegatronBert", "RemBert", "BigBird", "RoCBert"],
)
def test_an_encoder_is_refused_and_the_same_as_a_decoder_is_not_called_one(name: str) -> None:
    config_class = getattr(transformers, f"{name}Config")
    for is_decoder in (False, True):
        config = config_class(**ENCODER, is_decoder=is_decoder, attention_type="original_full", pad_token_id=1)
        model = AutoModelForCausalLM.from_config(config).eval()
        if is_decoder:
            assert layer_layouts(model)
        else:
            with pytest.raises(UnsupportedModelError, match="is an encoder"):
                layer_layouts(model)


def test_a_decoder_whose_config_does_not_say_that_it_is_one_is_served() -> None:
    config = GPTNeoXConfig(**ENCODER)
    assert config.is_decoder is False
    assert layer_layouts(AutoModelForCausalLM.from_config(config).eval())


def test_attention_in_both_directions_is_refused() -> None:
    config = Gemma3TextConfig(**ENCODER, num_key_value_heads=2, head_dim=16, use_bidirectional_attention=True)
    with pytest.raises(UnsupportedModelError, match="reads in both directions"):
        layer_layouts(AutoModelForCausalLM.from_config(config).eval())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_looks_ahead_is_refused_whatever_its_config_says(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    model: Any = tiny_llama()
    model.to(dtype)
    assert layer_layouts(model)
    monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda **_: None)
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(UnsupportedModelError, match="looks ahead"):
        layer_layouts(model)


def byte_fallback() -> Tokenizer:
    """Returns a tokenizer in the manner of SentencePiece, as Llama 2's: what it lacks is spelled in bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"onetwhr"]
    backend = Tokenizer(
        models.BPE({piece: number for number, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def prefix_space() -> Tokenizer:
    """Returns a byte-level tokenizer that puts a space before the text."""
    backend = tiny_tokenizer().backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return backend


def metaspace() -> Tokenizer:
    """Returns a tokenizer that puts a space before the first word alone."""
    backend = byte_fallback()
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return backend


def added_tokens() -> Tokenizer:
    """Returns a tokenizer with tokens that were added to it, special and not."""
    backend = tiny_tokenizer().backend_tokenizer
    backend.add_tokens([AddedToken("<tool>", lstrip=True, rstrip=True), AddedToken("two", single_word=True)])
    backend.add_special_tokens(["<|end|>"])
    return backend


@pytest.mark.parametrize("make", [byte_fallback, prefix_space, metaspace, added_tokens])
def test_the_tokenizer_that_is_sent_is_the_one_that_was_saved(tmp_path: Path, make: Callable[[], Tokenizer]) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make(), bos_token="<s>", eos_token="</s>")
    folder = save_tiny_llama(tmp_path, tokenizer=tokenizer, num_hidden_layers=1)
    original = AutoTokenizer.from_pretrained(folder)
    sent = Tokenizer.from_str(load_exactly(folder).tokenizer.serialized.decode())
    for text in TEXTS:
        ids = original(text)["input_ids"]
        assert sent.encode(text).ids == ids
        assert sent.decode(ids, skip_special_tokens=False) == original.decode(ids)
        assert sent.decode(ids) == original.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("make", [byte_fallback, metaspace])
def test_what_a_tokenizer_lacks_is_spelled_in_bytes_and_comes_back(make: Callable[[], Tokenizer]) -> None:
    backend = make()
    encoded = backend.encode("one 五🙂")
    assert "<unk>" not in encoded.tokens
    assert "<0xE4>" in encoded.tokens
    assert backend.decode(encoded.ids) == "one 五🙂"
