"""Folders as people hand them over: each is served, or refused with one sentence that says what to do.

A row of the table: what is done to a copy of a good folder, and either a pattern that the sentence must have, or a
check of how gateways are told of the model that is served. To add one, see `Row`.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch

from tests.worker.folder_changes import (
    CONFIG,
    GONE,
    INDEX,
    LFS_POINTER,
    TOKENIZER,
    WEIGHTS,
    Change,
    all_of,
    config,
    cut,
    in_tokenizer,
    only,
    quantized,
    recoded,
    rope,
    sets,
    sharded,
    tokenizer_config,
    without,
    without_tensors,
    writes,
)
from tests.worker.tiny_models import save_tiny_llama
from textserve.internal.v1 import worker_pb2 as pb
from worker import server
from worker.cli import EX_CONFIG, main
from worker.domain.config import Config
from worker.quantize import quantize

ROOT = Path(__file__).parents[3]
FLAGS = ["--memory-gib", "0.01", "--max-rows", "2", "--compute-dtype", "float32"]

Base = Literal["plain", "nf4", "int8"]
Check = Callable[[pb.DescribeResponse], bool]


@dataclass(frozen=True)
class Row:
    """One folder."""

    name: str
    change: Change
    expected: str | Check
    """A pattern in the sentence of a refusal, or what must be true of the description of a model that is served."""
    base: Base = "plain"
    """What is changed: a tiny Llama of one layer, as it is or quantized."""
    flags: tuple[str, ...] = ()


def assert_is_one_sentence(errors: str, folder: Path, expected: str) -> None:
    """The last line, and no other one, says why; nothing of Python's own."""
    *others, line = errors.splitlines()
    prefix = f"textserve-worker: cannot serve {folder}: "
    assert line.startswith(prefix)
    sentence = line.removeprefix(prefix)
    assert re.search(expected, sentence), sentence
    assert not [other for other in others if other.startswith("textserve-worker:")]
    assert "Traceback" not in errors


def served(_: pb.DescribeResponse) -> bool:
    return True


ADAPTER = sets("adapter_config.json", base_model_name_or_path="org/base", peft_type="LORA")
SOUND = "the good folder itself"

