"""Pure decisions: what the next step reads, runs and gives back, and what follows from one that failed.

It must not know tensors, threads or the clock: it counts rows and tokens, and is told how long steps took.
"""
