"""Kernels in Triton, what they must give, and the check of one against the other at start.

It must not know models, layers or batches.
"""
