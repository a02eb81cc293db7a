"""Compares what a checkpoint's files say of themselves with the model that config.json describes, before any is read.

transformers makes up what is missing, drops what is too much, and does not look at the shapes of what it quantizes: it
tells in a table, and the model computes something else than what was trained. Here each of that is an error.

Keys and shapes are carried through transformers' own renaming and conversion, on tensors without memory.

The files are opened so that each weight is known by its file and key, and is looked at when it is read.
"""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import modeling_utils
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    dot_natural_key,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig
from transformers.pytorch_utils import Conv1D

from .quantization.bitsandbytes_offline import bnb

logger = logging.getLogger(__name__)


class Weight:
    """A weight in a file, which is read when it is indexed. Its shape and type are known from the file's header."""

    def __init__(self, piece: Any, file: str, key: str) -> None:  # noqa: ANN401 - safetensors ships no type for a slice
        """Stands for one key of a file; `piece` is safetensors' own slice of it."""
        self._piece = piece
        self._place = f"{file}: {key}"
        self.is_packed = False
        """Whether its numbers are codes, whatever their type says: bitsandbytes' storage may be of any type."""

    def __str__(self) -> str:
        """Returns the names of file and key."""
        return self._place

    def get_shape(self) -> list[int]:
        """Returns the shape, as the header has it."""
        shape: list[int] = self._piece.get_shape()
        return shape

    def get_dtype(self) -> str:
        """Returns safetensors' name of the type, such as "BF16"."""
        dtype: str = self._piece.get_dtype()
        return dtype

    def __getitem__(self, index: Any) -> Tensor:  # noqa: ANN401 - whatever tensors take
        """Reads the weight. Raises ValueError if it is not finite everywhere."""
        tensor: Tensor = self._piece[index]
        if not self.is_packed and not _is_finite(tensor):
            raise ValueError(f"{self} holds NaN or an infinity")
        return tensor


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.itemsize < 2 or not tensor.numel():
        return True
    # NaN comes through; `isfinite` takes thirty times as long.
    least, greatest = torch.aminmax(tensor)
    return bool(least.isfinite() & greatest.isfinite())


class _File:
    """What `safe_open` returns, but for the weights."""

    def __init__(self, path: Any, **settings: Any) -> None:  # noqa: ANN401 - as safe_open
        self._name = Path(path).name
        self._file: Any  # safetensors ships no types
        try:
            self._file = safe_open(path, **settings)
        except SafetensorError as error:
            raise SafetensorError(f"{self._name}: {error}") from error

    def __enter__(self) -> "_File":
        self._file.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.__exit__(*exception)

    def get_slice(self, key: str) -> Weight:
        return Weight(self._file.get_slice(key), self._name, key)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the rest is safetensors' own
        return getattr(self._file, name)


@contextmanager
def files_opened(*, mapped: bool) -> Iterator[None]:
    """Within this, what transformers opens gives it weights of the kind above.

    Not mapped, each weight is read when it is wanted, and its 16 bits are gone as soon as it is quantized. A mapped
    checkpoint stays in the process's memory as a whole for as long as a single weight of it is used unchanged: the
    embeddings, for good. It is read page by page besides, and a file that is written to changes a running model. But
    for models that stay in 16 bit: mapped, workers of one machine share the weights, and none needs to be copied.
    """
    backend: Mapping[str, str] = {} if mapped else {"backend": "pread"}

    def opened(path: Any, **settings: Any) -> _File:  # noqa: ANN401 - as safe_open
        return _File(path, **{**settings, **backend})

    modeling_utils.safe_open = opened  # type: ignore[assignment,attr-defined]
    try:
        yield
    finally:
        modeling_utils.safe_open = safe_open  # type: ignore[attr-defined]


Shape = tuple[int, ...]

