"""What bitsandbytes quantizes of a model, what it leaves alone, what became of the layers, and what memory they take.

bitsandbytes' 4-bit kernel for CPUs with AVX512-BF16 takes only layers whose outputs are a multiple of 32 and whose
inputs are a multiple of 64. Others are left unquantized.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from ...domain.config import Config
from ...domain.refusal import Refusal
from ...memory.layout import Layout, bytes_per_row, bytes_per_token
from ...memory.plan import ModelSize
from .bitsandbytes_offline import bnb

_OUT_MULTIPLE, _IN_MULTIPLE = 32, 64
_BLOCK, _NESTED_BLOCK = 64, 256
_WIDER = 4
"""Widths of an MLP, where config.json does not tell: as in GPT-2."""
_READ_DIRECTLY = {"mamba": ("dt_proj",), "longcat_flash": ("classifier",)}
"""By type of model, the linear layers that it does not call: it multiplies with their weights itself, as they are."""
_KNOWN_LINEAR = {"Linear", "Linear4bit", "Linear8bitLt"}


def is_quantized(model_config: Any) -> bool:  # noqa: ANN401 - each family has its own config class
    """Returns whether a checkpoint is quantized, with bitsandbytes.

    Raises Refusal if it is quantized with something else.
    """
    settings = getattr(model_config, "quantization_config", None)
    if settings is None:
        settings = getattr(model_config, "compression_config", None)  # where compressed-tensors once put it
    if settings is None:
        return False
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return True
    method = settings.get("quant_method", "an unnamed method")
    raise Refusal(
        f"its checkpoint is quantized with {method}; textserve serves checkpoints that are not quantized, or quantized "
        "with bitsandbytes to 4 or 8 bit"
    )


def skeleton(model_config: Any) -> nn.Module:  # noqa: ANN401 - each family has its own config class
    """Returns the model without any weights."""
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(model_config, trust_remote_code=False)
    return model


def fits_cpu_kernel(in_features: int, out_features: int) -> bool:
    """Returns whether the CPU's 4-bit kernel takes a layer."""
    return out_features % _OUT_MULTIPLE == 0 and in_features % _IN_MULTIPLE == 0


def quantization_config(
    config: Config,
    model: Any,  # noqa: ANN401 - transformers models share no useful static type
    *,
    dtype: torch.dtype,
    uses_cpu_kernel: bool,
) -> tuple[BitsAndBytesConfig, tuple[str, ...]]:
    """Returns what to give to from_pretrained for a model like this, and the layers whose shape the kernel refuses.

    Raises ValueError if the config names modules to skip that the model does not have.
    """
    _check_skipped(model, config.skip_modules)
    kept = [*get_keys_to_not_convert(model), *layers_read_directly(model), *config.skip_modules]
    if config.quantization == "int8":
        return (
            BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept, llm_int8_threshold=config.int8_threshold),
            (),
        )
    awkward = [name for name in awkward_layers(model) if should_convert_module(name, kept)] if uses_cpu_kernel else []
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization,
        bnb_4bit_use_double_quant=config.double_quantization,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[*kept, *awkward],
    )
    return four_bit, tuple(awkward)


def _check_skipped(model: nn.Module, patterns: Sequence[str]) -> None:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    for pattern in patterns:
        try:
            is_known = any(not should_convert_module(name, [pattern]) for name in linear)
        except re.error as error:
            raise ValueError(f"--skip-modules {pattern}: {error}") from error
        if not is_known:
            raise ValueError(f"--skip-modules {pattern}: no linear layer has such a name; there is {linear[0]}")


def layers_read_directly(model: Any) -> list[str]:  # noqa: ANN401 - as above
    """Returns the linear layers that cannot be quantized because the model's own code reads their weights."""
    names = _READ_DIRECTLY.get(model.config.get_text_config().model_type, ())
    return [name for name, _ in model.named_modules() if name.rpartition(".")[2] in names]


def awkward_layers(model: nn.Module) -> list[str]:
    """Returns the linear layers of a model whose shapes the CPU's 4-bit kernel refuses."""
    return [name for name, module in model.named_modules() if _is_awkward(module)]


