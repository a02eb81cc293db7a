"""How much may wait, in all and of one tenant. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..domain.errors import ServiceError, queue_full, tenant_quota

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backlog import Backlog


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Most generations, and most tokens of their prompts, that may wait for a worker; each at least 1.

    Where nothing waits, a prompt is taken whatever its length: else it would be refused for ever.
    """

    max_queued: int
    max_queued_tokens: int
    max_tenant_queued: int
    max_tenant_queued_tokens: int

    def check(
        self,
        tenant: str,
        *,
        load: Backlog,
        tenant_load: Backlog,
        prompt_tokens: int,
        retry_after_s: Callable[[Backlog], float],
    ) -> None:
        """Raises what a new generation of a tenant is refused with.

        Args:
            tenant: Whose it is.
            load: All that waits.
            tenant_load: What waits of the tenant.
            prompt_tokens: The length of its prompt; 0 before it is known.
            retry_after_s: When to come again behind a backlog, in seconds.

        Raises:
            ServiceError: QUEUE_FULL or TENANT_QUOTA.
        """

        def tenant_error(limit: int, unit: str) -> ServiceError:
            return tenant_quota(tenant, limit, retry_after_s(tenant_load), unit=unit)

        def queue_error(limit: int, unit: str) -> ServiceError:
            return queue_full(limit, retry_after_s(load), unit=unit)

        _check(load, prompt_tokens, self.max_queued, self.max_queued_tokens, queue_error)
        _check(tenant_load, prompt_tokens, self.max_tenant_queued, self.max_tenant_queued_tokens, tenant_error)


def _check(
    load: Backlog, prompt_tokens: int, limit: int, token_limit: int, error: Callable[[int, str], ServiceError]
) -> None:
    if load.generation_count >= limit:
        raise error(limit, "requests")
    if load.generation_count and load.prompt_tokens + prompt_tokens > token_limit:
        raise error(token_limit, "prompt tokens")
