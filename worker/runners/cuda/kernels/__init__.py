"""Kernels in Triton, what they must give, and the check of one against the other at start.

They must not know models, layers or batches: tensors go in and come out.
"""
