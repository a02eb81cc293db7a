"""How often a stream is written to. Pure.

A message costs the gateway and its caller some two hundred microseconds of processor time, whatever is in it, and
gRPC's flow control reports a caller that falls behind only after tens of thousands of messages. So streams share a
budget of messages a second: few streams get every token as it comes, many get several tokens in one message.
"""

SECONDS_PER_MESSAGE = 0.0003
MAX_INTERVAL_S = 0.04


def write_interval_s(stream_count: int) -> float:
    """Least time between two messages of one stream while `stream_count` streams are open."""
    return min(stream_count * SECONDS_PER_MESSAGE, MAX_INTERVAL_S)
