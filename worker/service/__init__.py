"""The gateways' edge: the internal RPCs, their messages, and room as credits.

It must not know models and tensors: it hands sequences to `engine` and sends what comes of them.
"""
