"""The gRPC channel: limits, keepalive and retries that both clients use."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import get_args

import grpc
import grpc.aio

from .options import Priority

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT = 60.0
"""Seconds for a whole call, its stream included."""

Metadata = Sequence[tuple[str, str | bytes]]
"""Pairs to send with every call; keys in lower case, those of bytes end in "-bin"."""

ChannelOptions = Mapping[str, int | str]
"""gRPC channel arguments by name."""

# A retry can repeat nothing that has been delivered: gRPC gives up on retries with the first message of an answer.
# CANCELLED is how a gateway ends the calls that reach it in the instant that it stops listening: nothing was done for
# them. A call that is cancelled on this side is not tried again.
SERVICE_CONFIG = {
    # A connection takes a few hundred calls at once; those beyond go over more of them.
    "connectionScaling": {"maxConnectionsPerSubchannel": 8},
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
}

DEFAULT_OPTIONS: ChannelOptions = MappingProxyType(
    {
        # gRPC's own 4 MiB would refuse the log-probabilities of a long text: 20 alternatives are 240 bytes a token.
        "grpc.max_receive_message_length": 64 * 2**20,
        # A request that does not fit into this buffer is silently not retried.
        "grpc.per_rpc_retry_buffer_size": 16 * 2**20,
        "grpc.service_config": json.dumps(SERVICE_CONFIG),
        "grpc.max_connections_per_subchannel_cap": 8,
        # A server that hangs is noticed within 15 s, also while a request waits in its queue. The keepalive timeout has
        # no effect without the other, and by default pings stop after two without data. Servers must allow this many.
        "grpc.keepalive_time_ms": 10_000,
        "grpc.keepalive_timeout_ms": 5_000,
        "grpc.http2.ping_timeout_ms": 5_000,
        "grpc.http2.max_pings_without_data": 0,
    }
)


def open_channel(
    address: str, credentials: grpc.ChannelCredentials | None, options: ChannelOptions | None
) -> grpc.Channel:
    """A blocking channel; plaintext without credentials. Connects with the first call."""
    arguments = _arguments(options)
    if credentials is None:
        return grpc.insecure_channel(address, arguments)
    return grpc.secure_channel(address, credentials, arguments)


def open_aio_channel(
    address: str, credentials: grpc.ChannelCredentials | None, options: ChannelOptions | None
) -> grpc.aio.Channel:
    """The same for asyncio."""
    arguments = _arguments(options)
    if credentials is None:
        return grpc.aio.insecure_channel(address, arguments)
    return grpc.aio.secure_channel(address, credentials, arguments)


def call_metadata(
    metadata: Metadata, tenant: str | None, priority: Priority | None
) -> tuple[tuple[str, str | bytes], ...]:
    """What to send with every call. ValueError for a tenant or a priority that cannot be named there."""
    named: list[tuple[str, str | bytes]] = list(metadata)
    if tenant is not None:
        if not (tenant.isascii() and tenant.isprintable()):
            raise ValueError(f"tenant must be printable ASCII, not {tenant!r}")
        named.append(("textserve-tenant", tenant))
    if priority is not None:
        if priority not in get_args(Priority):
            raise ValueError(f"priority must be one of {', '.join(get_args(Priority))}, not {priority!r}")
        named.append(("textserve-priority", priority))
    return tuple(named)


def _arguments(options: ChannelOptions | None) -> list[tuple[str, int | str]]:
    return list({**DEFAULT_OPTIONS, **(options or {})}.items())
