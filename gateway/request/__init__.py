"""A call becomes a generation: checked, completed by defaults, made into tokens.

It must not know gRPC, protobuf messages or workers.
"""
