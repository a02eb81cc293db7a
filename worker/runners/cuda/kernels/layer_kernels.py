"""Triton kernels of what lies between a layer's matrix products: norms, rotation, activation.

In transformers these are some forty kernels for each layer; captured, each still takes a microsecond or two.
"""
# ruff: noqa: ANN001, ANN201, N803, PLR0917 - Triton's kernels are written in its own language
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator, misc"
# pyright: basic, reportMissingImports=false

import triton
import triton.language as tl


@triton.jit
def rms_norm(
    given, residual, weight, total, out, epsilon, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ADDS: tl.constexpr,
):  # fmt: skip
    """Normalizes a row, after adding the residual if ADDS; grid (rows,)."""
    row = tl.program_id(0).to(tl.int64) * WIDTH
    place = tl.arange(0, BLOCK)
    inside = place < WIDTH
    narrow = tl.load(given + row + place, mask=inside, other=0.0)
    if ADDS:
        other = tl.load(residual + row + place, mask=inside, other=0.0).to(tl.float32)
        narrow = (narrow.to(tl.float32) + other).to(narrow.dtype)
        tl.store(total + row + place, narrow, mask=inside)
    wide = narrow.to(tl.float32)
    normed = (wide * tl.rsqrt(tl.sum(wide * wide, 0) / WIDTH + epsilon)).to(narrow.dtype).to(tl.float32)
    scaled = normed * tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row + place, scaled.to(out.dtype.element_ty), mask=inside)


@triton.jit
def rotate_and_write(
    projected, cos, sin, query_norm, key_norm, query, keys, values, lengths, end_at, columns_at, epsilon,
    QUERIES: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr, NORMS: tl.constexpr,
):  # fmt: skip
    """Takes one head of one row: a query, a key or a value, in this order; grid (rows, QUERIES + 2 * HEADS)."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    dim = tl.arange(0, BLOCK)
    inside = dim < DIM
    given = projected + (row * (QUERIES + 2 * HEADS) + head) * DIM
    vector = tl.load(given + dim, mask=inside, other=0.0)
    if head < QUERIES + HEADS:
        half = DIM // 2
        other_dim = tl.where(dim < half, dim + half, dim - half)
        other = tl.load(given + other_dim, mask=inside, other=0.0)
        if NORMS:
            wide = vector.to(tl.float32)
            factor = tl.rsqrt(tl.sum(wide * wide, 0) / DIM + epsilon)
            norm = query_norm if head < QUERIES else key_norm
            scale = tl.load(norm + dim, mask=inside, other=0.0).to(tl.float32)
            other_scale = tl.load(norm + other_dim, mask=inside, other=0.0).to(tl.float32)
            vector = ((wide * factor).to(vector.dtype).to(tl.float32) * scale).to(vector.dtype)
            other = ((other.to(tl.float32) * factor).to(vector.dtype).to(tl.float32) * other_scale).to(vector.dtype)
        turned = tl.where(dim < half, -other.to(tl.float32), other.to(tl.float32))
        along = vector.to(tl.float32) * tl.load(cos + row * DIM + dim, mask=inside, other=0.0).to(tl.float32)
        across = turned * tl.load(sin + row * DIM + dim, mask=inside, other=0.0).to(tl.float32)
        vector = (along + across).to(vector.dtype)
    if head < QUERIES:
        tl.store(query + (row * QUERIES + head) * DIM + dim, vector, mask=inside)
    elif tl.load(lengths + row) >= 0:
        head_of_pool = (head - QUERIES) % HEADS
        place = (row * HEADS + head_of_pool) * tl.load(columns_at) + tl.load(end_at)
        memory = keys if head < QUERIES + HEADS else values
        tl.store(memory + place * DIM + dim, vector, mask=inside)


@triton.jit
def silu_multiply(projected, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Multiplies a block of a row; grid (rows, blocks)."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < WIDTH
    gate = tl.load(projected + 2 * row * WIDTH + place, mask=inside, other=0.0)
    up = tl.load(projected + (2 * row + 1) * WIDTH + place, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    activated = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype).to(tl.float32)
    tl.store(out + row * WIDTH + place, (activated * up.to(tl.float32)).to(gate.dtype), mask=inside)
