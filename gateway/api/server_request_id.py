"""The gateway's own name for each call, by which its log, its answers and its errors tell of the same one.

It is not the `request_id` that a caller may choose: that one names what several calls share.
"""

import random
from contextvars import ContextVar

_current: ContextVar[str] = ContextVar("server_request_id")


def begin() -> str:
    """Names the call that the running task answers, anew: 16 hexadecimal digits."""
    name = f"{random.getrandbits(64):016x}"
    _current.set(name)
    return name


def current() -> str:
    """The name of the call that the running task answers."""
    return _current.get(None) or begin()
