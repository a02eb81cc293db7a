"""The central queue: generations that wait for a worker with room. Pure; first come, first served, and bounded."""

from collections import OrderedDict
from collections.abc import Iterator

from .errors import queue_full
from .generation import Generation

RETRY_AFTER_S = 1.0


class Queue:
    """Generations in the order of their arrival; any of them can leave at any time.

    Args:
        limit: Most generations that may wait, at least 1.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: OrderedDict[int, Generation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Generation]:
        return iter(list(self._waiting.values()))

    def check_room(self) -> None:
        """Raises QUEUE_FULL if no more may wait."""
        if len(self._waiting) >= self._limit:
            raise queue_full(self._limit, RETRY_AFTER_S)

    def append(self, generation: Generation) -> None:
        """Lets it wait behind the others. Raises QUEUE_FULL if no more may wait."""
        self.check_room()
        self._waiting[id(generation)] = generation

    def restore(self, generation: Generation) -> None:
        """Puts back, at the head and above the limit, what a worker has not taken."""
        self._waiting[id(generation)] = generation
        self._waiting.move_to_end(id(generation), last=False)

    def head(self) -> Generation | None:
        """The next one, left where it is."""
        return next(iter(self._waiting.values()), None)

    def remove(self, generation: Generation) -> bool:
        """Takes it out, wherever it is. False if it was not waiting."""
        return self._waiting.pop(id(generation), None) is not None
