"""What is known of a loaded model, as gateways are told: plain values."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .checkpoint.generation_defaults import GenerationDefaults
from .dispatch import tensors

logger = logging.getLogger(__name__)

_LENGTH_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "max_target_positions",
)
_DEFAULT_CONTEXT = 2048


@dataclass(frozen=True)
class ModelFacts:
    """A loaded model, described."""

    name: str
    architecture: str
    context_length: int
    """Most tokens of one sequence: the model's own limit, or less if the config says so."""
    vocab_size: int
    quantization: str
    quantized_share: float
    fingerprint: str
    defaults: GenerationDefaults
    eos_token_ids: tuple[int, ...]
    devices: tuple[str, ...]
    """Those that compute, then "cpu" and "disk" if weights are offloaded there."""


def context_length(model_config: Any, tokenizer: Any, *, asked: int = 0) -> int:  # noqa: ANN401 - one class per family
    """Returns the most tokens that a sequence may have: as many as are asked for, or, with 0, the model's own limit.

    Models without positions (state spaces, ALiBi) often name no limit. Then it is what the tokenizer says, else 2048,
    and any may be asked for. Raises ValueError if more is asked for than the model can take.
    """
    limit = limit_of(model_config)
    if limit is not None:
        if asked > limit:
            raise ValueError(f"--context-length {asked} is above the model's own {limit}")
        return asked or limit
    if not asked and tokenizer.model_max_length < 10**9:  # transformers' mark for "unknown" is far above
        return int(tokenizer.model_max_length)
    if not asked:
        logger.warning("the model names no context length: taking %d; --context-length changes it", _DEFAULT_CONTEXT)
    return asked or _DEFAULT_CONTEXT


def limit_of(model_config: Any) -> int | None:  # noqa: ANN401 - as above
    """Returns the most tokens that a model takes; None if it names no limit."""
    text_config = model_config.get_text_config()
    lengths = (getattr(text_config, name, None) for name in _LENGTH_NAMES)
    length = next((length for length in lengths if isinstance(length, int) and length > 0), None)
    if length is None:
        return None
    return min([max(length, _stretched(text_config, length)), *_isolation_limits(text_config)])


def _stretched(text_config: Any, stated: int) -> int:  # noqa: ANN401 - as above
    """Returns how many positions a fixed scaling gives; 0 if there is none, or the length that is stated counts it.

    It is a factor on the length that was trained with. Where that is named beside it, as with YaRN, the stated length
    may count the factor (DeepSeek) or not (Qwen 2.5); else it does not. Of other scalings (Llama 3, LongRoPE) and of
    configs with one scaling for each type of layer (Gemma 3) the stated length is what the model can take.
    """
    rope = getattr(text_config, "rope_parameters", None) or {}
    factor = rope.get("factor")
    if rope.get("rope_type") not in {"linear", "yarn"} or not isinstance(factor, int | float):
        return 0
    original = rope.get("original_max_position_embeddings")
    return int(factor * (original if isinstance(original, int) else stated))


def _isolation_limits(text_config: Any) -> Iterator[int]:  # noqa: ANN401 - as above
    """Yields lengths above which transformers would compute all rows of a batch differently, for the longest one."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":  # picks short or long factors for the whole batch
        original = rope.get("original_max_position_embeddings")
        original = original or getattr(text_config, "original_max_position_embeddings", None)
        yield from [original] if original else []
    if getattr(text_config, "attn_temperature_tuning", False):  # Llama 4 scales by columns, padding included
        yield text_config.floor_scale - 1


_SAMPLED_BYTES = 4096


def fingerprint(model: nn.Module, quantization: str, compute_dtype: torch.dtype) -> str:
    """Returns 16 hexadecimal digits that change with the weights, the quantization and the compute type.

    They do not change with where the weights lie, nor with whether they were quantized at loading or before. A strided
    sample of 4 KiB of each tensor is hashed, so that it costs milliseconds on a model of any size. Call it before the
    first forward pass: bitsandbytes re-packs 4-bit weights in it.
    """
    digest = hashlib.sha256(f"{quantization} {compute_dtype}".encode())
    for name, tensor in tensors(model):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
        step = max(1, flat.numel() // _SAMPLED_BYTES)
        digest.update(flat[::step].cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
