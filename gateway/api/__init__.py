"""The callers' edge: messages in and out, statuses, streams, health.

It knows gRPC and the public protos. It must not know workers, nor which request goes next: it asks `request` to
prepare a call, hands it to `dispatch` and writes what comes of it.
"""
