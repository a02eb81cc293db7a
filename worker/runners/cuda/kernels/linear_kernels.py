"""A Triton kernel that multiplies few rows with a 4-bit matrix without writing the dequantized matrix anywhere.

bitsandbytes dequantizes the whole matrix on each call from 8 rows on where it has few outputs (4,096 on a Hopper card).
Each weight is computed as there, code times scale in float32, rounded to the input's type; sums are in float32.
"""
# ruff: noqa: ANN001, ANN201, N803, N806, PLR0917 - Triton's kernels are written in its own language
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator, misc"
# pyright: basic, reportMissingImports=false

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows"])
def multiply_part(
    given, packed, absmax, code, coarse_absmax, scale_code, offsets, out, rows, row_stride,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
    BLOCKSIZE: tl.constexpr, PARTS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
    PRECISION: tl.constexpr, NESTED: tl.constexpr,
):  # fmt: skip
    """Computes a block of outputs from one part of the inputs; grid (blocks of outputs, PARTS).

    A step of the loop takes one block of inputs, with one scale for each output. Codes of even and of odd inputs are in
    the two halves of a byte: they are multiplied separately, so that they need not be brought into order.
    """
    BYTES: tl.constexpr = BLOCKSIZE // 2
    STEPS: tl.constexpr = INPUTS // BLOCKSIZE
    SHARE: tl.constexpr = (STEPS + PARTS - 1) // PARTS
    output = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    part = tl.program_id(1)
    row, byte = tl.arange(0, BLOCK_ROWS), tl.arange(0, BYTES)
    is_output, is_row = output < OUTPUTS, row < rows
    bytes_at = packed + output.to(tl.int64)[None, :] * (INPUTS // 2) + byte[:, None]
    first_scale = output.to(tl.int64) * STEPS
    if NESTED:
        offset = tl.load(offsets + output, mask=is_output, other=0.0)
    given_at = given + row[:, None] * row_stride + 2 * byte[None, :]
    last = tl.minimum((part + 1) * SHARE, STEPS)
    pairs = tl.load(bytes_at + tl.minimum(part * SHARE, STEPS - 1) * BYTES, mask=is_output[None, :], other=0)
    total = tl.zeros([BLOCK_ROWS, BLOCK_OUTPUTS], tl.float32)
    for step in range(part * SHARE, last):
        # The next bytes are on their way while these are multiplied.
        following = tl.minimum(step + 1, last - 1)
        coming = tl.load(bytes_at + following * BYTES, mask=is_output[None, :], other=0)
        scale = tl.load(absmax + first_scale + step, mask=is_output, other=0)
        if NESTED:
            coarse = tl.load(coarse_absmax + (first_scale + step) // 256, mask=is_output, other=0.0)
            scale = tl.load(scale_code + scale.to(tl.int32)) * coarse + offset
        scale = scale[None, :]
        even = tl.load(given_at + step * BLOCKSIZE, mask=is_row[:, None], other=0.0)
        odd = tl.load(given_at + step * BLOCKSIZE + 1, mask=is_row[:, None], other=0.0)
        index = pairs.to(tl.int32)
        upper = (tl.load(code + (index >> 4)) * scale).to(even.dtype)
        lower = (tl.load(code + (index & 15)) * scale).to(even.dtype)
        total = tl.dot(even, upper, total, input_precision=PRECISION)
        total = tl.dot(odd, lower, total, input_precision=PRECISION)
        pairs = coming
    target = out + (part * rows + row.to(tl.int64))[:, None] * OUTPUTS + output[None, :]
    tl.store(target, total, mask=is_row[:, None] & is_output[None, :])


@triton.jit(do_not_specialize=["rows"])
def add_parts(
    parts, bias, out, rows, OUTPUTS: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Adds up a row's parts and the bias; grid (rows, blocks of outputs)."""
    row = tl.program_id(0).to(tl.int64)
    output = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = output < OUTPUTS
    total = tl.zeros([BLOCK], tl.float32)
    for part in range(PARTS):
        total += tl.load(parts + (part * rows + row) * OUTPUTS + output, mask=inside, other=0.0)
    if HAS_BIAS:
        total += tl.load(bias + output, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * OUTPUTS + output, total.to(out.dtype.element_ty), mask=inside)