_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F16": 2, "BF16": 2, "F32": 4}
"""Those types of a file that packed weights may have."""
_KINDS = (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)
_MASK_DIMENSIONS = 4
"""Of what attention once kept under the name of a bias: which column sees which."""
_PART = re.compile(
    r"(?<=\.)(weight\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+)|SCB|weight_format)$"
)
"""What bitsandbytes keeps beside a weight in 4 or 8 bit."""
_STATISTIC = re.compile(
    r"(^|[._])(scale|scales|scale_inv|qweight|qzeros|zero_point|g_idx|blocks|weight_packed|weight_shape"
    r"|absmax|quant_map|SCB|quant_state\.\w+)$"
)
"""What quantizers keep beside their weights, or call those."""
_INCOMPLETE = "without which it cannot be dequantized: save the quantized model again, or download it again"
_LEFT_OVER = re.compile(
    r"(^|\.)(inv_freq|original_inv_freq|masked_bias|causal_mask|(cos|sin)_cached|position_ids|num_batches_tracked"
    r"|version|[kv]_scale|kv_scale)$"
)
"""What older versions of transformers saved and computes anew, and scales of caches in 8 bit, which are not ours."""


@contextmanager
def compared_with(skeleton: nn.Module) -> Iterator[None]:
    """Within this, transformers raises ValueError for a checkpoint that is not one of this model.

    The message names the file, the key and the shapes. `skeleton` is the model on the meta device, not quantized; it is
    used up.
    """
    load = convert_and_load_state_dict_in_model
    table = _NoTable()

    def compare_and_load(model: Any, state_dict: dict[str, Any], load_config: Any, *rest: Any, **more: Any) -> Any:  # noqa: ANN401 - as transformers' own
        _Comparison(skeleton, model, load_config.hf_quantizer).check(state_dict)
        return load(model, state_dict, load_config, *rest, **more)

    modeling_utils.convert_and_load_state_dict_in_model = compare_and_load  # type: ignore[attr-defined]
    logging.getLogger(modeling_utils.__name__).addFilter(table)
    try:
        yield
    finally:
        modeling_utils.convert_and_load_state_dict_in_model = load  # type: ignore[attr-defined]
        logging.getLogger(modeling_utils.__name__).removeFilter(table)


