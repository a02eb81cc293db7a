"""Which tenant is served next: the one that has had the fewest tokens for its weight. Pure.

The virtual token counters of 'Fairness in Serving Large Language Models' (Sheng et al., OSDI 2024): whatever each
tenant sends, those that wait for long get tokens in the proportion of their weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


MAX_REMEMBERED = 4096
"""Most tenants that are remembered, unless more are active. New names cost a caller nothing."""


@dataclass(slots=True, eq=False)
class _Tenant:
    name: str
    weight: float
    counter: float
    is_active: bool = False


class TokenCounters:
    """What each tenant has been served, in tokens by weight. Those are active that have something waiting.

    A tenant without any work does not save up: when it is active again, its counter is lifted to the least of the
    active ones; if there are none, to that of the tenant that was active last. This is done by forgetting it once its
    counter is no higher than that: a tenant that is not known begins there.

    Args:
        weight_of: A tenant's share relative to others, above 0.
    """

    def __init__(self, weight_of: Callable[[str], float]) -> None:
        self._weight_of = weight_of
        self._tenants: dict[str, _Tenant] = {}
        # One entry for each tenant, with a counter that it has had: counters only grow, so that an entry which has
        # become too low is put right when it comes up, and nothing is to be done when tokens are counted.
        self._heap: list[tuple[float, int, _Tenant]] = []
        self._entry_numbers = count()
        self._floor = 0.0
        self._last = ""
        self._active_count = 0
        self._active_weight = 0.0

    def __len__(self) -> int:
        """Tenants that are remembered."""
        return len(self._tenants)

    @property
    def active_weight(self) -> float:
        """The weights of the active tenants together."""
        return self._active_weight

    def counter(self, tenant: str) -> float:
        """What it has been served, or would be taken to have been if it came now."""
        floor = self._settle()
        known = self._tenants.get(tenant)
        return floor if known is None else known.counter

    def activate(self, tenant: str) -> None:
        """It has something waiting now."""
        self._settle()
        known = self._known(tenant)
        if known.is_active:
            return
        known.is_active = True
        self._active_count += 1
        self._active_weight += known.weight

    def deactivate(self, tenant: str) -> None:
        """It has nothing waiting any more."""
        known = self._tenants[tenant]
        self._settle()
        known.is_active = False
        self._last = tenant
        self._active_count -= 1
        self._active_weight = self._active_weight - known.weight if self._active_count else 0.0

    def charge(self, tenant: str, token_count: int) -> None:
        """It was served so many tokens, of prompts or of outputs."""
        known = self._known(tenant)
        known.counter += token_count / known.weight

    def least(self) -> str | None:
        """The active tenant that has been served least; None if none is active."""
        self._settle()
        return self._heap[0][2].name if self._active_count else None

    def _known(self, tenant: str) -> _Tenant:
        known = self._tenants.get(tenant)
        if known is None:
            self._bound()
            known = self._tenants[tenant] = _Tenant(tenant, self._weight_of(tenant), self._floor)
            heappush(self._heap, (known.counter, next(self._entry_numbers), known))
        return known

    def _bound(self) -> None:
        """Forgets the idle ones if there are too many, and at least as many as there are active ones."""
        if len(self._tenants) < max(MAX_REMEMBERED, 2 * self._active_count):
            return
        self._tenants = {name: tenant for name, tenant in self._tenants.items() if tenant.is_active}
        self._heap = [entry for entry in self._heap if entry[2].is_active]
        heapify(self._heap)

    def _settle(self) -> float:
        """Brings the least active tenant to the top of the heap, and forgets the idle ones below; returns the floor."""
        if not self._active_count and (last := self._tenants.get(self._last)):
            self._floor = max(self._floor, last.counter)
        while self._heap:
            entered, _, top = self._heap[0]
            if top.counter > entered:
                heapreplace(self._heap, (top.counter, next(self._entry_numbers), top))
            elif top.is_active:
                self._floor = max(self._floor, top.counter)
                break
            elif self._active_count or top.counter <= self._floor:
                heappop(self._heap)
                del self._tenants[top.name]
            else:
                break
        return self._floor
