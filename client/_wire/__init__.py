"""Protobuf messages in and out of the client's own values; not public.

It must not know channels and calls.
"""
