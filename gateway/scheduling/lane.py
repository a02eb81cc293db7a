"""One priority class of a queue. Pure."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Generic

from .fair_share import TokenCounters
from .line import Line, W, age, urgency

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..domain.tenancy import TenantPolicy


class Lane(Generic[W]):
    """First what has been begun before, oldest first; then the tenants' turns, each with its most urgent one.

    Args:
        policy: The weights of the tenants.
    """

    def __init__(self, policy: TenantPolicy) -> None:
        self._by_age: Line[W] = Line(age)
        """All of it."""
        self._returned: Line[W] = Line(age)
        self._new: dict[str, Line[W]] = {}
        """What has never been begun, by tenant; no line is empty."""
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
        if self._returned.first is not None:
            return self._returned.first
        tenant = self._counters.least()
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
            self._new[tenant] = Line(urgency)
            self._counters.activate(tenant)
        self._new[tenant].add(one)

    def remove(self, one: W) -> bool:
        """Takes it out. False if it was not here."""
        if not self._by_age.remove(one):
            return False
        if not self._returned.remove(one):
            self._leave_tenant(one)
        return True

    def charge(self, tenant: str, token_count: int) -> None:
        """A tenant was served tokens of what it had here."""
        self._counters.charge(tenant, token_count)

    def share_before(self, tenant: str, due: float) -> float:
        """Which share of what a tenant has here is more urgent than `due`, from 0 to 1."""
        line = self._new.get(tenant)
        return line.count_before((due, inf)) / len(line) if line else 1.0

    def rivals(self, tenant: str) -> float:
        """The weights of the others that have something waiting here, relative to the tenant's own."""
        own = self._policy.weight(tenant)
        return (self._counters.active_weight - (own if tenant in self._new else 0.0)) / own

    def _leave_tenant(self, one: W) -> None:
        tenant = one.caller.tenant
        line = self._new[tenant]
        line.remove(one)
        if not line:
            del self._new[tenant]
            self._counters.deactivate(tenant)
