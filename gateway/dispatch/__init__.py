"""Carries out what `scheduling` decides, on the event loop.

It keeps what runs, and tells workers and waiting callers. It must not know protobuf messages, nor decide by itself
which request goes next.
"""
