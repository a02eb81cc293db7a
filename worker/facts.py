"""What is known of a loaded model, as gateways are told: plain values."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_SAMPLED_BYTES = 4096


@dataclass(frozen=True)
class GenerationDefaults:
    """What the model's generation_config.json sets; None: nothing."""

    max_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    @classmethod
    def of(cls, generation_config: Any) -> "GenerationDefaults":  # noqa: ANN401 - its attributes are dynamic
        return cls(**{name: getattr(generation_config, name, None) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class ModelFacts:
    """A loaded model, described."""

    name: str
    architecture: str
    context_length: int
    """Most tokens of one sequence that the model itself can take."""
    vocab_size: int
    quantization: str
    quantized_share: float
    fingerprint: str
    defaults: GenerationDefaults
    eos_token_ids: tuple[int, ...]
    devices: tuple[str, ...]


def eos_token_ids(generation_config: Any, tokenizer: Any) -> tuple[int, ...]:  # noqa: ANN401 - dynamic attributes
    """Returns the ids that end a sequence: those of the generation config, else the tokenizer's."""
    ids = generation_config.eos_token_id
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, list | tuple) else (int(ids),)


def context_length(model_config: Any, tokenizer: Any) -> int:  # noqa: ANN401 - each family has its own config class
    """Returns the most tokens that a model can take.

    Raises ValueError if neither the model's configuration nor its tokenizer says.
    """
    text_config = model_config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length"):
        length = getattr(text_config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    if tokenizer.model_max_length < 10**9:  # transformers' mark for "unknown" is far above
        return int(tokenizer.model_max_length)
    raise ValueError("neither config.json nor the tokenizer gives the model's context length")


def fingerprint(model: nn.Module, quantization: str, compute_dtype: torch.dtype) -> str:
    """Returns 16 hexadecimal digits that change with the weights, the quantization and the compute type.

    A strided sample of 4 KiB of each tensor is hashed, so that it costs milliseconds on a model of any size. Call it
    before the first forward pass: bitsandbytes re-packs 4-bit weights in it.
    """
    digest = hashlib.sha256(f"{quantization} {compute_dtype}".encode())
    for name, tensor in _tensors(model):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
        step = max(1, flat.numel() // _SAMPLED_BYTES)
        digest.update(flat[::step].cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    # Not the parameters alone: the scales of quantized weights are among the rest.
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":  # offloaded to disk
            yield name, tensor
