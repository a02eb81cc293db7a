"""The configuration of a gateway: built once, by `cli`, and passed on."""

import math
from dataclasses import dataclass

from .bounds import Bounds
from .tenancy import Priority, TenantPolicy

_PRIORITIES = {priority.name.lower(): priority for priority in Priority}


@dataclass(frozen=True, slots=True)
class Tenant:
    """What one tenant is entitled to."""

    name: str
    """Its name in the metadata of calls; "*" stands for all that are not named."""

    weight: float
    """Its share of tokens under contention, relative to others; finite and above 0."""

    best_priority: Priority = Priority.INTERACTIVE
    """The best class that it may ask for."""

    @classmethod
    def parse(cls, text: str) -> "Tenant":
        """Reads NAME=WEIGHT or NAME=WEIGHT:PRIORITY. Raises ValueError if it is neither."""
        name, _, entitlement = text.rpartition("=")
        weight, _, word = entitlement.partition(":")
        priority = _PRIORITIES.get(word) if word else Priority.INTERACTIVE
        if not name or priority is None or not 0 < float(weight) < math.inf:
            raise ValueError(f"{text!r} is not of the form NAME=WEIGHT[:PRIORITY]")
        return cls(name, float(weight), priority)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Each field is a flag (`max_queued` is --max-queued) and an environment variable (TEXTSERVE_MAX_QUEUED)."""

    listen: str = "127.0.0.1:50051"
    """Address to listen on, HOST:PORT or unix:PATH; port 0 takes a free one."""

    model: str = ""
    """Model to serve: a folder, or a name on the hub. The bundled one if not given."""

    workers: int = 1
    """Worker processes to start on this machine."""

    worker: tuple[str, ...] = ()
    """Attach to the worker at HOST:PORT instead of starting any; may be given several times."""

    quantization: str = ""
    """How workers hold the weights: nf4, fp4, int8 or none. Their own default if not given."""

    reflection: bool = False
    """Offer server reflection; not for public addresses."""

    max_queued: int = 1024
    """Requests that may wait for a worker; more are refused with RESOURCE_EXHAUSTED."""

    max_queued_tokens: int = 1024 * 1024
    """Tokens that the prompts of waiting requests may have together; more are refused with RESOURCE_EXHAUSTED."""

    max_wait: float = 3600.0
    """Seconds that requests, but for batch work, may be expected to wait; more are refused with RESOURCE_EXHAUSTED."""

    max_tenant_queued: int = 256
    """Requests of one tenant that may wait, where tenants are told apart."""

    max_tenant_queued_tokens: int = 256 * 1024
    """Tokens that the prompts of one tenant's waiting requests may have together, where tenants are told apart."""

    trust_tenant_metadata: bool = False
    """Tell tenants and priorities by the metadata textserve-tenant and textserve-priority, which anybody can set: for
    gateways that only trusted callers reach."""

    tenant: tuple[Tenant, ...] = ()
    """Share and best priority (interactive, default or batch) of a tenant, * for all not named; may be given several
    times. The share of others is 1."""

    max_message_bytes: int = 4 * 1024 * 1024
    """Bytes that a request may have."""

    max_connection_calls: int = 256
    """Calls that one connection may have open; more wait in its caller's library, or go over another connection."""

    request_timeout: float = 3600.0
    """Seconds that a request may take if its caller sets no shorter deadline."""

    worker_wait: float = 30.0
    """Seconds that requests, begun or not, wait for a worker to come back after the last one was lost."""

    grace: float = 30.0
    """Seconds that running requests have to finish after SIGTERM or Ctrl-C; a second signal ends at once."""

    log_level: str = "info"
    """Least level to log on stderr: debug, info, warning or error."""

    worker_args: tuple[str, ...] = ()
    """Flags for the workers, passed on unchanged: everything behind `--`."""

    @property
    def tenants(self) -> TenantPolicy:
        """What tenants are entitled to."""
        return TenantPolicy(
            trusted=self.trust_tenant_metadata,
            weights={tenant.name: tenant.weight for tenant in self.tenant},
            best_priority={tenant.name: tenant.best_priority for tenant in self.tenant},
        )

    @property
    def bounds(self) -> Bounds:
        """How much may wait. Where tenants are not told apart, all callers are one."""
        is_told = self.trust_tenant_metadata
        return Bounds(
            max_queued=self.max_queued,
            max_queued_tokens=self.max_queued_tokens,
            max_tenant_queued=self.max_tenant_queued if is_told else self.max_queued,
            max_tenant_queued_tokens=self.max_tenant_queued_tokens if is_told else self.max_queued_tokens,
        )
