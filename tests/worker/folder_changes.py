"""What people do to a model's folder, as functions that do it to a copy of a good one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Change = Callable[[Path], object]
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 313280\n"
GONE = object()
"""Stands for a key that is taken out."""


def sets(name: str, **values: Any) -> Change:
    """Returns a change of keys in a JSON object; values that are `GONE` are taken out."""

    def change(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        for key, value in values.items():
            content.pop(key, None)
            if value is not GONE:
                content[key] = value
        path.write_text(json.dumps(content))

    return change


def config(**values: Any) -> Change:
    return sets(CONFIG, **values)


def rope(**values: Any) -> Change:
    """Returns a change to scaled rotary positions, in the way of most checkpoints that there are."""
    return sets(CONFIG, rope_parameters=GONE, rope_theta=10000.0, rope_scaling=values)


def quantized(**values: Any) -> Change:
    """Returns a change that makes config.json say that the weights are quantized with bitsandbytes."""
    return sets(CONFIG, quantization_config={"quant_method": "bitsandbytes"} | values)


def tokenizer_config(**values: Any) -> Change:
    return sets("tokenizer_config.json", **values)


def in_tokenizer(part: str, **values: Any) -> Change:
    """Returns a change inside an object of tokenizer.json."""

    def change(folder: Path) -> None:
        content = json.loads((folder / TOKENIZER).read_text())
        content[part] = (content[part] or {}) | values
        (folder / TOKENIZER).write_text(json.dumps(content))

    return change


def writes(name: str, content: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def without(*names: str) -> Change:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def only(*changes: Change) -> Change:
    """Returns the changes of an empty folder."""

    def change(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        for each in changes:
            each(folder)

    return change


def all_of(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def cut(size: int) -> Change:
    return lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:size])


def recoded(encoding: str, name: str = CONFIG) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_text().encode(encoding))


def sharded(**index: Any) -> Change:
    """Returns a change to one shard and an index, of which keys are set, or taken out with `GONE`."""

    def change(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
        names = load_file(folder / "model-00001-of-00001.safetensors")
        whole = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")} | index
        (folder / INDEX).write_text(json.dumps({key: value for key, value in whole.items() if value is not GONE}))

    return change


def without_tensors(ending: str) -> Change:
    """Returns a change that takes all tensors with such names out of the weights."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        kept: dict[str, torch.Tensor] = {name: each for name, each in tensors.items() if not name.endswith(ending)}
        assert len(kept) < len(tensors)
        save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})

    return change