ROWS = [
    Row(SOUND, lambda _: None, lambda model: (model.context_length, model.vocab_size) == (128, 320)),
    # config.json as a file
    Row("no files", only(), r"there is no config\.json in it"),
    Row("no config.json", without(CONFIG), r"there is no config\.json in it"),
    Row("config.json empty", writes(CONFIG, ""), r"config\.json is empty"),
    Row("config.json of a cut download", writes(CONFIG, '{"model_type": "lla'), r"config\.json is not JSON: .*line 1"),
    Row("config.json in UTF-16", recoded("utf-16"), r"config\.json is not JSON: .*utf-8"),
    Row("config.json with a byte order mark", recoded("utf-8-sig"), r"config\.json is not JSON: .*BOM"),
    Row("config.json a list", writes(CONFIG, "[]"), r"config\.json must hold a JSON object, and holds a list"),
    Row("config.json null", writes(CONFIG, "null"), r"config\.json must hold .* and holds null"),
    Row("config.json nested without end", writes(CONFIG, "[" * 100_000), r"config\.json is not JSON: .*recursion"),
    Row("config.json an LFS pointer", writes(CONFIG, LFS_POINTER), "config.json is a Git LFS pointer.*git lfs pull"),
    # what else a folder may be
    Row("an adapter", only(ADAPTER), r"an adapter \(LORA\) of org/base"),
    Row("an adapter beside its tokenizer", all_of(without(CONFIG, WEIGHTS), ADAPTER), "an adapter .* of org/base"),
    Row("an adapter beside its whole model", ADAPTER, served),
    Row("GGUF", only(writes("model.Q4_K_M.gguf", b"GGUF")), r"model\.Q4_K_M\.gguf.*does not read GGUF"),
    Row("the maker's format", only(writes("params.json", "{}")), "params.json instead of config.json"),
    # the family
    Row("no model_type", config(model_type=GONE), "model_type is missing"),
    Row("model_type null", config(model_type=None), "model_type is null"),
    Row("model_type a list", config(model_type=["llama"]), r'model_type is \["llama"\]'),
    Row("an unknown model_type", config(model_type="llamanext"), 'model_type is "llamanext", which transformers'),
    *(
        Row(f"model_type {kind}", config(model_type=kind), f'model_type is "{kind}", .*without causal language models')
        for kind in ("t5", "clip")
    ),
    # sizes
    *(
        Row(f"{key} {value!r}", config(**{key: value}), rf"config\.json: {key} is {shown}, and must be")
        for key, value, shown in [
            ("hidden_size", "64", '"64"'),
            ("hidden_size", 64.0, r"64\.0"),
            ("hidden_size", 0, "0"),
            ("hidden_size", -64, "-64"),
            ("num_hidden_layers", 0, "0"),
            ("num_attention_heads", 0, "0"),
            ("num_key_value_heads", 0, "0"),
            ("vocab_size", None, "null"),
            ("head_dim", "16", '"16"'),
            ("rms_norm_eps", "1e-6", '"1e-6"'),
            ("rms_norm_eps", 0, "0"),
            ("tie_word_embeddings", "false", '"false"'),
            ("hidden_act", None, "null"),
            ("max_position_embeddings", 512.0, r"512\.0"),
            ("max_position_embeddings", "512", '"512"'),
            ("max_position_embeddings", None, "null"),
            ("pad_token_id", "1", '"1"'),
            ("eos_token_id", [[1]], r"\[\[1\]\]"),
        ]
    ),
    Row("heads that groups do not divide", config(num_key_value_heads=3), "num_key_value_heads is 3, .*divide.* 4"),
    Row("heads that the width is no multiple of", config(num_attention_heads=3, num_key_value_heads=1), "hidden size"),
    Row("an odd head", config(head_dim=15), r"config\.json: .*head_dim`?=15"),
    Row("an unknown activation", config(hidden_act="snake"), r'hidden_act is "snake", which transformers .* not know'),
    Row("pad_token_id beyond the vocabulary", config(pad_token_id=320), served),
    *(
        Row(f"a context of {length}", config(max_position_embeddings=length), f"a context of {length} tokens.*16")
        for length in (1, 2, 8, 15)
    ),
    Row("a context of 16", config(max_position_embeddings=16), lambda model: model.context_length == 16),
    Row("a longer context asked for", lambda _: None, "129 is above .* 128", flags=("--context-length", "129")),
    # the kind of attention, and of numbers
    *(
        Row(f"attn_implementation {kind}", config(attn_implementation=kind), served)
        for kind in ("flash_attention_2", "flash_attention_3", "eager", "sdpa", "somebody/kernels")
    ),
    *(
        Row(f"torch_dtype {value!r}", config(dtype=GONE, torch_dtype=value), f"torch_dtype is {shown}, .*bfloat16")
        for value, shown in [
            ("bf16", '"bf16"'),
            ("torch.bfloat16", '"torch.bfloat16"'),
            ("float8_e4m3fn", '"float8_e4m3fn"'),
            ("int8", '"int8"'),
            ("auto", '"auto"'),
            (16, "16"),
        ]
    ),
    Row("torch_dtype null", config(dtype=GONE, torch_dtype=None), served),
    # rotary positions
    *(
        Row(f"rope type {kind}", rope(type=kind, factor=4.0), rf'config\.json: type is "{kind}", which transformers')
        for kind in ("su", "mrope", "ntk-by-parts")
    ),
    *(
        Row(
            f"rope_scaling {text}",
            config(rope_parameters=GONE, rope_scaling=value),
            rf"rope_scaling is {text}, .*object",
        )
        for value, text in [("linear", '"linear"'), ([2.0], r"\[2.0\]")]
    ),
    *(
        Row(f"rope {kind} without factor", rope(rope_type=kind, original_max_position_embeddings=32), "lacks factor")
        for kind in ("linear", "dynamic", "yarn", "llama3")
    ),
    *(
        Row(f"rope factor {value!r}", rope(rope_type="linear", factor=value), f"factor in rope_scaling is {shown}, ")
        for value, shown in [("4.0", '"4.0"'), (None, "null"), (0, "0"), (-2.0, r"-2\.0"), (True, "true")]
    ),
    Row("rope type null", rope(rope_type=None, factor=2.0), "rope_type in rope_scaling is null"),
    Row("rope longrope without lists", rope(rope_type="longrope", factor=2.0), "lacks short_factor"),
    Row(
        "rope llama3 with a string",
        rope(
            rope_type="llama3", factor=4, low_freq_factor="1", high_freq_factor=4, original_max_position_embeddings=32
        ),
        'low_freq_factor in rope_scaling is "1"',
    ),
    Row(
        "rope yarn from a string",
        rope(rope_type="yarn", factor=4.0, original_max_position_embeddings="32"),
        'original_max_position_embeddings in rope_scaling is "32"',
    ),
    Row("rope theta a string", config(rope_parameters={"rope_theta": "1e4"}), 'rope_theta in rope_parameters is "1e4"'),
    Row("rope factor an integer", rope(type="linear", factor=2), served),
    # what config.json says of the quantization, and the weights do not
    Row("bnb 4 bit left over", quantized(load_in_4bit=True), "to 4 bit, and they are not: remove quantization_config"),
    Row("bnb 8 bit left over", quantized(load_in_8bit=True), "to 8 bit, and they are not: remove quantization_config"),
    Row("bnb both", quantized(load_in_4bit=True, load_in_8bit=True), "exclude each other"),
    Row("bnb a string", quantized(load_in_4bit="true"), 'load_in_4bit in quantization_config is "true"'),
    Row("bnb nf5", quantized(load_in_4bit=True, bnb_4bit_quant_type="nf5"), 'bnb_4bit_quant_type .* is "nf5"'),
    Row("bnb fp17", quantized(load_in_4bit=True, bnb_4bit_compute_dtype="fp17"), "bnb_4bit_compute_dtype .*fp17"),
    Row("a quantization_config of one word", config(quantization_config="nf4"), 'quantization_config is "nf4"'),
    Row("another quantization", config(quantization_config={"quant_method": "gptq"}), "quantized with gptq"),
    Row("packed to 4 bit", lambda _: None, lambda model: model.quantization == "nf4", "nf4"),
    Row("packed to 8 bit", lambda _: None, lambda model: model.quantization == "int8", "int8"),
    Row(
        "4 bit, config stripped", config(quantization_config=GONE), "quantized to 4 bit .*has no quantization_c", "nf4"
    ),
    Row(
        "8 bit, config stripped", config(quantization_config=GONE), "quantized to 8 bit .*has no quantization_c", "int8"
    ),
    Row("8 bit, config of 4", quantized(load_in_4bit=True), "quantized to 8 bit .*says something else", "int8"),
    *(
        Row(f"4 bit without {part}", without_tensors(part), rf"model\.\S+\.weight has no {part.split('.')[0]}", "nf4")
        for part in ("quant_state.bitsandbytes__nf4", "absmax", "quant_map", "nested_absmax", "nested_quant_map")
    ),
    Row("8 bit without SCB", without_tensors("SCB"), r"model\.\S+\.weight has no SCB, without", "int8"),
    # the weights' files
    Row("no weights", without(WEIGHTS), "it has no weights: neither model.safetensors nor"),
    Row(
        "pickled weights", all_of(without(WEIGHTS), writes("pytorch_model.bin", b"")), "pytorch_model.bin .*is not read"
    ),
    Row("weights empty", writes(WEIGHTS, b""), "no safetensors file .0 bytes."),
    Row("weights an LFS pointer", writes(WEIGHTS, LFS_POINTER), "model.safetensors is a Git LFS pointer"),
    Row("weights a web page", writes(WEIGHTS, "<html>404</html>"), "model.safetensors is no safetensors file"),
    Row("weights cut in the header", cut(100), "model.safetensors is damaged"),
    Row("weights cut behind it", cut(5000), "model.safetensors has 5,000 bytes instead of the 3"),
    Row("a shard and its index", sharded(), served),
    Row("an index without weight_map", sharded(weight_map=GONE), "index.json has no weight_map"),
    Row("an index with an empty weight_map", sharded(weight_map={}), "index.json has no weight_map"),
    Row("an index without metadata", sharded(metadata=GONE), "index.json has no metadata"),
    Row(
        "an index of a missing shard", sharded(weight_map={"a": "b.safetensors"}), "b.safetensors, and there is no such"
    ),
    Row("an index of numbers", sharded(weight_map={"a": 1}), "names 1 in its weight_map"),
    Row("an index to elsewhere", sharded(weight_map={"a": "../b.safetensors"}), "which is no file beside it"),
    Row("an index that is a list", all_of(without(WEIGHTS), writes(INDEX, "[]")), "index.json must hold a JSON object"),
    # tokenizers
    Row("no tokenizer", without(TOKENIZER), "it has no tokenizer: neither tokenizer.json nor tokenizer.model"),
    *(
        Row(
            f"{name} without a file",
            all_of(without(TOKENIZER), tokenizer_config(tokenizer_class=name)),
            "it has no tokenizer",
        )
        for name in ("LlamaTokenizer", "GPT2TokenizerFast", "T5Tokenizer", "GemmaTokenizer", "Qwen2Tokenizer")
    ),
    Row(
        "a class whose file is another one",
        all_of(without(TOKENIZER), tokenizer_config(tokenizer_class="LlamaTokenizer"), writes("vocab.txt", "a\n")),
        "LlamaTokenizer needs tokenizer.json or tokenizer.model",
    ),
    Row("an empty vocabulary", in_tokenizer("model", vocab={}, merges=[]), "tokenizer.json has an empty vocabulary"),
    Row("tokenizer.json empty", writes(TOKENIZER, ""), "tokenizer.json is empty"),
    Row("tokenizer.json an LFS pointer", writes(TOKENIZER, LFS_POINTER), "tokenizer.json is a Git LFS pointer"),
    Row("tokenizer.json of a web page", writes(TOKENIZER, "<html>"), "tokenizer.json is not JSON"),
    Row("tokenizer.json without a model", writes(TOKENIZER, "{}"), "tokenizer.json has no model"),
    Row("a newer tokenizer", in_tokenizer("model", type="SuperBPE"), r"cannot be read by tokenizers \d.*newer one"),
    Row("a newer pre-tokenizer", in_tokenizer("pre_tokenizer", type="Magic"), r"cannot be read by tokenizers \d"),
    Row("tokenizer_config a list", writes("tokenizer_config.json", "[]"), "tokenizer_config.json must hold"),
    Row("no tokenizer_config", without("tokenizer_config.json"), served),
    Row("tokenizer_class a list", tokenizer_config(tokenizer_class=["x"]), r'tokenizer_class is \["x"\]'),
    Row("eos_token a number", tokenizer_config(eos_token=7), "eos_token is 7, and must be a string"),
    Row("added tokens a list", tokenizer_config(added_tokens_decoder=[]), r"added_tokens_decoder is \[\]"),
    Row(
        "a tokenizer in Python", tokenizer_config(tokenizer_class="ByT5Tokenizer"), "ByT5Tokenizer has no `tokenizers`"
    ),
    Row("tekken alone", all_of(without(TOKENIZER), writes("tekken.json", "{}")), "tekken.json alone.*make a tokenizer"),
    Row("tiktoken's file", all_of(without(TOKENIZER), writes("tokenizer.model", "YQ== 0\n")), "the format of tiktoken"),
    Row("no SentencePiece", all_of(without(TOKENIZER), writes("tokenizer.model", "x")), "no model of SentencePiece"),
    Row("a template of a number", tokenizer_config(chat_template=5), "chat_template is 5, and must be"),
    Row("templates without names", tokenizer_config(chat_template=["x"]), "must have a name and a template"),
    Row("a broken template", tokenizer_config(chat_template="{% if"), served),
    Row("a template not in UTF-8", writes("chat_template.jinja", b"\xff\xfe"), "chat_template.jinja is no text"),
    Row(
        "templates without a default",
        tokenizer_config(chat_template=[{"name": "tool_use", "template": "a"}, {"name": "rag", "template": "b"}]),
        served,
    ),
    Row("special tokens a list", writes("special_tokens_map.json", "[]"), "special_tokens_map.json must hold"),
    Row("added tokens a list of their own", writes("added_tokens.json", "[]"), "added_tokens.json must hold"),
    # generation_config.json: whatever its values raise has the same end
    Row(
        "generation_config a list",
        writes("generation_config.json", "[]"),
        r"generation_config\.json must hold a JSON object",
    ),
    Row("ends nested", writes("generation_config.json", '{"eos_token_id": [[1]]}'), served),
    Row(
        "ends of texts",
        writes("generation_config.json", '{"eos_token_id": [["1"]]}'),
        r"generation_config\.json: eos_token_id",
    ),
    Row("no generation_config", without("generation_config.json"), served),
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[Base, Path]:
    """Good folders: a tiny Llama of one layer, as it is and quantized."""
    folder = tmp_path_factory.mktemp("folders")
    plain = save_tiny_llama(folder / "plain", num_hidden_layers=1)
    to: list[Literal["nf4", "int8"]] = ["nf4", "int8"]
    for kind in to:
        quantize(Config(model=str(plain), quantization=kind, compute_dtype="float32"), folder / kind)
    return {"plain": plain, "nf4": folder / "nf4", "int8": folder / "int8"}


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[pb.DescribeResponse]]:
    """Has the command note how a prepared model is described, where it would serve it."""
    seen: list[pb.DescribeResponse] = []

    async def serve(_: Config, prepared: server.Prepared) -> None:
        seen.append(prepared.description)

    monkeypatch.setattr(server, "serve", serve)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield seen
    torch.set_num_threads(threads)


