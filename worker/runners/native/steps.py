"""What 4-bit codes stand for as whole numbers, for products with activations that are rounded to whole numbers, too."""

import torch
from torch import Tensor

ROUNDING_BLOCK = 64
"""Inputs whose activations are rounded together, as in rounding.h."""

_INT16_STEPS_IN_ONE = 2.0**13
"""So that the sum of a block's products, of activations that use what is left, fits 32 bits; see rounding.h."""

_INT8_ZERO = 128
"""STEP_ZERO in int8.h."""
_INT8_STEPS_IN_ONE = torch.arange(96.0, 127.125, 0.125)


def int16_steps(values: Tensor) -> tuple[Tensor, float]:
    """Returns the whole numbers nearest to 16 values, int16, and the size of a step between them.

    Args:
        values: float32, from -1 to 1.
    """
    return (values * _INT16_STEPS_IN_ONE).round().to(torch.int16), 1.0 / _INT16_STEPS_IN_ONE


def int8_steps(values: Tensor) -> tuple[Tensor, float]:
    """Returns the whole numbers nearest to 16 values, and the size of a step between them.

    Of the steps that put 1.0 at 96 to 127, that which leaves the smallest errors is taken.

    Args:
        values: float32, from -1 to 1.

    Returns:
        Numbers of steps plus 128, uint8 from 1 to 255; and a step.
    """
    steps_in_one = _INT8_STEPS_IN_ONE[:, None]
    errors = ((values * steps_in_one).round() / steps_in_one - values).square().sum(dim=1)
    best = _INT8_STEPS_IN_ONE[errors.argmin()]
    return ((values * best).round() + _INT8_ZERO).to(torch.uint8), 1.0 / float(best)
