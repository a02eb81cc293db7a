"""What waits, and in which order: priority classes, in each the tenants' turns, of each its most urgent one. Pure.

`RequestQueue` is the gateway's queue of generations for its workers. What it is made of, `PriorityClass` and `Ageing`,
orders the work that waits for a thread in the same way.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ..domain.tenancy import Priority, TenantPolicy
from .fair_share import TokenCounters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..domain.generation import Generation
    from ..domain.tenancy import Caller

AGED_S = 10.0
"""How long the oldest of a class waits before the class gets turns, in seconds."""

TURN = 8
"""Of so many generations that are sent, one is from a class that has aged."""

Rank = tuple[float, float]
_EQUALS = TenantPolicy()


class Waiting(Protocol):
    """Something of a caller that waits for its turn: a generation for a worker, or work for a thread."""

    @property
    def caller(self) -> Caller:
        """Whose it is."""
        ...

    @property
    def number(self) -> int:
        """Another one for each: smaller for the older."""
        ...

    @property
    def arrived_at(self) -> float:
        """When it arrived, in seconds of the gateway's clock."""
        ...

    @property
    def due(self) -> float:
        """What its urgency is judged by, in seconds of the gateway's clock."""
        ...

    @property
    def attempts(self) -> int:
        """How often it has been begun."""
        ...


W = TypeVar("W", bound=Waiting)


class SortedQueue(Generic[W]):
    """What waits, by rank: any of it can leave, found in O(log n) comparisons.

    Args:
        rank: The lowest is first. It is another for each, and does not change while it waits.
    """

    def __init__(self, rank: Callable[[W], Rank]) -> None:
        self._rank = rank
        self._waiting: list[W] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[W]:
        return iter(self._waiting)

    @property
    def first(self) -> W | None:
        return self._waiting[0] if self._waiting else None

    def add(self, one: W) -> None:
        """Lets it stand where its rank says."""
        insort(self._waiting, one, key=self._rank)

    def remove(self, one: W) -> bool:
        """Takes it out, wherever it stands. False if it was not there."""
        waiting = self._waiting
        index = bisect_left(waiting, self._rank(one), key=self._rank) if waiting else 0
        if index == len(waiting) or waiting[index] is not one:
            return False
        del waiting[index]
        return True

    def count_before(self, rank: Rank) -> int:
        """How many stand before such a rank."""
        return bisect_left(self._waiting, rank, key=self._rank)


def age(one: Waiting) -> Rank:
    """Orders by arrival."""
    return 0.0, one.number


def urgency(one: Waiting) -> Rank:
    """Orders by deadline, then by arrival."""
    return one.due, one.number


class PriorityClass(Generic[W]):
    """First what has been begun before, oldest first; then the tenants' turns, each with its most urgent one.

    Args:
        policy: The weights of the tenants.
    """

    def __init__(self, policy: TenantPolicy) -> None:
        self._by_age: SortedQueue[W] = SortedQueue(age)
        """All of it."""
        self._returned: SortedQueue[W] = SortedQueue(age)
        self._new: dict[str, SortedQueue[W]] = {}
        """What has never been begun, by tenant; none of them is empty."""
        self._counters = TokenCounters(policy.weight)
        self._policy = policy

    def __len__(self) -> int:
        return len(self._by_age)

    def __iter__(self) -> Iterator[W]:
        return iter(self._by_age)

    @property
    def oldest(self) -> W | None:
        """The one that arrived first."""
        return self._by_age.first

    @property
    def head(self) -> W | None:
        """The next one."""
        if (returned := self._returned.first) is not None:
            return returned
        tenant = self._counters.least() if self._new else None
        return None if tenant is None else self._new[tenant].first

    def counter(self, tenant: str) -> float:
        """What a tenant has been served from here, in tokens by its weight."""
        return self._counters.counter(tenant)

    def add(self, one: W) -> None:
        """Lets it stand where it belongs."""
        self._by_age.add(one)
        if one.attempts:
            self._returned.add(one)
            return
        tenant = one.caller.tenant
        if tenant not in self._new:
            self._new[tenant] = SortedQueue(urgency)
            self._counters.activate(tenant)
        self._new[tenant].add(one)

    def remove(self, one: W) -> bool:
        """Takes it out. False if it was not here."""
        if not self._by_age.remove(one):
            return False
        if self._returned.remove(one):
            return True
        tenant = one.caller.tenant
        new = self._new[tenant]
        new.remove(one)
        if not len(new):
            del self._new[tenant]
            self._counters.deactivate(tenant)
        return True

    def charge(self, tenant: str, token_count: int) -> None:
        """A tenant was served tokens of what it had here."""
        self._counters.charge(tenant, token_count)

    def share_before(self, tenant: str, due: float) -> float:
        """Which share of what a tenant has here is more urgent than `due`, from 0 to 1."""
        new = self._new.get(tenant)
        return new.count_before((due, inf)) / len(new) if new else 1.0

    def rivals(self, tenant: str) -> float:
        """The weights of the others that have something waiting here, relative to the tenant's own."""
        own = self._policy.weight(tenant)
        return (self._counters.active_weight - (own if tenant in self._new else 0.0)) / own


