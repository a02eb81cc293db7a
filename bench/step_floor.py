"""The floor of a decode step: every linear layer's product one after the other, and the head, with nothing around them.

The products run in the order of the layers over all of the model's weights, so that no matrix is in the cache when its
turn comes. Attention, norms and sampling are not in the floor.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.kernel import Matrix, Product, four_bit_layers, fuse, matrices
from bench.timing import Work, in_turn, medians, seconds
from worker.loading.cpu import cpu_has_4bit_kernel

NO_KERNEL = (
    "bitsandbytes has no 4-bit kernel for this CPU (it takes AVX512-BF16) and dequantizes on every call: the floor is "
    "that of matrices that are resident in 16 bit"
)


@dataclass(frozen=True)
class StepFloor:
    """What a decode step of one model cannot do without."""

    separate: list[Matrix]
    """The 4-bit matrices as the model has them; none where the CPU has no kernel for them."""
    fused: list[Matrix]
    """The same with those that read one input as one."""
    resident: list[Tensor]
    """Matrices of the same shapes as the separate ones in the head's type, [outputs, inputs]."""
    head: Tensor
    """[vocabulary, width]"""

    @classmethod
    def of(cls, model: Any) -> "StepFloor":  # noqa: ANN401 - transformers models share no useful static type
        """Takes the weights of a transformers model that is quantized to 4 bit.

        The resident matrices hold random numbers: only their times are of interest.
        """
        head = model.get_output_embeddings().weight.data
        shapes = [(layer.out_features, layer.in_features) for _, layer in four_bit_layers(model)]
        resident = [torch.randn(shape).to(head.dtype) for shape in shapes]
        separate = matrices(model) if cpu_has_4bit_kernel() else []
        return cls(separate, fuse(separate), resident, head)

    @property
    def has_kernel(self) -> bool:
        return bool(self.separate)

    def kernel_products(self, rows: int, *, fused: bool) -> list[Product]:
        """Returns the kernel's products with `rows` rows."""
        return [
            matrix.product(torch.randn(rows, matrix.inputs).bfloat16())
            for matrix in (self.fused if fused else self.separate)
        ]

    def resident_products(self, rows: int) -> list[Product]:
        """Returns the products of the 16-bit matrices."""
        return [_plain_product("resident", matrix, rows) for matrix in self.resident]

    def head_product(self, rows: int) -> Product:
        """Returns the head's product."""
        return _plain_product("head", self.head, rows)

    def linear_products(self, rows: int) -> list[Product]:
        """Returns the products of all linear layers by the best way to run a decode step: fused, where there is one."""
        return self.kernel_products(rows, fused=True) if self.has_kernel else self.resident_products(rows)

    def step(self, rows: int) -> Work:
        """Returns the arithmetic of one step with `rows` rows, ready to run."""
        return run_all([*self.linear_products(rows), self.head_product(rows)])

    def step_ms(self, row_counts: Iterable[int], repeats: int) -> dict[int, float]:
        """Returns a step's floor in milliseconds for each number of rows."""
        counts = list(row_counts)
        taken = medians([self.step(rows) for rows in counts], repeats)
        return {rows: 1000 * time for rows, time in zip(counts, taken, strict=True)}

    def prefill_rates(self, rows: int, repeats: int) -> dict[str, float]:
        """Returns tokens per second of all linear layers with `rows` tokens at once, by each way to run them."""
        ways = {"resident": self.resident_products(rows)}
        if self.has_kernel:
            ways["4-bit kernel"] = self.kernel_products(rows, fused=True)
        taken = medians([run_all(products) for products in ways.values()], repeats)
        return {way: rows / time for way, time in zip(ways, taken, strict=True)}


def _plain_product(name: str, matrix: Tensor, rows: int) -> Product:
    given = torch.randn(rows, matrix.shape[1]).to(matrix.dtype)
    out = torch.empty(rows, len(matrix), dtype=matrix.dtype)
    return Product(f"{name} {len(matrix)}x{matrix.shape[1]}", partial(torch.mm, given, matrix.T, out=out), out)


def run_all(products: Iterable[Product]) -> Work:
    """Returns what runs products one after the other."""
    return in_turn(product.run for product in products)


def call_microseconds(products: Iterable[Product], repeats: int) -> Mapping[str, float]:
    """Returns the median time of one product of each shape, while all run in their order."""
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        for product in products:
            taken[product.shape].append(seconds(product.run))
    return {shape: 1e6 * statistics.median(times) for shape, times in taken.items()}
