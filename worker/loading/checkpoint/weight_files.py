"""The safetensors of a checkpoint, looked at before anything is loaded: are they there, whole, and as config.json says?

Format: https://huggingface.co/docs/safetensors (eight bytes with the length of a JSON header, the header, the data).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...domain.refusal import Refusal
from .hub import Files

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_LENGTH_BYTES = 8
_LONGEST_HEADER = 100 << 20  # bytes, as in safetensors itself
_OTHER_WEIGHTS = {
    "pytorch_model.bin": "pickled weights",
    "pytorch_model.bin.index.json": "pickled weights",
    "consolidated.00.pth": "pickled weights",
    "consolidated.safetensors": "weights under names that are not transformers'",
    "tf_model.h5": "weights for TensorFlow",
    "flax_model.msgpack": "weights for Flax",
    "adapter_model.safetensors": "the weights of an adapter",
}
_QUANT_STATE = "quant_state.bitsandbytes__"
_PACKED = {"U8", "I8", "BF16", "F16", "F32"}
"""Types that bitsandbytes may store packed 4-bit weights in (bnb_4bit_quant_storage)."""


@dataclass(frozen=True)
class Tensor:
    """What a header says of a tensor."""

    dtype: str
    """safetensors' name, such as BF16 or U8."""
    shape: tuple[int, ...]


def check_weights(files: Files, settings: Mapping[str, Any]) -> None:
    """Raises Refusal for weights that are missing, cut off or no weights, or quantized otherwise than is said.

    Whether they are those of the model, and quantized layers whole, is seen beside the model: `checkpoint_headers`.

    Args:
        files: those of the checkpoint.
        settings: what its config.json says.
    """
    tensors: dict[str, Tensor] = {}
    for name, path in _paths(files).items():
        tensors |= _header(name, path)
    _check_quantization(tensors, settings.get("quantization_config") or settings.get("compression_config"))


def _paths(files: Files) -> dict[str, Path]:
    """Returns the files that hold the weights, by name, as transformers chooses them."""
    if path := files.find(WEIGHTS):
        return {WEIGHTS: path}
    index = files.read_object(INDEX)
    if index is None:
        others = [f"{name} ({kind})" for name, kind in _OTHER_WEIGHTS.items() if files.find(name)]
        found = f"; {others[0]} is not read: save it again with transformers" if others else ""
        raise Refusal(f"it has no weights: neither {WEIGHTS} nor {INDEX} is there{found}")
    where = index.get("weight_map")
    if not isinstance(where, dict) or not where:
        raise Refusal(f"{INDEX} has no weight_map, which says in which file each weight is: download it again")
    if not isinstance(index.get("metadata"), dict):
        raise Refusal(f'{INDEX} has no metadata, which transformers asks for: add "metadata": {{}}')
    return {name: _shard(files, name) for name in dict.fromkeys(where.values())}


def _shard(files: Files, name: Any) -> Path:  # noqa: ANN401 - whatever JSON can hold
    if not isinstance(name, str) or Path(name).name != name:
        raise Refusal(f"{INDEX} names {name!r} in its weight_map, which is no file beside it")
    path = files.find(name)
    if path is None:
        raise Refusal(f"{INDEX} names {name}, and there is no such file: download it again")
    return path


def _header(name: str, path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES)
        length = int.from_bytes(start, "little")
        if start == b"version ":
            raise Refusal(f"{name} is a Git LFS pointer, not the weights: fetch them with `git lfs pull`")
        if size <= _LENGTH_BYTES or length > _LONGEST_HEADER:
            raise Refusal(f"{name} is no safetensors file ({size:,} bytes): download it again")
        try:
            entries = json.loads(file.read(length))
            entries.pop("__metadata__", None)
            end = _LENGTH_BYTES + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
            tensors = {key: Tensor(entry["dtype"], tuple(entry["shape"])) for key, entry in entries.items()}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise Refusal(f"{name} is damaged, its header cannot be read: download it again") from error
    if size != end:
        raise Refusal(f"{name} has {size:,} bytes instead of the {end:,} that its header says: download it again")
    return tensors


def _check_quantization(tensors: Mapping[str, Tensor], stated: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Compares what config.json states of bitsandbytes' quantization with the weights."""
    four_bit = sorted({key.partition(_QUANT_STATE)[0].removesuffix(".") for key in tensors if _QUANT_STATE in key})
    eight_bit = sorted(key.removesuffix("SCB") + "weight" for key in tensors if key.rpartition(".")[2] == "SCB")
    states_4, states_8 = (isinstance(stated, dict) and stated.get(key) is True for key in _STATED)
    if four_bit and not states_4:
        raise Refusal(_contradiction("quant_state", four_bit[0], "4 bit", stated))
    if eight_bit and not states_8:
        raise Refusal(_contradiction("SCB", eight_bit[0], "8 bit", stated))
    if not states_4 and not states_8:
        return
    is_packed = any(_is_packed(key, tensor, tensors, four_bit=states_4) for key, tensor in tensors.items())
    if not is_packed and not four_bit and not eight_bit:
        raise Refusal(
            f"config.json says in quantization_config that its weights are quantized to {4 if states_4 else 8} bit, "
            "and they are not: remove quantization_config from config.json"
        )


_STATED = ("load_in_4bit", "load_in_8bit")


def _contradiction(part: str, weight: str, bits: str, stated: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    says = "has no quantization_config" if not stated else "says something else in quantization_config"
    return (
        f"its weights are quantized to {bits} by bitsandbytes ({weight} comes with {part}), and config.json {says}: "
        "give it back the one that it was saved with"
    )


def _is_packed(key: str, tensor: Tensor, tensors: Mapping[str, Tensor], *, four_bit: bool) -> bool:
    if not key.endswith(".weight"):
        return False
    if not four_bit:
        return tensor.dtype == "I8"
    is_column = len(tensor.shape) == 2 and tensor.shape[1] == 1 and tensor.dtype in _PACKED
    return tensor.dtype == "U8" or (is_column and f"{key}.absmax" in tensors)
