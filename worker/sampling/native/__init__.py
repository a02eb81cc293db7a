"""Sampling on CPUs, in C: the tokens that torch would choose, for a fraction of the time.

It must not know who compiles the C code, or where that is kept.
"""
