"""The configuration of a gateway: built once, by `cli`, and passed on."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .domain.tenancy import Priority, TenantPolicy
from .scheduling.admission_control import QueueLimits

_PRIORITIES = {priority.name.lower(): priority for priority in Priority}
_HOST_AND_PORT = re.compile(r"(?:\[[^\[\]]+\]|[^:/\[\]\s]+):([0-9]{1,5})")

LONGEST_S = 1e9
"""Seconds, more than 30 years. From about 7e9 on gRPC's clock overflows."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the command line has to know of a field of `Config`, beside its default."""

    help: str
    """What it is for."""

    least: float = -math.inf
    """Of a number: the least that makes sense."""

    most: float = math.inf
    """Of a number: the most."""

    choices: tuple[str, ...] = ()
    """Of a text: all that it may be, if they are few."""

    form: str = ""
    """Of an entry of a list: how it is written."""

    parse: Callable[[str], Any] = str
    """Of a text, or an entry of a list: how it is read. Raises ValueError with what it must be."""


def _setting(default: object, text: str, **more: Any) -> Any:  # noqa: ANN401 - as dataclasses.field
    return field(default=default, metadata={"setting": Setting(text, **more)})


def listen_address(text: str) -> str:
    """An address to listen on. Raises ValueError if gRPC would listen elsewhere: without a port it takes 443."""
    return _address(text, least_port=0)


def worker_address(text: str) -> str:
    """An address to connect to. Raises ValueError if gRPC would connect elsewhere."""
    return _address(text, least_port=1)


def _address(text: str, least_port: int) -> str:
    match = _HOST_AND_PORT.fullmatch(text)
    if text.removeprefix("unix:") not in {text, ""} or (match and least_port <= int(match[1]) <= 65535):
        return text
    raise ValueError(
        f"must be HOST:PORT with a port from {least_port} to 65535 (and brackets around an IPv6 address), or unix:PATH"
    )


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
        """Reads NAME=WEIGHT or NAME=WEIGHT:PRIORITY. Raises ValueError with what it must be if it is neither."""
        name, _, entitlement = text.rpartition("=")
        weight, _, word = entitlement.partition(":")
        priority = _PRIORITIES.get(word) if word else Priority.INTERACTIVE
        if not name or priority is None or not 0 < _float(weight) < math.inf:
            raise ValueError(
                f"must be NAME=WEIGHT[:PRIORITY], with a finite weight above 0 and one of {', '.join(_PRIORITIES)}"
            )
        return cls(name, float(weight), priority)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Each field is a flag (`max_queued` is --max-queued) and an environment variable (TEXTSERVE_MAX_QUEUED).

    Their help is in the fields' metadata, not in docstrings: an interpreter keeps those in the source text only.
    """

    listen: str = _setting(
        "127.0.0.1:50051",
        "Address to listen on: HOST:PORT, [IPV6]:PORT or unix:PATH; port 0 takes a free one.",
        parse=listen_address,
    )
    model: str = _setting("", "Model to serve: a folder, or a name on the hub. The bundled one if not given.")
    workers: int = _setting(
        0,
        "Worker processes to start on this machine. 0: one for each GPU, or --gpus-per-worker of them; else one.",
        least=0,
        most=1024,
    )
    gpus_per_worker: int = _setting(
        0,
        "GPUs that each worker has, over which it spreads a model that does not fit one. 0: all are dealt out evenly.",
        least=0,
        most=64,
    )
    worker: tuple[str, ...] = _setting(
        (),
        "Attach to the worker at HOST:PORT or unix:PATH instead of starting any; may be given several times.",
        form="HOST:PORT",
        parse=worker_address,
    )
    quantization: str = _setting(
        "",
        "How workers hold the weights: nf4, fp4, int8 or none. Their own default if not given.",
        choices=("nf4", "fp4", "int8", "none"),
    )
    reflection: bool = _setting(False, "Offer server reflection; not for public addresses.")
    max_queued: int = _setting(
        1024,
        "Requests that may wait for a worker; more are refused with RESOURCE_EXHAUSTED.",
        least=1,
        most=1_000_000,
    )
    max_queued_tokens: int = _setting(
        1024 * 1024,
        "Tokens that the prompts of waiting requests may have together; more are refused with RESOURCE_EXHAUSTED.",
        least=1,
        most=1_000_000_000,
    )
    max_wait: float = _setting(
        3600.0,
        "Seconds that requests, but for batch work, may be expected to wait; more are refused with RESOURCE_EXHAUSTED.",
        least=0,
        most=LONGEST_S,
    )
    max_tenant_queued: int = _setting(
        256, "Requests of one tenant that may wait, where tenants are told apart.", least=1, most=1_000_000
    )
    max_tenant_queued_tokens: int = _setting(
        256 * 1024,
        "Tokens that the prompts of one tenant's waiting requests may have together, where tenants are told apart.",
        least=1,
        most=1_000_000_000,
    )
    trust_tenant_metadata: bool = _setting(
        False,
        "Tell tenants and priorities by the metadata textserve-tenant and textserve-priority, which anybody can set:"
        " for gateways that only trusted callers reach.",
    )
    tenant: tuple[Tenant, ...] = _setting(
        (),
        "Share and best priority (interactive, default or batch) of a tenant, * for all not named; may be given several"
        " times. The share of others is 1.",
        form="NAME=WEIGHT[:PRIORITY]",
        parse=Tenant.parse,
    )
    max_message_bytes: int = _setting(
        4 * 1024 * 1024,
        "Bytes that a request may have.",
        least=1,
        most=1_000_000_000,  # gRPC is told twice as much, in an int32
    )
    allow_unknown_fields: bool = _setting(
        False, "Serve requests with fields that this version does not know as if they had none; else they are refused."
    )
    max_connection_calls: int = _setting(
        256,
        "Calls that one connection may have open; more wait in its caller's library, or go over another connection.",
        least=1,
        most=1_000_000,
    )
    request_timeout: float = _setting(
        3600.0, "Seconds that a request may take if its caller sets no shorter deadline.", least=0.001, most=LONGEST_S
    )
    worker_wait: float = _setting(
        30.0,
        "Seconds that requests, begun or not, wait for a worker to come back after the last one was lost.",
        least=0,
        most=LONGEST_S,
    )
    grace: float = _setting(
        30.0,
        "Seconds that running requests have to finish after SIGTERM or Ctrl-C; a second signal ends at once.",
        least=0,
        most=LONGEST_S,
    )
    log_level: str = _setting(
        "info",
        "Least level to log on stderr: debug, info, warning or error.",
        choices=("debug", "info", "warning", "error"),
    )
    worker_args: tuple[str, ...] = ()
    """Flags for the workers, passed on unchanged: everything behind `--`. No flag of its own."""

    @property
    def tenants(self) -> TenantPolicy:
        """What tenants are entitled to."""
        return TenantPolicy(
            trusted=self.trust_tenant_metadata,
            weights={tenant.name: tenant.weight for tenant in self.tenant},
            best_priority={tenant.name: tenant.best_priority for tenant in self.tenant},
        )

    @property
    def queue_limits(self) -> QueueLimits:
        """How much may wait. Where tenants are not told apart, all callers are one."""
        is_told = self.trust_tenant_metadata
        return QueueLimits(
            max_queued=self.max_queued,
            max_queued_tokens=self.max_queued_tokens,
            max_tenant_queued=self.max_tenant_queued if is_told else self.max_queued,
            max_tenant_queued_tokens=self.max_tenant_queued_tokens if is_told else self.max_queued_tokens,
        )
