"""What 4-bit codes stand for as whole numbers of 8 bits, for products with activations that are rounded to int8."""

import torch
from torch import Tensor

LEVEL_BLOCK = 64
"""Inputs whose activations are rounded together, INT8_BLOCK in int8.h: blocks of weights are made up of them."""

_ZERO = 128
"""LEVEL_ZERO in int8.h."""
_STEPS_IN_ONE = torch.arange(96.0, 127.125, 0.125)


def levels(values: Tensor) -> tuple[Tensor, float]:
    """Returns the whole numbers nearest to 16 values, and the size of a step between them.

    Of the steps that put 1.0 at 96 to 127, that which leaves the smallest errors is taken.

    Args:
        values: float32, from -1 to 1.

    Returns:
        Numbers of steps plus 128, uint8 from 1 to 255; and a step.
    """
    steps_in_one = _STEPS_IN_ONE[:, None]
    errors = ((values * steps_in_one).round() / steps_in_one - values).square().sum(dim=1)
    best = _STEPS_IN_ONE[errors.argmin()]
    return ((values * best).round() + _ZERO).to(torch.uint8), 1.0 / float(best)