class Ageing(Generic[W]):
    """Counts what goes past a class whose oldest has waited for long: each `TURN`-th one is then from there.

    So nothing starves, and a large backlog of a lower class takes but a small share of what a better one needs.

    Args:
        classes: All of them, best first.
    """

    def __init__(self, classes: Sequence[PriorityClass[W]]) -> None:
        self._classes = classes
        self._passed = 0

    def turn(self, now: float) -> PriorityClass[W] | None:
        """The class whose turn it is; None for the best one with anything in it."""
        if self._passed < TURN - 1:
            return None
        best = next((index for index, each in enumerate(self._classes) if len(each)), len(self._classes))
        return min(self._aged_behind(best, now), key=_arrival, default=None)

    def sent(self, index: int, now: float, *, by_turn: bool) -> None:
        """One leaves the class at `index` for a worker, because it was its turn or because nothing better waits."""
        if by_turn or not self._aged_behind(index, now):
            self._passed = 0
        else:
            self._passed = min(self._passed + 1, TURN - 1)

    def _aged_behind(self, index: int, now: float) -> list[PriorityClass[W]]:
        behind = self._classes[index + 1 :]
        return [each for each in behind if (oldest := each.oldest) and now - oldest.arrived_at >= AGED_S]


def _arrival(one: PriorityClass[W]) -> float:
    return one.oldest.number if one.oldest else 0


@dataclass(frozen=True, slots=True)
class QueuedWork:
    """Work that waits: generations, the tokens of their prompts, and the rows of workers that they will take.

    Output that is gone on behind is read like a prompt, and counts as one.
    """

    generation_count: int = 0
    prompt_tokens: int = 0
    row_count: int = 0

    @classmethod
    def of(cls, generation: Generation) -> QueuedWork:
        """One generation's."""
        return cls(1, len(generation.prompt_ids) + generation.output_token_count, generation.row_count)

    def __add__(self, other: QueuedWork) -> QueuedWork:
        return QueuedWork(
            self.generation_count + other.generation_count,
            self.prompt_tokens + other.prompt_tokens,
            self.row_count + other.row_count,
        )

    def __sub__(self, other: QueuedWork) -> QueuedWork:
        return QueuedWork(
            self.generation_count - other.generation_count,
            self.prompt_tokens - other.prompt_tokens,
            self.row_count - other.row_count,
        )

    def part(self, share: float) -> QueuedWork:
        """A share of it, from 0 to 1, rounded down."""
        return QueuedWork(
            int(share * self.generation_count), int(share * self.prompt_tokens), int(share * self.row_count)
        )


NOTHING = QueuedWork()


