"""Pure decisions: which request goes next, to which worker, and whether it may come in.

It is told the time, and must not know the event loop, gRPC, text or messages.
"""
