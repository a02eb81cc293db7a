"""The Triton product of few rows with a 4-bit matrix. Importing this needs Triton."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels import linear_kernels
from ..kernels.variants import launch
from .matrix import FourBitMatrix

MOST_ROWS = 64
_LEAST_ROWS = 16
"""Rows that Triton's matrix product takes at least."""
_PROGRAMS_PER_PROCESSOR = 4
_MOST_PARTS = 16
_OUTPUTS_ADDED_AT_ONCE = 1024
_WARPS = 8


@dataclass(frozen=True)
class FourBitProduct:
    """Multiplies with a 4-bit matrix, up to MOST_ROWS rows at a time."""

    matrix: FourBitMatrix
    outputs_at_once: int
    """Outputs of one program: 32 or 64. More do not fit into registers (compiled for Hopper)."""
    processors: int
    """Multiprocessors of the device."""

    @property
    def parts(self) -> int:
        """Into how many parts the inputs are divided: few outputs alone leave most of the device idle."""
        blocks = -(-self.matrix.outputs // self.outputs_at_once)
        wanted = -(-_PROGRAMS_PER_PROCESSOR * self.processors // blocks)
        return max(1, min(_MOST_PARTS, wanted, self.matrix.inputs // self.matrix.blocksize))

    def __call__(self, given: Tensor) -> Tensor:
        """Returns [rows, outputs] for [rows, inputs]."""
        matrix, rows, parts = self.matrix, len(given), self.parts
        sums = torch.empty(parts, rows, matrix.outputs, dtype=torch.float32, device=given.device)
        launch(
            linear_kernels.multiply_part,
            (-(-matrix.outputs // self.outputs_at_once), parts),
            given,
            matrix.packed,
            matrix.absmax,
            matrix.code,
            *_nested(matrix),
            sums,
            rows,
            given.stride(0),
            OUTPUTS=matrix.outputs,
            INPUTS=matrix.inputs,
            BLOCKSIZE=matrix.blocksize,
            PARTS=parts,
            BLOCK_ROWS=max(_LEAST_ROWS, 1 << (rows - 1).bit_length()),
            BLOCK_OUTPUTS=self.outputs_at_once,
            PRECISION="ieee" if given.dtype == torch.float32 else "tf32",
            NESTED=matrix.nested is not None,
            num_warps=_WARPS,
            num_stages=1,  # the kernel itself fetches ahead
        )
        out = torch.empty(rows, matrix.outputs, dtype=given.dtype, device=given.device)
        launch(
            linear_kernels.add_parts,
            (rows, -(-matrix.outputs // _OUTPUTS_ADDED_AT_ONCE)),
            sums,
            sums if matrix.bias is None else matrix.bias,
            out,
            rows,
            OUTPUTS=matrix.outputs,
            PARTS=parts,
            BLOCK=_OUTPUTS_ADDED_AT_ONCE,
            HAS_BIAS=matrix.bias is not None,
        )
        return out


def _nested(matrix: FourBitMatrix) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what quantized scales need, or tensors that the kernel does not read."""
    nested = matrix.nested
    code = matrix.code
    return (code, code, code) if nested is None else (nested.absmax, nested.code, nested.offsets)
