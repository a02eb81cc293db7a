"""The gRPC channel: limits, keepalive and retries that both clients use."""

import json
import re
import socket
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from types import MappingProxyType
from typing import get_args

import grpc
import grpc.aio

from .types.options import Priority

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT = 60.0
"""Seconds for a whole call, its stream included."""

_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+(?:%[^\]/]+)?\]|[^:/\[\]\s]+):([0-9]{1,5})")
_SCHEME = re.compile(r"(dns|ipv4|ipv6):(?://[^/]*/)?")
_OTHER_SCHEMES = ("unix:", "unix-abstract:", "vsock:", "xds:", "google-c2p:")
_LOOPBACK_NAMES = ("localhost", "ip6-localhost", "ip6-loopback")
_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")

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
    arguments = _arguments(address, options)
    if credentials is None:
        return grpc.insecure_channel(address, arguments)
    return grpc.secure_channel(address, credentials, arguments)


def open_aio_channel(
    address: str, credentials: grpc.ChannelCredentials | None, options: ChannelOptions | None
) -> grpc.aio.Channel:
    """The same for asyncio, bound to the running event loop."""
    arguments = _arguments(address, options)
    if credentials is None:
        return grpc.aio.insecure_channel(address, arguments)
    return grpc.aio.secure_channel(address, credentials, arguments)


def checked_address(address: str, credentials: grpc.ChannelCredentials | None) -> str:
    """The address. ValueError if gRPC would look for the gateway elsewhere than it says.

    Where a port is missing gRPC takes 443: that is right with TLS, and with plaintext it is an oversight.
    """
    form = "HOST:PORT, with brackets around an IPv6 address, or unix:PATH"
    if not isinstance(address, str):
        raise TypeError(f"address must be a str of the form {form}, not {address!r}")
    if address.startswith(_OTHER_SCHEMES):
        if address.endswith(":"):
            raise ValueError(f"address must be {form}, not {address!r}")
        return address
    for place in _places(address):
        match = _HOST_AND_PORT.fullmatch(place)
        if match and not 0 < int(match[2]) < 65536:
            raise ValueError(f"the port in address {address!r} must be 1 to 65535")
        if not match and (credentials is None or not _HOST_AND_PORT.fullmatch(f"{place}:443")):
            raise ValueError(f"address must be {form}, not {address!r}")
    return address


def is_loopback(address: str) -> bool:
    """Whether it is on this machine by its own words, without asking any resolver."""
    if address.startswith(_OTHER_SCHEMES):
        return address.startswith(("unix:", "unix-abstract:"))
    return all(_is_loopback_host(place) for place in _places(address))


def _places(address: str) -> list[str]:
    """Hosts with their ports: the numeric forms may list several."""
    scheme = _SCHEME.match(address)
    if scheme is None:
        return [address]
    rest = address.removeprefix(scheme[0])
    return [rest] if scheme[1] == "dns" else rest.split(",")


def _is_loopback_host(place: str) -> bool:
    match = _HOST_AND_PORT.fullmatch(place)
    host = (match[1] if match else place).strip("[]").lower().rstrip(".")
    if host in _LOOPBACK_NAMES or host.endswith(".localhost"):
        return True
    try:
        number = ip_address(host if ":" in host else socket.inet_aton(host))  # 127.1 is an address, too
    except (ValueError, OSError):
        return False
    if isinstance(number, IPv6Address):
        number = number.ipv4_mapped or number
    # A connection to "any address" is one to this machine.
    return number.is_loopback or number.is_unspecified


def call_metadata(
    metadata: Metadata, tenant: str | None, priority: Priority | None
) -> tuple[tuple[str, str | bytes], ...]:
    """What to send with every call. TypeError or ValueError for what gRPC cannot send, and for an unknown priority."""
    named: list[tuple[str, str | bytes]] = [_sendable(key, value) for key, value in metadata]
    if tenant is not None:
        if not (tenant.isascii() and tenant.isprintable()):
            raise ValueError(f"tenant must be printable ASCII, not {tenant!r}")
        named.append(("textserve-tenant", tenant))
    if priority is not None:
        if priority not in get_args(Priority):
            raise ValueError(f"priority must be one of {', '.join(get_args(Priority))}, not {priority!r}")
        named.append(("textserve-priority", priority))
    return tuple(named)


def _sendable(key: str, value: str | bytes) -> tuple[str, str | bytes]:
    """The pair, if gRPC can send it: it would fail every call with a status or an error that names neither."""
    if not _METADATA_KEY.fullmatch(key) or key.startswith("grpc-"):
        raise ValueError(f"a metadata key has lower-case letters, digits, '_', '-' and '.' only, unlike {key!r}")
    if not isinstance(value, bytes if key.endswith("-bin") else str):
        raise TypeError(f"metadata {key!r} must be {'bytes' if key.endswith('-bin') else 'a str'}, not {value!r}")
    if isinstance(value, str) and not (value.isascii() and value.isprintable()):
        raise ValueError(f"metadata {key!r} must be printable ASCII; keys that end in -bin take bytes")
    return key, value


def _arguments(address: str, options: ChannelOptions | None) -> list[tuple[str, int | str]]:
    # A proxy of the environment (http_proxy) cannot reach what listens on this machine's loopback only.
    direct = {"grpc.enable_http_proxy": 0} if is_loopback(address) else {}
    return list({**DEFAULT_OPTIONS, **direct, **(options or {})}.items())
