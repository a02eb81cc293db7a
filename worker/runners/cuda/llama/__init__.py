"""A Llama-like model's step from kernels and fused projections.

It must not know when a step is captured.
"""
