"""The central queue: generations that wait for a worker with room. Pure; any of them can leave."""

from __future__ import annotations

from itertools import chain
from math import inf
from typing import TYPE_CHECKING

from ..domain.tenancy import Caller, Priority, TenantPolicy
from .ageing import Ageing
from .backlog import NOTHING, Backlog, Tally
from .lane import Lane
from .line import Line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..domain.generation import Generation

_EQUALS = TenantPolicy()


class Queue:
    """Priority classes, each with what was on a worker before at its head, and turns of the tenants behind.

    The head can be set aside to wait for much room: it stays in the queue, and the one behind it is the head then.

    Args:
        policy: The weights of the tenants.
    """

    def __init__(self, policy: TenantPolicy = _EQUALS) -> None:
        self._lanes: list[Lane[Generation]] = [Lane(policy) for _ in Priority]
        self._ageing = Ageing(self._lanes)
        self._aside: Generation | None = None
        self._aside_by_turn = False
        self._tally = Tally()
        self._deadlines: Line[Generation] = Line(_deadline)
        """Those that have one."""

    def __len__(self) -> int:
        return len(self._tally)

    def __iter__(self) -> Iterator[Generation]:
        aside = [] if self._aside is None else [self._aside]
        return chain(aside, *self._lanes)

    @property
    def load(self) -> Backlog:
        """All that waits."""
        return self._tally.total

    @property
    def aside(self) -> Generation | None:
        """The one that was set aside."""
        return self._aside

    def tenant_load(self, tenant: str) -> Backlog:
        """What waits of one tenant."""
        return self._tally.of_tenant(tenant)

    def backlog(self, caller: Caller, due: float | None = None) -> Backlog:
        """What stands before a new generation, as an estimate on the low side.

        That is all of better classes, what its tenant has in its own class, and what the others' turns bring meanwhile.

        Args:
            caller: Whose generation it is.
            due: Its `Generation.due`, before which its tenant may have less; if not given, all that its tenant has.
        """
        if not len(self):
            return NOTHING
        lane = self._lanes[caller.priority]
        better = sum((self._tally.of_priority(each) for each in Priority if each < caller.priority), NOTHING)
        own = self._tally.of_caller(caller)
        rest = self._tally.of_priority(caller.priority) - own
        before = own if due is None else own.part(lane.share_before(caller.tenant, due))
        turns = before.prompt_tokens * lane.rivals(caller.tenant)
        return better + before + rest.part(min(1.0, turns / max(1, rest.prompt_tokens)))

    def append(self, generation: Generation) -> None:
        """Lets a new one wait."""
        self._add(generation)

    def restore(self, generation: Generation) -> None:
        """Puts back what a worker gave back or lost, before all new ones of its class.

        What is aside goes back to its place in the order.
        """
        self._add(generation)
        self._put_back()

    def head(self, now: float) -> Generation | None:
        """The next one, left where it is."""
        due = self._due(now)
        return self.best if due is None else due.head

    @property
    def best(self) -> Generation | None:
        """The next one, were it not for the turns of those that have aged."""
        return next((lane.head for lane in self._lanes if len(lane)), None)

    def set_aside(self, head: Generation, now: float) -> None:
        """Sets the head aside, while no other one is."""
        self._aside_by_turn = self._due(now) is self._lane(head)
        self._lane(head).remove(head)
        self._aside = head

    def reconsider_aside(self) -> None:
        """Puts back what is aside if one of a better class waits, unless it was its turn."""
        best = self.best
        if self._aside and best and best.caller.priority < self._aside.caller.priority:
            self._put_back()

    def send(self, generation: Generation, now: float) -> None:
        """Takes out one that goes to a worker: the head, the best one, or the one aside.

        Its tenant is charged for its prompt, and for output that its caller holds, but only once: a worker that goes on
        with it must read that again, for which the tenant can do nothing.
        """
        by_turn = self._aside_by_turn if generation is self._aside else self._due(now) is self._lane(generation)
        generation.is_protected = by_turn
        self._ageing.sent(generation.caller.priority, now, by_turn=by_turn)
        self.remove(generation)
        if not generation.attempts:
            self.charge(generation.caller, Backlog.of(generation).prompt_tokens)

    def charge(self, caller: Caller, token_count: int) -> None:
        """A caller was served so many tokens."""
        self._lanes[caller.priority].charge(caller.tenant, token_count)

    def counter(self, caller: Caller) -> float:
        """What a caller's tenant has been served in the class, in tokens by its weight."""
        return self._lanes[caller.priority].counter(caller.tenant)

    def remove(self, generation: Generation) -> bool:
        """Takes it out, wherever it is. False if it was not waiting."""
        if not self._tally.remove(generation):
            return False
        if generation.deadline_at is not None:
            self._deadlines.remove(generation)
        if generation is self._aside:
            self._aside = None
            self._aside_by_turn = False
        else:
            self._lane(generation).remove(generation)
        return True

    def expire(self, now: float) -> list[Generation]:
        """Takes out those whose deadline has passed."""
        expired: list[Generation] = []
        while (first := self._deadlines.first) and first.deadline_at is not None and first.deadline_at <= now:
            self.remove(first)
            expired.append(first)
        return expired

    def _add(self, generation: Generation) -> None:
        self._tally.add(generation)
        self._lane(generation).add(generation)
        if generation.deadline_at is not None:
            self._deadlines.add(generation)

    def _put_back(self) -> None:
        if self._aside is not None and not self._aside_by_turn:
            self._lane(self._aside).add(self._aside)
            self._aside = None

    def _due(self, now: float) -> Lane[Generation] | None:
        # A turn lasts until what it is for has left.
        return None if self._aside_by_turn else self._ageing.due(now)

    def _lane(self, generation: Generation) -> Lane[Generation]:
        return self._lanes[generation.caller.priority]


def _deadline(generation: Generation) -> tuple[float, float]:
    return inf if generation.deadline_at is None else generation.deadline_at, generation.number