class RequestQueue:
    """Generations that wait for a worker with room; any of them can leave.

    In each class what was on a worker before is at the head, and the turns of the tenants are behind. The head can be
    set aside to wait for much room: it stays in the queue, and the one behind it is the head then.

    Args:
        policy: The weights of the tenants.
    """

    def __init__(self, policy: TenantPolicy = _EQUALS) -> None:
        self.work = NOTHING
        """All that waits."""
        self.aside: Generation | None = None
        """The one that was set aside."""
        self._aside_by_turn = False
        self._classes: list[PriorityClass[Generation]] = [PriorityClass(policy) for _ in Priority]
        self._ageing = Ageing(self._classes)
        self._deadlines: SortedQueue[Generation] = SortedQueue(_deadline)
        """Those that have one."""
        self._counted: dict[Generation, QueuedWork] = {}
        """All of them, each as it was when it began to wait."""
        self._work_of_classes = [NOTHING for _ in Priority]
        self._work_of_tenants: list[dict[str, QueuedWork]] = [{} for _ in Priority]
        """By class and tenant: what there is of those that have anything."""

    def __len__(self) -> int:
        return len(self._counted)

    def __iter__(self) -> Iterator[Generation]:
        aside = [] if self.aside is None else [self.aside]
        return chain(aside, *self._classes)

    def work_of(self, tenant: str) -> QueuedWork:
        """What waits of one tenant."""
        if not self._counted:
            return NOTHING
        return sum((by_tenant[tenant] for by_tenant in self._work_of_tenants if tenant in by_tenant), NOTHING)

    def work_before(self, caller: Caller, due: float | None = None) -> QueuedWork:
        """What stands before a new generation, as an estimate on the low side.

        That is all of better classes, what its tenant has in its own class, and what the others' turns bring meanwhile.

        Args:
            caller: Whose generation it is.
            due: Its `Generation.due`, before which its tenant may have less; if not given, all that its tenant has.
        """
        if not self._counted:
            return NOTHING
        own_class = self._classes[caller.priority]
        better = sum(self._work_of_classes[: caller.priority], NOTHING)
        own = self._work_of_tenants[caller.priority].get(caller.tenant, NOTHING)
        rest = self._work_of_classes[caller.priority] - own
        before = own if due is None else own.part(own_class.share_before(caller.tenant, due))
        turns = before.prompt_tokens * own_class.rivals(caller.tenant)
        return better + before + rest.part(min(1.0, turns / max(1, rest.prompt_tokens)))

    def append(self, generation: Generation) -> None:
        """Lets a new one wait."""
        caller, one = generation.caller, QueuedWork.of(generation)
        by_tenant = self._work_of_tenants[caller.priority]
        self._counted[generation] = one
        self.work += one
        self._work_of_classes[caller.priority] += one
        by_tenant[caller.tenant] = by_tenant[caller.tenant] + one if caller.tenant in by_tenant else one
        self._classes[caller.priority].add(generation)
        if generation.deadline_at is not None:
            self._deadlines.add(generation)

    def restore(self, generation: Generation) -> None:
        """Puts back what a worker gave back or lost, before all new ones of its class.

        What is aside goes back to its place in the order.
        """
        self.append(generation)
        self._put_back()

    def remove(self, generation: Generation) -> bool:
        """Takes it out, wherever it is. False if it was not waiting."""
        one = self._counted.pop(generation, None)
        if one is None:
            return False
        caller = generation.caller
        by_tenant = self._work_of_tenants[caller.priority]
        self.work -= one
        self._work_of_classes[caller.priority] -= one
        left = by_tenant.pop(caller.tenant) - one
        if left.generation_count:
            by_tenant[caller.tenant] = left
        if generation.deadline_at is not None:
            self._deadlines.remove(generation)
        if generation is self.aside:
            self.aside = None
            self._aside_by_turn = False
        else:
            self._classes[caller.priority].remove(generation)
        return True

    def expire(self, now: float) -> list[Generation]:
        """Takes out those whose deadline has passed."""
        expired: list[Generation] = []
        while (first := self._deadlines.first) and first.deadline_at is not None and first.deadline_at <= now:
            self.remove(first)
            expired.append(first)
        return expired

    def head(self, now: float) -> Generation | None:
        """The next one, left where it is."""
        turn = self._turn(now)
        return self.best if turn is None else turn.head

    @property
    def best(self) -> Generation | None:
        """The next one, were it not for the turns of those that have aged."""
        for each in self._classes:
            if (head := each.head) is not None:
                return head
        return None

    def set_aside(self, head: Generation, now: float) -> None:
        """Sets the head aside, while no other one is."""
        own_class = self._classes[head.caller.priority]
        self._aside_by_turn = self._turn(now) is own_class
        own_class.remove(head)
        self.aside = head

    def reconsider_aside(self) -> None:
        """Puts back what is aside if one of a better class waits, unless it was its turn."""
        if self.aside and (best := self.best) and best.caller.priority < self.aside.caller.priority:
            self._put_back()

    def send(self, generation: Generation, now: float) -> None:
        """Takes out one that goes to a worker: the head, the best one, or the one aside.

        Its tenant is charged for its prompt, and for output that its caller holds, but only once: a worker that goes on
        with it must read that again, for which the tenant can do nothing.
        """
        caller = generation.caller
        own_class = self._classes[caller.priority]
        by_turn = self._aside_by_turn if generation is self.aside else self._turn(now) is own_class
        generation.is_protected = by_turn
        self._ageing.sent(caller.priority, now, by_turn=by_turn)
        self.remove(generation)
        if not generation.attempts:
            own_class.charge(caller.tenant, len(generation.prompt_ids) + generation.output_token_count)

    def charge(self, caller: Caller, token_count: int) -> None:
        """A caller was served so many tokens."""
        self._classes[caller.priority].charge(caller.tenant, token_count)

    def counter(self, caller: Caller) -> float:
        """What a caller's tenant has been served in the class, in tokens by its weight."""
        return self._classes[caller.priority].counter(caller.tenant)

    def _put_back(self) -> None:
        if self.aside is not None and not self._aside_by_turn:
            self._classes[self.aside.caller.priority].add(self.aside)
            self.aside = None

    def _turn(self, now: float) -> PriorityClass[Generation] | None:
        # A turn lasts until what it is for has left.
        return None if self._aside_by_turn else self._ageing.turn(now)


def _deadline(generation: Generation) -> Rank:
    return inf if generation.deadline_at is None else generation.deadline_at, generation.number