class _NoTable(logging.Filter):
    """Drops transformers' table of keys: what of it matters is an error here, and the rest is one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()


class _Comparison:
    """One checkpoint beside one model.

    Args:
        skeleton: the model without weights, not quantized.
        model: the same as transformers is about to load it, its layers replaced by bitsandbytes' ones.
        quantizer: transformers' quantizer, if there is one.
    """

    def __init__(self, skeleton: Any, model: Any, quantizer: Any) -> None:  # noqa: ANN401 - transformers' objects
        self._skeleton = skeleton
        self._wanted: dict[str, Tensor] = skeleton.state_dict()
        mapping = get_model_conversion_mapping(skeleton)  # some of it has a memory: not for anything else
        self._renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
        self._converters = [each for each in mapping if isinstance(each, WeightConverter)]
        self._packed: dict[str, Any] = {}
        if quantizer is not None and quantizer.pre_quantized:
            modules = [(name, each) for name, each in model.named_modules() if isinstance(each, _KINDS)]
            self._packed = {f"{name}.weight": module for name, module in modules}

    def check(self, weights: Mapping[str, Weight]) -> None:
        """Raises ValueError if a weight of the model is missing or has another shape, or if one is left over."""
        ordered = sorted(weights, key=dot_natural_key)
        names = {key: self._name(key) for key in ordered}
        shapes = {key: tuple(weights[key].get_shape()) for key in ordered}
        if self._packed:
            shapes = self._unpacked(weights, shapes)
        info = self._carry(shapes)
        sources: dict[str, list[str]] = {}
        for key in shapes:
            sources.setdefault(names[key], []).append(key)
        self._check_unused({name: weights[key] for name in info.unexpected_keys for key in sources.get(name, ())})
        for name, error in info.conversion_errors.items():
            what = error.strip().splitlines()[0] if error else ""
            raise ValueError(f"{weights[sources[name][0]]} does not become {name} of config.json's model: {what}")
        for name, shape, wanted in sorted(info.mismatched_keys):
            raise ValueError(
                f"{weights[sources[name][0]]} has the shape {_text(shape)}, and config.json asks for {_text(wanted)}"
            )
        if missing := sorted(info.missing_keys, key=dot_natural_key):
            shape = _text(self._wanted[missing[0]].shape)
            raise ValueError(f"its checkpoint lacks {len(missing)} weights, such as {missing[0]} of the shape {shape}")

    def _name(self, key: str) -> str:
        """Returns what a key of the checkpoint is called in the model."""
        prefix = self._skeleton.base_model_prefix
        name, _ = rename_source_key(key, self._renamings, self._converters, prefix, self._wanted)
        return key if name not in self._wanted and key in self._wanted else name

    def _carry(self, shapes: Mapping[str, Shape]) -> Any:  # noqa: ANN401 - transformers' LoadStateDictInfo
        """Lets transformers load tensors of these shapes into the skeleton; returns what it has to tell."""
        mapping: Any = get_model_conversion_mapping(self._skeleton)
        info, _ = convert_and_load_state_dict_in_model(
            self._skeleton,
            {key: torch.empty(shape, device="meta") for key, shape in shapes.items()},
            LoadStateDictConfig(device_map={"": "meta"}, dtype=torch.float32, weight_mapping=mapping),
        )
        self._skeleton.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
        self._skeleton._adjust_missing_and_unexpected_keys(info)  # noqa: SLF001 - knows each class's exceptions
        return info

    def _unpacked(self, weights: Mapping[str, Weight], shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Returns the shapes with those that quantized weights stand for, and without what belongs to these.

        The weights of 4 bit are marked as packed. Raises ValueError for a layer that lacks some of what it takes to be
        dequantized.
        """
        parts = _parts(weights)
        unpacked = dict(shapes)
        for key in shapes:
            module = self._packed.get(self._name(key))
            if module is None:
                continue
            base = key.removesuffix("weight")
            read = _four_bit_shape if isinstance(module, bnb.nn.Linear4bit) else _eight_bit_shape
            shape = read(weights[key], parts.get(base, {}))
            unpacked[key] = shape[::-1] if module.source_cls is Conv1D else shape
            for part in parts.get(base, ()):
                del unpacked[base + part]
        return unpacked

    def _check_unused(self, unused: Mapping[str, Weight]) -> None:
        """Raises ValueError if a weight that is left over shows that the others are not what they seem."""
        harmless = []
        for name in sorted(unused, key=dot_natural_key):
            weight = unused[name]
            what = f"{weight}, of the shape {_text(weight.get_shape())},"
            if not _is_left_over(name, weight):
                if _STATISTIC.search(name):
                    raise ValueError(f"{what} is of a quantized weight, and config.json names no such quantization")
                if reason := self._use(name):
                    raise ValueError(f"{what} {reason}")
            harmless.append(weight)
        if harmless:
            logger.warning("%d weights of the checkpoint are not used, such as %s", len(harmless), harmless[0])

    def _use(self, name: str) -> str:
        """Returns what an unknown weight would change; empty if it is beside the layers, as those of a vision tower."""
        prefix = self._skeleton.base_model_prefix
        return self._use_at(name.split(".")) or self._use_at([prefix, *name.split(".")])

    def _use_at(self, path: list[str]) -> str:
        module: nn.Module = self._skeleton
        is_in_layer = False
        for part in path[:-1]:
            child = module._modules.get(part)  # noqa: SLF001 - get_submodule raises for the last one that is there
            if child is None:
                break
            is_in_layer |= isinstance(module, nn.ModuleList)
            module = child
        else:
            is_in_layer |= next(module.parameters(recurse=False), None) is not None
            part = ""
        if is_in_layer:
            return "is of no use in the model that config.json describes, which would compute without it"
        if isinstance(module, nn.ModuleList) and part.isdigit() and int(part) >= len(module) + self._predicting_layers:
            return f"is of a layer that config.json does not count: it names {len(module)}"
        return ""

    @property
    def _predicting_layers(self) -> int:
        """Layers behind the last that predict several tokens at once, which is not done here."""
        return getattr(self._skeleton.config.get_text_config(), "num_nextn_predict_layers", None) or 0


