"""The workers' edge: connections, the one stream of each, and whether they are alive.

It knows gRPC and the internal protos, and calls `dispatch` back through a Protocol. It must not know callers.
"""
