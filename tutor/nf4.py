"""NF4 in training: the weights of the linear layers as the 4-bit checkpoint will hold them.

The data type and its blocks are those of QLoRA (https://arxiv.org/abs/2305.14314) as bitsandbytes stores them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

BLOCK_SIZE = 64
"""Weights that share one scale."""

CODE = torch.tensor(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ]
)
MIDPOINTS = (CODE[1:] + CODE[:-1]) / 2


class StraightThroughNF4(nn.Module):
    """Rounds a weight to what NF4 can hold; its gradient passes as if nothing had been rounded."""

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight, of the same shape, whose number of elements is a multiple of `BLOCK_SIZE`."""
        return weight + (rounded(weight.detach()) - weight.detach())


def rounded(weight: Tensor) -> Tensor:
    """The weight after a way to bfloat16, to NF4 and back."""
    blocks = weight.bfloat16().float().view(-1, BLOCK_SIZE)
    scale = blocks.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return (CODE[torch.bucketize(blocks / scale, MIDPOINTS)] * scale).view_as(weight)


def start(model: nn.Module) -> None:
    """From now on the linear layers of the decoder compute with rounded weights; the head stays as it is."""
    for layer in _linears(model):
        parametrize.register_parametrization(layer, "weight", StraightThroughNF4())


def stop(model: nn.Module) -> None:
    """Gives the linear layers their own weights back."""
    for layer in _linears(model):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def _linears(model: nn.Module) -> list[nn.Linear]:
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("lm_head")
    ]
