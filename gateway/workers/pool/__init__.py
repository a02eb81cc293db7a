"""Where workers come from: processes that this gateway supervises, or workers that somebody else runs.

A pool tells its listener which workers there are. It must not know requests, models or gRPC: whether a worker that
is up also answers is for the listener to find out.
"""
