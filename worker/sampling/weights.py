"""Probabilities whose every bit is defined, whoever computes them: torch on any device, or C on any number of threads.

Powers of e are rounded once to float32, and are added up as whole numbers of a fixed unit: such sums are exact, and so
do not depend on their order. What follows are single operations of IEEE arithmetic. `native/weights.h` is the same in
C.
"""

from functools import cached_property

from torch import Tensor

WEIGHT_UNIT = 2.0**-40
"""Of weights up to 1: a row of 2^22 tokens adds up to less than 2^63 of them."""
PROBABILITY_UNIT = 2.0**-60
"""Of probabilities, which add up to 1."""


class Weights:
    """How likely tokens are, against the likeliest of their row."""

    def __init__(self, scores: Tensor) -> None:
        """Takes float32 scores [rows, tokens], of which masked ones are minus infinity."""
        self.shifted = scores - scores.amax(dim=-1, keepdim=True)
        """[rows, tokens] float32: scores less the largest of the row."""
        # An exponential of float64 is as good as exact where float32 is wanted, on every device.
        self.powers = self.shifted.double().exp_().float()
        """[rows, tokens] float32: e to the power of these, at most 1."""

    @cached_property
    def counts(self) -> Tensor:
        """[rows, tokens] int64: the powers in units of 2^-40."""
        return in_units(self.powers, WEIGHT_UNIT)

    @cached_property
    def total(self) -> Tensor:
        """[rows, 1] float64: what the powers of a row add up to."""
        return self.counts.sum(dim=-1, keepdim=True).double() * WEIGHT_UNIT

    @cached_property
    def probabilities(self) -> Tensor:
        """[rows, tokens] float32."""
        return self.powers / self.total.float()


def in_units(values: Tensor, unit: float) -> Tensor:
    """Returns int64 of the same shape: floating numbers in units of a power of 2, rounded to even."""
    return (values.double() / unit).round_().long()


def as_share(counts: Tensor) -> Tensor:
    """Returns float32 of the same shape: int64 units of probability as a probability."""
    return (counts.double() * PROBABILITY_UNIT).float()
