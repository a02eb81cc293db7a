"""Decode steps on a GPU: captured once for each number of rows, and replayed without Python.

Nothing of this package needs a GPU or Triton to be imported, but for the modules whose names end in `_kernels`,
`triton_ops` and `four_bit_product`. Sampling is not captured: it depends on what each row asked for.
"""