def _is_left_over(name: str, weight: Weight) -> bool:
    return bool(_LEFT_OVER.search(name)) or (name.endswith(".bias") and len(weight.get_shape()) == _MASK_DIMENSIONS)


def _parts(weights: Mapping[str, Weight]) -> dict[str, dict[str, Weight]]:
    """Returns what bitsandbytes keeps beside its weights: by the layer's name with a dot, then by its own."""
    parts: dict[str, dict[str, Weight]] = {}
    for key, weight in weights.items():
        if found := _PART.search(key):
            parts.setdefault(key[: found.start()], {})[found[0]] = weight
    return parts


def _four_bit_shape(weight: Weight, parts: Mapping[str, Weight]) -> Shape:
    """Returns the shape that a packed weight stands for. Raises ValueError if that, or what it takes, is not there."""
    weight.is_packed = True
    states = [part for name, part in parts.items() if ".quant_state." in name]
    if len(states) != 1:
        raise ValueError(f"{weight} has no quant_state: it is not quantized to 4 bit, though config.json says so")
    state = _quant_state(states[0])
    shape = tuple(state["shape"])
    nested = ["nested_absmax", "nested_quant_map"] if "nested_blocksize" in state else []
    for name in ("absmax", "quant_map", *nested):
        if f"weight.{name}" not in parts:
            raise ValueError(f"{weight} has no {name}, {_INCOMPLETE}")
    numbers = math.prod(shape)
    blocks = -(-numbers // state["blocksize"])
    counts = {weight: -(-numbers // (2 * _BYTES.get(weight.get_dtype(), 1))), parts["weight.absmax"]: blocks}
    if nested:
        counts[parts["weight.nested_absmax"]] = -(-blocks // state["nested_blocksize"])
    for each, count in counts.items():
        if math.prod(each.get_shape()) != count:
            raise ValueError(
                f"{each} has the shape {_text(each.get_shape())}, and {_text(shape)} needs {count} numbers"
            )
    return shape


def _quant_state(part: Weight) -> dict[str, Any]:
    """Returns what bitsandbytes keeps as JSON in a tensor of bytes."""
    try:
        state: dict[str, Any] = json.loads(bytes(part[:].tolist()))
        numbers = [*state["shape"], state["blocksize"], state.get("nested_blocksize", 1)]
        is_sound = all(isinstance(number, int) and number > 0 for number in numbers)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{part} is not what bitsandbytes writes: {error}") from error
    if not is_sound or not math.isfinite(state.get("nested_offset", 0)):
        raise ValueError(f"{part} is not what bitsandbytes writes: {state}")
    return state


def _eight_bit_shape(weight: Weight, parts: Mapping[str, Weight]) -> Shape:
    """As _four_bit_shape."""
    shape = tuple(weight.get_shape())
    if weight.get_dtype() != "I8":
        raise ValueError(f"{weight} is {weight.get_dtype()}: it is not quantized to 8 bit, though config.json says so")
    if "SCB" not in parts:
        raise ValueError(f"{weight} has no SCB, {_INCOMPLETE}")
    if tuple(parts["SCB"].get_shape()) != shape[:1]:
        raise ValueError(
            f"{parts['SCB']} has the shape {_text(parts['SCB'].get_shape())}, and {_text(shape)} needs one a row"
        )
    return shape


def _text(shape: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
