"""What bitsandbytes quantizes of a model, what it is told to leave alone, and what became of the layers.

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

from ..domain.config import Config
from ..domain.refusal import Refusal
from .bitsandbytes_offline import bnb

_OUT_MULTIPLE, _IN_MULTIPLE = 32, 64
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
