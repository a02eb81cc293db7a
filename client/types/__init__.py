"""The values that the client takes and gives.

They must not know gRPC nor protobuf.
"""