def _is_awkward(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return not fits_cpu_kernel(module.in_features, module.out_features)
    if isinstance(module, Conv1D):  # GPT-2's kind of linear layer keeps [in, out]
        return not fits_cpu_kernel(int(module.weight.shape[0]), int(module.weight.shape[1]))
    return False


@dataclass(frozen=True)
class QuantizationReport:
    """What became of a model's weights."""

    quantization: str
    """"nf4", "fp4", "int8" or "none"."""
    quantized_parameters: int
    total_parameters: int
    expert_parameters: int
    """Those in fused expert weights, tensors of three dimensions, which bitsandbytes leaves alone."""
    is_double_quantized: bool
    """Whether the scales of 4-bit blocks are quantized, too."""
    int8_threshold: float
    """Magnitude from which on LLM.int8 takes a column of its input for an outlier; 0: never."""
    left_out: tuple[str, ...]
    """Names of layers that the 4-bit kernel of this CPU refuses."""
    was_to_be_quantized: bool
    """Whether that was asked for, or its checkpoint says so."""
    own_linear_kinds: tuple[str, ...]
    """Classes of the linear layers that bitsandbytes is not given, because they are the model's own."""

    @property
    def share(self) -> float:
        """Returns the quantized share of the parameters, 0 to 1."""
        return self.quantized_parameters / self.total_parameters

    @property
    def is_4bit(self) -> bool:
        """Returns whether there are 4-bit layers."""
        return not {"nf4", "fp4"}.isdisjoint(self.quantization.split("+"))

    @property
    def arithmetic(self) -> str:
        """Returns what of the quantization changes results, beside the weights."""
        return f"{self.quantization} {self.int8_threshold:g}" if self.int8_threshold else self.quantization


def report(model: nn.Module, left_out: tuple[str, ...], *, was_to_be_quantized: bool) -> QuantizationReport:
    """Counts what is quantized in a loaded model."""
    four_bit, eight_bit = _layers(model, bnb.nn.Linear4bit), _layers(model, bnb.nn.Linear8bitLt)
    kinds = {layer.weight.quant_type for layer in four_bit} | {"int8" for _ in eight_bit}
    quantized = sum(layer.in_features * layer.out_features for layer in four_bit + eight_bit)
    others = sum(parameter.numel() for parameter in model.parameters() if not _is_quantized(parameter))
    return QuantizationReport(
        quantization="+".join(sorted(kinds)) or "none",
        quantized_parameters=quantized,
        total_parameters=quantized + others,
        expert_parameters=_expert_parameters(model),
        is_double_quantized=any(layer.weight.quant_state.nested for layer in four_bit),
        int8_threshold=max((layer.state.threshold for layer in eight_bit), default=0.0),
        left_out=left_out,
        was_to_be_quantized=was_to_be_quantized,
        own_linear_kinds=tuple(sorted({type(layer).__name__ for layer in _layers(model, nn.Linear)} - _KNOWN_LINEAR)),
    )


def _expert_parameters(model: nn.Module) -> int:
    modules = [module for module in model.modules() if not isinstance(module, _ConvNd)]
    parameters = [parameter for module in modules for parameter in module.parameters(recurse=False)]
    return sum(parameter.numel() for parameter in parameters if parameter.dim() == 3 and not _is_quantized(parameter))


def dequantize_awkward_layers(model: nn.Module, dtype: torch.dtype) -> tuple[str, ...]:
    """Replaces the 4-bit layers of a checkpoint that the CPU's kernel refuses by plain ones; returns their names."""
    names = [name for name in awkward_layers(model) if isinstance(model.get_submodule(name), bnb.nn.Linear4bit)]
    dequantize(model, names, dtype)
    return tuple(names)


def dequantize(model: nn.Module, names: Iterable[str], dtype: torch.dtype) -> None:
    """Replaces those of the named layers that are quantized by plain ones."""
    for name in names:
        if isinstance(layer := model.get_submodule(name), bnb.nn.Linear4bit | bnb.nn.Linear8bitLt):
            model.set_submodule(name, _plain(layer, dtype))


def _plain(layer: Any, dtype: torch.dtype) -> nn.Linear:  # noqa: ANN401 - bitsandbytes ships no types
    if isinstance(layer, bnb.nn.Linear4bit):
        weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
    else:
        weight = bnb.functional.int8_vectorwise_dequant(layer.weight.data, layer.weight.SCB).to(dtype)
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.to(dtype), requires_grad=False)
    return plain


def set_compute_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Sets the type that 4-bit layers dequantize to and compute in, and that of all weights that are not quantized.

    A quantized checkpoint brings its own types for all of them, whatever from_pretrained is told.
    """
    for layer in _layers(model, bnb.nn.Linear4bit):
        layer.compute_dtype = dtype
        layer.compute_type_is_set = True
        layer.weight.quant_state.dtype = dtype
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not _is_quantized(parameter) and not _stays_float32(model, name):
            parameter.data = parameter.data.to(dtype)


def _layers(model: nn.Module, kind: type[Any]) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)]


def _is_quantized(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, bnb.nn.Params4bit | bnb.nn.Int8Params)


def _stays_float32(model: nn.Module, name: str) -> bool:
    """Whether the model's class says that these weights lose too much in 16 bit."""
    modules = {*(getattr(model, "_keep_in_fp32_modules", None) or ())}
    modules |= {*(getattr(model, "_keep_in_fp32_modules_strict", None) or ())}
    return any(module in name for module in modules)