def test_the_table_is_one_of_different_folders_and_most_of_them_are_refused() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) > 80
    assert sum(isinstance(row.expected, str) for row in ROWS) > 70


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_folder_is_served_or_refused_with_one_sentence(
    row: Row,
    bases: dict[Base, Path],
    described: list[pb.DescribeResponse],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bases[row.base], folder)
    row.change(folder)
    code = main(["--model", str(folder), *FLAGS, *row.flags])
    captured = capsys.readouterr()
    assert captured.out == ""
    if isinstance(row.expected, str):
        assert code == EX_CONFIG
        assert described == []
        assert_is_one_sentence(captured.err, folder, row.expected)
    else:
        assert (code, captured.err.count("textserve-worker:")) == (0, 0)
        assert row.expected(described[0])


PROCESSES = {
    "rope factor '4.0'",
    "bnb 4 bit left over",
    "4 bit without nested_absmax",
    "LlamaTokenizer without a file",
    "ends of texts",
}
IN_A_PROCESS = "4 bit without nested_absmax"
"""Found late, after the looks at config.json and the tokenizer; the others are long tests."""


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=[] if row.name == IN_A_PROCESS else [pytest.mark.long])
        for row in ROWS
        if row.name in PROCESSES
    ],
)
def test_a_process_ends_with_78_and_tells_whoever_supervises_it(
    row: Row, bases: dict[Base, Path], tmp_path: Path
) -> None:
    assert isinstance(row.expected, str)
    folder = tmp_path / "model"
    shutil.copytree(bases[row.base], folder)
    row.change(folder)
    command = [sys.executable, "-m", "worker", "--model", str(folder), *FLAGS, "--threads", "1", "--exit-with-stdin"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "protos")])
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdin=pipe,  # the life line: it ends with this test
        stdout=pipe,
        stderr=pipe,
        text=True,
    ) as process:
        assert process.wait() == EX_CONFIG
        assert process.stdout
        assert process.stderr
        told, errors = process.stdout.read(), process.stderr.read()
    assert_is_one_sentence(errors, folder, row.expected)
    assert told == errors.splitlines()[-1].replace("textserve-worker: ", "textserve-worker refused ") + "\n"
