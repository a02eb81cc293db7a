"""Decode steps on a GPU: captured once for each number of rows, and replayed without Python.

It must not know sampling, which is not captured: that depends on what each row asked for. Nothing here needs a GPU or
Triton to be imported, but for the modules whose names end in `_kernels`, `triton_ops`, `triton_moves` and
`four_bit_product`.
"""
