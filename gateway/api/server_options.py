"""Options of the public gRPC server. The numbers are explained where they are not what gRPC would take."""

ChannelOptions = list[tuple[str, str | int]]

# gRPC itself refuses messages of more than twice the limit, without details; those between are refused with details.
TRANSPORT_HEADROOM = 2
_KEEPALIVE: ChannelOptions = [
    ("grpc.keepalive_timeout_ms", 5_000),
    # Without it a peer that is stopped is noticed after a minute, whatever the keepalive timeout says.
    ("grpc.http2.ping_timeout_ms", 5_000),
    # By default keepalive stops silently after two pings on a quiet connection.
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
]


def server_options(max_message_bytes: int, max_connection_calls: int) -> ChannelOptions:
    """For the public server, with the most bytes of a message and the most calls of one connection."""
    return [
        *_KEEPALIVE,
        ("grpc.keepalive_time_ms", 20_000),
        # Callers may ping every 5 s; by default gRPC closes the connections of those who ping more than every 5 min.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        # By default a second gateway on the same port would silently take half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_bytes * TRANSPORT_HEADROOM),
        # Without a limit one connection that begins and resets calls (CVE-2023-44487) fills the queue of those that
        # nobody has looked at yet, and the calls of others are turned away.
        ("grpc.max_concurrent_streams", max_connection_calls),
        # Near the limit gRPC would reset calls at random, which an ordinary caller's first burst does not deserve.
        ("grpc.http.overload_protection", 0),
    ]
