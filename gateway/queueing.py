"""The central queue: generations that wait for a worker with room. Pure; bounded, and any of them can leave."""

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator

from .errors import queue_full
from .generation import Generation
from .routing import rows_of

RETRY_AFTER_S = 1.0


class Queue:
    """Generations that a worker gave back or lost, oldest first, then the others in the order of their arrival.

    The head can be set aside to wait for much room: it stays in the queue, and the one behind it is the head then.

    Args:
        limit: Most generations that may wait, at least 1.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._aside: Generation | None = None
        self._returned: list[Generation] = []
        self._arrived: OrderedDict[Generation, None] = OrderedDict()
        self._rows: dict[Generation, int] = {}
        """The rows of everything that waits, as they were counted."""
        self._row_count = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Generation]:
        aside = [] if self._aside is None else [self._aside]
        return iter([*aside, *self._returned, *self._arrived])

    @property
    def row_count(self) -> int:
        """Rows of workers that those waiting will take."""
        return self._row_count

    @property
    def aside(self) -> Generation | None:
        """The one that was set aside."""
        return self._aside

    def check_room(self) -> None:
        """Raises QUEUE_FULL if no more may wait."""
        if len(self) >= self._limit:
            raise queue_full(self._limit, RETRY_AFTER_S)

    def append(self, generation: Generation) -> None:
        """Lets it wait behind the others. Raises QUEUE_FULL if no more may wait."""
        self.check_room()
        self._count(generation)
        self._arrived[generation] = None

    def restore(self, generation: Generation) -> None:
        """Puts back what a worker gave back or lost: above the limit, and before all that have never been sent.

        What is aside goes back to its place in the order.
        """
        self._count(generation)
        insort(self._returned, generation, key=age)
        if self._aside is not None:
            insort(self._returned, self._aside, key=age)
            self._aside = None

    def head(self) -> Generation | None:
        """The next one, left where it is."""
        return self._returned[0] if self._returned else next(iter(self._arrived), None)

    def set_aside(self, head: Generation) -> None:
        """Sets the head aside, while no other one is."""
        self._leave_order(head)
        self._aside = head

    def remove(self, generation: Generation) -> bool:
        """Takes it out, wherever it is. False if it was not waiting."""
        rows = self._rows.pop(generation, None)
        if rows is None:
            return False
        self._row_count -= rows
        self._leave_order(generation)
        return True

    def _count(self, generation: Generation) -> None:
        rows = rows_of(generation)
        self._rows[generation] = rows
        self._row_count += rows

    def _leave_order(self, generation: Generation) -> None:
        if generation is self._aside:
            self._aside = None
        elif generation in self._arrived:
            del self._arrived[generation]
        else:
            self._returned.remove(generation)


def age(generation: Generation) -> int:
    """Smaller for the older: sequences are numbered in the order of their arrival."""
    return generation.sequences[0].sequence_id
