"""Which requests are suspected of ending workers, and when each is tried alone. Pure.

A worker's death says nothing about which of the requests that it ran caused it. One that was there at two deaths is a
suspect: it is run again alone, so that its worker's next death convicts it and harms nobody else.
"""

from __future__ import annotations

from bisect import insort
from enum import Enum
from typing import TYPE_CHECKING

from .queue import NOTHING, QueuedWork, age

if TYPE_CHECKING:
    from ..domain.generation import Generation

DEATHS_OF_A_SUSPECT = 2


class Verdict(Enum):
    """What a lost worker says about a generation that it ran."""

    INNOCENT = "it goes on with the others"
    SUSPECT = "it goes on alone"
    GUILTY = "it ends"


class Quarantine:
    """Suspects, oldest first. One of them runs at a time, on a worker that nothing else is sent to meanwhile.

    Suspects and others take turns: when a suspect has ended, the next one waits until as many of the others have been
    sent as were waiting then. So neither kind starves, even with a single worker.
    """

    def __init__(self) -> None:
        self.waiting: list[Generation] = []
        """The suspects that wait."""
        self._alone: Generation | None = None
        self._owed = 0

    @property
    def is_idle(self) -> bool:
        """Whether no suspect waits or runs, and the others have had their turn."""
        return not self.waiting and self._alone is None and not self._owed

    @property
    def worker(self) -> str | None:
        """The worker that a suspect has to itself; None while none runs."""
        return None if self._alone is None else self._alone.worker

    @property
    def work(self) -> QueuedWork:
        """All that waits here."""
        return sum(map(QueuedWork.of, self.waiting), NOTHING)

    def judge(self, generation: Generation, *, died: bool) -> Verdict:
        """Notes that its worker was lost, by a death or in peace, with this generation unfinished there."""
        generation.deaths += died
        if generation is self._alone:
            if died:
                return Verdict.GUILTY
            self._alone = None
        return Verdict.SUSPECT if generation.deaths >= DEATHS_OF_A_SUSPECT else Verdict.INNOCENT

    def retract_death(self, generation: Generation) -> bool:
        """Takes one death back. True if the generation was waiting here and leaves for that, a suspect no more."""
        generation.deaths -= 1
        return generation.deaths < DEATHS_OF_A_SUSPECT and self.remove(generation)

    def add(self, suspect: Generation) -> None:
        """Lets a suspect wait for its turn."""
        insort(self.waiting, suspect, key=age)

    def remove(self, generation: Generation) -> bool:
        """Takes it out. False if it was not waiting here."""
        if generation not in self.waiting:
            return False
        self.waiting.remove(generation)
        return True

    def expire(self, now: float) -> list[Generation]:
        """Takes out those whose deadline has passed."""
        expired = [one for one in self.waiting if one.deadline_at is not None and one.deadline_at <= now]
        for generation in expired:
            self.waiting.remove(generation)
        return expired

    def next_suspect(self, queued_count: int) -> Generation | None:
        """The suspect whose turn it is, with `queued_count` others waiting."""
        self._owed = min(self._owed, queued_count)
        return self.waiting[0] if self.waiting and self._alone is None and not self._owed else None

    def isolate(self, suspect: Generation) -> None:
        """It is sent now, to a worker with nothing else to do."""
        self.waiting.remove(suspect)
        self._alone = suspect

    def sent_another(self) -> None:
        """A generation that is no suspect was sent."""
        self._owed = max(0, self._owed - 1)

    def settle(self, queued_count: int) -> None:
        """Gives the worker of a suspect that has ended to the others, of which `queued_count` wait: it's their turn."""
        if self._alone is not None and self._alone.finished:
            self._alone = None
            self._owed = queued_count
