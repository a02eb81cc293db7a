"""The command `textserve`: flags in, text or JSON out.

It must not know protobuf messages: it calls the client as anybody does.
"""
