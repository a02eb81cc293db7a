"""The gateways' edge: the internal RPCs, their messages, and each gateway's share of the room.

It must not know tensors, nor how a step is scheduled or computed: `engine` is given sequences and says what they got.
"""
