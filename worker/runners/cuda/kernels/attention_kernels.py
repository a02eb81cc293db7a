"""Triton kernels of attention for one new token in each row, over rows that are aligned at the end of a window.

Each row's own tokens are divided into parts that are read at the same time, as in flash decoding (Dao et al. 2023), so
neither padding nor another row's length costs anything. All heads that share keys and values are computed from one
read of them. Lengths, end and columns come from device memory.
"""
# ruff: noqa: ANN001, ANN201, N803, PLR0917 - Triton's kernels are written in its own language
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator, misc"
# pyright: basic, reportMissingImports=false

import triton
import triton.language as tl


@triton.jit
def write_column(
    new, memory, lengths, end_at, columns_at, row_stride, head_stride, HEADS: tl.constexpr, DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    """Writes one vector for each row and head; grid (rows, heads)."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    dim = tl.arange(0, BLOCK_DIM)
    if tl.load(lengths + row) >= 0:
        place = (row * HEADS + head) * tl.load(columns_at) + tl.load(end_at)
        vector = tl.load(new + row * row_stride + head * head_stride + dim, mask=dim < DIM)
        tl.store(memory + place * DIM + dim, vector, mask=dim < DIM)


@triton.jit
def load_tile(at, is_row, is_column):
    """Loads what is inside of both, and zeros elsewhere."""
    return tl.load(at, mask=is_row[:, None] & is_column[None, :], other=0.0)


@triton.jit
def attend_part(
    query, keys, values, lengths, end_at, columns_at, sums, tops, totals, scaling, row_stride, head_stride, window,
    HEADS: tl.constexpr, GROUP: tl.constexpr, KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PARTS: tl.constexpr,
    BLOCK_GROUP: tl.constexpr, BLOCK_KEY: tl.constexpr, BLOCK_VALUE: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Attends to one part of a row's tokens for one head of keys; grid (rows, heads of keys, PARTS).

    Stores, for each of the GROUP heads of queries, the weighted sum of values, the largest score and the sum of
    weights, which are relative to it.
    """
    row = tl.program_id(0).to(tl.int64)
    head, part = tl.program_id(1), tl.program_id(2)
    count = tl.load(lengths + row) + 1
    if window > 0:
        count = tl.minimum(count, window)
    share = tl.cdiv(tl.cdiv(count, PARTS), BLOCK) * BLOCK
    low = part * share
    high = tl.minimum(low + share, count)
    first = (row * HEADS + head) * tl.load(columns_at) + tl.load(end_at) + 1 - count

    group, place = tl.arange(0, BLOCK_GROUP), tl.arange(0, BLOCK)
    key_dim, value_dim = tl.arange(0, BLOCK_KEY), tl.arange(0, BLOCK_VALUE)
    head_of_query = head * GROUP + group
    is_head, is_key, is_value = group < GROUP, key_dim < KEY_DIM, value_dim < VALUE_DIM
    asked_at = query + row * row_stride + head_of_query[:, None] * head_stride + key_dim[None, :]
    asked = load_tile(asked_at, is_head, is_key)
    top = tl.full([BLOCK_GROUP], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_GROUP], tl.float32)
    weighted = tl.zeros([BLOCK_GROUP, BLOCK_VALUE], tl.float32)
    for begin in range(low, high, BLOCK):
        inside = begin + place < high
        vector = first + begin + place
        key = load_tile(keys + vector[None, :] * KEY_DIM + key_dim[:, None], is_key, inside)
        scores = tl.dot(asked, key, input_precision=PRECISION) * scaling
        scores = tl.where(inside[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        kept = tl.exp(top - higher)
        value = load_tile(values + vector[:, None] * VALUE_DIM + value_dim[None, :], inside, is_value)
        total = total * kept + tl.sum(weights, 1)
        weighted = weighted * kept[:, None] + tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
        top = higher

    result = (row * HEADS * GROUP + head_of_query) * PARTS + part
    tl.store(tops + result, top, mask=is_head)
    tl.store(totals + result, total, mask=is_head)
    sums_at = sums + result[:, None] * VALUE_DIM + value_dim[None, :]
    tl.store(sums_at, weighted, mask=is_head[:, None] & is_value[None, :])


@triton.jit
def join_parts(
    sums, tops, totals, out, VALUE_DIM: tl.constexpr, PARTS: tl.constexpr, BLOCK_VALUE: tl.constexpr,
):  # fmt: skip
    """Joins the parts of one row and head of queries; grid (rows * heads,). An absent row gets zeros."""
    result = tl.program_id(0).to(tl.int64)
    parts, dim = result * PARTS + tl.arange(0, PARTS), tl.arange(0, BLOCK_VALUE)
    top, total = tl.load(tops + parts), tl.load(totals + parts)
    highest = tl.max(top, 0)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    # Not `> 0`: what is not a number must come through, the engine fails such rows.
    kept = tl.where(total != 0, tl.exp(top - highest), 0.0)
    weighted = tl.load(sums + parts[:, None] * VALUE_DIM + dim[None, :], mask=(dim < VALUE_DIM)[None, :], other=0.0)
    divisor = tl.sum(kept * total, 0)
    joined = tl.sum(kept[:, None] * weighted, 0) / tl.where(divisor == 0, 1.0, divisor)
    tl.store(out + result * VALUE_DIM + dim, joined.to(out.dtype.element_ty), mask=dim < VALUE_DIM)
