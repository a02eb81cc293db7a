"""Who comes first where not all can: in the queue for rows, and in memory that runs short. Pure."""

from ..domain.sequence import Root, Sequence

_HEAD_START_S = 10.0
"""What one more in priority is worth in the queue: whoever came so much earlier is not passed, so nobody starves."""


def turn(root: Root) -> float:
    """Orders roots that wait: by arrival, those of a higher priority as if they had come earlier, in seconds."""
    first = root.sequences[0]
    return first.arrived_at - _HEAD_START_S * first.priority


def precedence(row: Sequence) -> tuple[int, float]:
    """Orders rows by who gives way last: those of a higher priority, then older ones."""
    return (-row.priority, row.arrived_at)
