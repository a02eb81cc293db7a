"""Who calls, and with what priority. Pure.

Until callers are authenticated, both are what their metadata says, and only an operator who knows that something in
front of the gateway sets that metadata lets it count.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from .errors import Violation, invalid_request, quoted

TENANT_KEY = "textserve-tenant"
PRIORITY_KEY = "textserve-priority"
MAX_TENANT_CHARS = 128
OTHERS = "*"
"""Stands for every tenant that a policy does not name."""


class Priority(IntEnum):
    """The classes of the queue: a lower number is served first."""

    INTERACTIVE = 0
    DEFAULT = 1
    BATCH = 2


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose work it is, and how it stands to other work. Callers that name no tenant share the empty one."""

    tenant: str = ""
    priority: Priority = Priority.DEFAULT


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """What tenants are entitled to; `OTHERS` as a key stands for those that are not named."""

    trusted: bool = False
    """Whether the metadata of callers counts. If not, all are one tenant."""

    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    """Shares under contention: a tenant of weight 2 gets twice the tokens of one of weight 1, the default."""

    best_priority: Mapping[str, Priority] = field(default_factory=dict[str, Priority])
    """The best class that a tenant may ask for; any if it has no entry."""

    def __post_init__(self) -> None:
        """Raises ValueError unless every weight is finite and above 0."""
        for tenant, weight in self.weights.items():
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"the weight of tenant {tenant!r} must be finite and above 0, is {weight}")

    def weight(self, tenant: str) -> float:
        """The tenant's share relative to others, above 0."""
        return self.weights.get(tenant, self.weights.get(OTHERS, 1.0))

    def clamp(self, tenant: str, priority: Priority) -> Priority:
        """The class that the tenant gets when it asks for `priority`."""
        best = self.best_priority.get(tenant, self.best_priority.get(OTHERS, Priority.INTERACTIVE))
        return max(priority, best)


def read_caller(metadata: Mapping[str, str], *, policy: TenantPolicy) -> Caller:
    """Who calls, by the metadata of the call if the policy trusts it.

    Raises ServiceError: INVALID_ARGUMENT for a priority that does not exist, or a tenant's name that is too long.
    """
    if not policy.trusted:
        return Caller()
    tenant, word = metadata.get(TENANT_KEY, ""), metadata.get(PRIORITY_KEY, Priority.DEFAULT.name.lower())
    words = {priority.name.lower(): priority for priority in Priority}
    violations: list[Violation] = []
    if len(tenant) > MAX_TENANT_CHARS:
        text = f"must be at most {MAX_TENANT_CHARS} characters, are {len(tenant)}"
        violations.append(Violation(TENANT_KEY, "OUT_OF_RANGE", text))
    if word not in words:
        text = f"must be one of {', '.join(words)}, is {quoted(word)}"
        violations.append(Violation(PRIORITY_KEY, "UNKNOWN_PRIORITY", text))
    if violations:
        raise invalid_request(violations)
    return Caller(tenant, policy.clamp(tenant, words[word]))
