"""Pure decisions: what the next step reads, runs and gives back.

It must not know tensors, threads or the clock.
"""
