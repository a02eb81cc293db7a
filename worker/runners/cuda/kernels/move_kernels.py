"""Triton kernels that move keys and values within memory, of all layers at once.

A buffer is [rows, heads, columns, dimension], so the columns of one row and head are one piece of memory, and what is
moved are pieces of it, as words of up to 8 bytes. Buffers are given as a table of their addresses.
"""
# ruff: noqa: ANN001, ANN201, N803, PLR0917 - Triton's kernels are written in its own language
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator, misc"
# pyright: basic, reportMissingImports=false, reportArgumentType=false

import triton
import triton.language as tl

_PLACES = ["steps", "old_columns", "new_columns", "start", "new_start", "width"]
"""Numbers that change from call to call: a kernel for each would be compiled anew while somebody waits."""


@triton.jit
def address(table, WORD: tl.constexpr):
    """Returns the buffer of this program."""
    return tl.load(table + tl.program_id(0)).to(tl.pointer_type(WORD))


@triton.jit(do_not_specialize=_PLACES)
def move_window(
    table, steps, old_columns, new_columns, start, new_start, width,
    WORDS: tl.constexpr, WORD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Moves columns [start, start + width) of pieces; grid (buffers, pieces / steps).

    One program moves `steps` pieces, the last one first if they get wider, else the first one first; and of a piece
    the end first that the rest does not move over.
    """
    memory = address(table, WORD)
    size = width.to(tl.int64) * WORDS
    blocks = tl.cdiv(size, BLOCK)
    for step in range(steps):
        turn = tl.where(new_columns > old_columns, steps - 1 - step, step)
        piece = (tl.program_id(1) * steps + turn).to(tl.int64)
        source = (piece * old_columns + start) * WORDS
        target = (piece * new_columns + new_start) * WORDS
        for block in range(blocks):
            begin = tl.where(target > source, blocks - 1 - block, block).to(tl.int64) * BLOCK
            place = begin + tl.arange(0, BLOCK)
            inside = place < size
            words = tl.load(memory + source + place, mask=inside, other=0)
            tl.debug_barrier()  # a place that one thread writes may be one that another one still has to read
            tl.store(memory + target + place, words, mask=inside)


@triton.jit(do_not_specialize=["moves", "columns", "start", "width"])
def take_rows(
    table, order, moves, columns, start, width,
    HEADS: tl.constexpr, WORDS: tl.constexpr, WORD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Copies rows to rows, in order; grid (buffers, HEADS, blocks of a piece). Row -1 is a place aside.

    Each thread has the same words of all rows, so that nobody waits for anybody.
    """
    memory = address(table, WORD)
    head = tl.program_id(1)
    place = tl.program_id(2).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < width.to(tl.int64) * WORDS
    aside = tl.zeros([BLOCK], WORD)
    for move in range(moves):
        target, source = tl.load(order + 2 * move), tl.load(order + 2 * move + 1)
        read_at = ((tl.maximum(source, 0) * HEADS + head) * columns + start) * WORDS
        words = tl.load(memory + read_at + place, mask=inside & (source >= 0), other=0)
        words = tl.where(source < 0, aside, words)
        aside = tl.where(target < 0, words, aside)
        written_at = ((tl.maximum(target, 0) * HEADS + head) * columns + start) * WORDS
        tl.store(memory + written_at + place, words, mask=inside & (target >= 0))


@triton.jit(do_not_specialize=["columns", "source_columns", "start", "width", "source_end"])
def copy_rows(
    table, sources, rows, columns, source_columns, start, width, source_end,
    HEADS: tl.constexpr, WORDS: tl.constexpr, WORD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fills columns [start, start + width) of rows with the newest of other buffers' rows, behind zeros.

    Grid (buffers, rows * HEADS, blocks of a piece); `rows` has for each one the row, the source's row and how many
    columns it has.
    """
    memory, source = address(table, WORD), address(sources, WORD)
    entry, head = rows + tl.program_id(1) // HEADS * 3, tl.program_id(1) % HEADS
    row, source_row, length = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
    place = tl.program_id(2).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < width.to(tl.int64) * WORDS
    read_at = ((source_row * HEADS + head) * source_columns + source_end - width) * WORDS
    words = tl.load(source + read_at + place, mask=inside & (place >= (width - length) * WORDS), other=0)
    tl.store(memory + ((row * HEADS + head) * columns + start) * WORDS + place, words, mask=inside)
