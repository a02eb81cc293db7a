"""Loads a causal language model and its tokenizer with transformers, the way the tutorial on generation teaches.

Safetensors only, no code from the model's folder, 4-bit unless told otherwise, placed by `device_map`, compute type
always explicit, tokenizer padded on the left, pad token = end of sequence where none is set.
"""

import inspect
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from . import quantization
from .config import Config
from .facts import GenerationDefaults, ModelFacts, context_length, eos_token_ids, fingerprint
from .tokenizer_files import TokenizerFiles, tokenizer_files

logger = logging.getLogger(__name__)
disable_progress_bar()


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run."""

    model: Any
    """The transformers model."""
    facts: ModelFacts
    tokenizer: TokenizerFiles
    pad_token_id: int
    takes_position_ids: bool
    input_device: torch.device
    """Where token ids go."""
    devices: tuple[torch.device, ...]


def load(config: Config) -> LoadedModel:
    """Loads the model of a config.

    Raises:
        OSError, ValueError: transformers could not load it, or it lacks something; the message says what.
    """
    if config.model.startswith(("/", ".", "~")) and not Path(config.model).is_dir():
        raise ValueError("there is no such folder")
    began = time.monotonic()
    source: dict[str, Any] = {"trust_remote_code": False, **({"revision": config.revision} if config.revision else {})}
    model_config = AutoConfig.from_pretrained(config.model, **source)
    tokenizer = AutoTokenizer.from_pretrained(config.model, padding_side="left", **source)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    dtype = compute_dtype(config)
    model, report = _load_weights(config, model_config, dtype, source)
    devices = tuple(sorted({parameter.device for parameter in model.parameters()} - {torch.device("meta")}, key=str))
    facts = ModelFacts(
        name=config.name or _own_name(config.model),
        architecture=type(model).__name__,
        context_length=context_length(model.config, tokenizer),
        vocab_size=model.get_output_embeddings().weight.shape[0],
        quantization=report.quantization,
        quantized_share=report.share,
        fingerprint=fingerprint(model, report.quantization, dtype),
        defaults=GenerationDefaults.of(model.generation_config),
        eos_token_ids=eos_token_ids(model.generation_config, tokenizer),
        devices=tuple(str(device) for device in devices),
    )
    _log_report(facts, report, model, time.monotonic() - began)
    return LoadedModel(
        model=model,
        facts=facts,
        tokenizer=tokenizer_files(tokenizer),
        pad_token_id=_pad_token_id(tokenizer, facts),
        takes_position_ids="position_ids" in inspect.signature(model.forward).parameters,
        input_device=model.get_input_embeddings().weight.device,
        devices=devices,
    )


def compute_dtype(config: Config) -> torch.dtype:
    """Returns the type to compute in: what the config says, else bfloat16 where the device has it, else float32."""
    if config.compute_dtype != "auto":
        dtype: torch.dtype = getattr(torch, config.compute_dtype)
        return dtype
    has_bfloat16 = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else quantization.cpu_has_4bit_kernel()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def _load_weights(
    config: Config,
    model_config: Any,  # noqa: ANN401 - each family has its own config class
    dtype: torch.dtype,
    source: dict[str, Any],
) -> tuple[Any, quantization.QuantizationReport]:
    uses_cpu_kernel = not torch.cuda.is_available() and quantization.cpu_has_4bit_kernel()
    wanted, left_out = quantization.quantization_config(
        config, model_config, dtype=dtype, uses_cpu_kernel=uses_cpu_kernel
    )
    model = _from_pretrained(
        config.model,
        config=model_config,
        dtype=dtype,
        device_map=config.device_map,
        use_safetensors=True,
        **source,
        **({"quantization_config": wanted} if wanted else {}),
    )
    if uses_cpu_kernel:
        left_out += quantization.dequantize_awkward_layers(model, dtype)
    quantization.set_compute_dtype(model, dtype)
    return model, quantization.report(model, left_out)


def _from_pretrained(name: str, **settings: Any) -> Any:  # noqa: ANN401 - passed through
    """Returns a model whose weights all come from its checkpoint: transformers makes up what is missing."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **settings)
    except torch.OutOfMemoryError:  # a RuntimeError that a restart may mend
        raise
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"its weights cannot be loaded: {error}") from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"its checkpoint lacks {len(missing)} weights, such as {missing[0]}")
    return model.eval()


def _own_name(model: str) -> str:
    """Returns a folder's last part, or a hub name as it is."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def _pad_token_id(tokenizer: Any, facts: ModelFacts) -> int:  # noqa: ANN401 - transformers' tokenizers are untyped here
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id < facts.vocab_size:
        return int(tokenizer.pad_token_id)
    return facts.eos_token_ids[0] if facts.eos_token_ids else 0


def _log_report(
    facts: ModelFacts,
    report: quantization.QuantizationReport,
    model: Any,  # noqa: ANN401 - transformers models share no useful static type
    seconds: float,
) -> None:
    logger.info(
        "loaded %s (%s) on %s in %.1f s: %.1f MiB, %s parameters, %.0f %% of them %s",
        facts.name,
        facts.architecture,
        "+".join(facts.devices),
        seconds,
        model.get_memory_footprint() / 2**20,
        f"{report.total_parameters:,}",
        100 * report.share,
        report.quantization if report.share else "quantized",
    )
    if report.left_out:
        logger.warning(
            "%d layers are not quantized, because this CPU's 4-bit kernel refuses their shapes: %s%s",
            len(report.left_out),
            ", ".join(report.left_out[:3]),
            ", ..." if len(report.left_out) > 3 else "",
        )
