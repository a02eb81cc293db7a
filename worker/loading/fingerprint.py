"""A short name for the numbers that a loaded model computes with."""

import hashlib

import torch
from torch import nn

from .dispatch import tensors

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