def loaded_size(model: Any, layouts: Sequence[Layout], context: int) -> ModelSize:  # noqa: ANN401 - no static type
    """Returns the sizes of a model that is in memory."""
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    layers = [each for each in model.modules() if isinstance(each, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt)]
    states = [state for each in layers if (state := getattr(each.weight, "quant_state", None)) is not None]
    numbers = [each.in_features * each.out_features for each in layers]
    return _model_size(
        model.config,
        layouts,
        context,
        weights=weights,
        scales=sum(map(scale_bytes, states)),
        matrices=numbers,
        dtype=model.dtype,
    )


def scale_bytes(state: Any) -> int:  # noqa: ANN401 - bitsandbytes ships no types
    """Returns the size of a 4-bit matrix's scales, and of the scales of those if they are quantized."""
    own: int = state.absmax.numel() * state.absmax.element_size()
    return own + (scale_bytes(state.state2) if state.nested else 0)


def expected_size(config: Config, skeleton: Any, layouts: Sequence[Layout], context: int) -> ModelSize:  # noqa: ANN401
    """Returns the sizes that a model will have on a GPU, once it is loaded with these settings.

    Args:
        config: how it is to be quantized, if its checkpoint is not.
        skeleton: the model without weights, in the type that it will compute in, not quantized.
        layouts: what its layers keep.
        context: most tokens of a sequence.
    """
    kind, kept, is_nested = _quantization_of(config, skeleton)
    matrices = [_numbers(module) for name, module in skeleton.named_modules() if _becomes(module, name, kind, kept)]
    quantized, itemsize = sum(matrices), skeleton.dtype.itemsize
    others = sum(each.numel() * each.element_size() for each in skeleton.parameters()) - quantized * itemsize
    blocks = quantized // _BLOCK
    scales = blocks + 4 * (blocks // _NESTED_BLOCK) if is_nested else 4 * blocks
    return _model_size(
        skeleton.config,
        layouts,
        context,
        weights=others + (quantized if kind == "int8" else quantized // 2),
        scales=0 if kind in {"int8", "none"} else scales,
        matrices=matrices,
        dtype=skeleton.dtype,
    )


def _quantization_of(config: Config, skeleton: Any) -> tuple[str, list[str], bool]:  # noqa: ANN401 - as above
    """Returns how a model will be quantized, which modules will not be, and whether scales will be, too."""
    stated: Any = getattr(skeleton.config, "quantization_config", None)
    if not is_quantized(skeleton.config):
        kept = [*get_keys_to_not_convert(skeleton), *layers_read_directly(skeleton), *config.skip_modules]
        return config.quantization, kept, config.double_quantization
    kept = stated.get("llm_int8_skip_modules") or get_keys_to_not_convert(skeleton)
    kind = "int8" if stated.get("load_in_8bit") else stated.get("bnb_4bit_quant_type", "nf4")
    return kind, [*kept], bool(stated.get("bnb_4bit_use_double_quant"))


def _becomes(module: nn.Module, name: str, kind: str, kept: list[str]) -> bool:
    # As transformers: exact classes alone.
    return kind != "none" and type(module) in {nn.Linear, Conv1D} and should_convert_module(name, kept)


def _numbers(module: Any) -> int:  # noqa: ANN401 - as above
    count: int = module.weight.numel()
    return count


def _model_size(
    model_config: Any,  # noqa: ANN401 - each family has its own config class
    layouts: Sequence[Layout],
    context: int,
    *,
    weights: int,
    scales: int,
    matrices: list[int],
    dtype: torch.dtype,
) -> ModelSize:
    text = model_config.get_text_config()
    return ModelSize(
        weights=weights,
        scales=scales,
        token=bytes_per_token(layouts),
        row=bytes_per_row(layouts),
        context=context,
        layers=len(layouts),
        width=text.hidden_size,
        inner=getattr(text, "intermediate_size", None) or _WIDER * text.hidden_size,
        vocabulary=text.vocab_size,
        largest_matrix=max(matrices, default=0),
        quantized=sum(matrices),
        itemsize=dtype.itemsize,
    )
