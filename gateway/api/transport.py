"""Options of the gateway's connections to its workers."""

from .server_options import _KEEPALIVE, ChannelOptions


def worker_channel_options() -> ChannelOptions:
    """For the connection to a worker; hangs are noticed by its heartbeats, long before keepalive."""
    return [
        *_KEEPALIVE,
        ("grpc.keepalive_time_ms", 10_000),
        # The link has its own backoff.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.max_receive_message_length", -1),
        # A worker is never behind a proxy of the environment.
        ("grpc.enable_http_proxy", 0),
    ]
