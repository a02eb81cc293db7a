"""In which order to copy rows in place, so that each becomes another: the parallel move problem of compilers."""

from collections.abc import Iterator, Sequence

SAVED = -1
"""The place aside that holds one row."""


def row_moves(order: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields (target, source) copies after which row i is what row order[i] was. Any order, repeats allowed.

    A row is overwritten when nobody needs it any more. Where rows change places in a circle, one is first copied to
    SAVED, one circle at a time. Rows that stay are not copied.
    """
    pending = {target: source for target, source in enumerate(order) if target != source}
    while pending:
        needed = set(pending.values())
        free = [target for target in pending if target not in needed]
        if not free:
            first = next(iter(pending))
            yield SAVED, first
            pending = {target: SAVED if source == first else source for target, source in pending.items()}
        for target in free:
            yield target, pending.pop(target)
