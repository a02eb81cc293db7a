"""A step in C on any CPU: 4-bit products, and whole forward passes of models of known families.

The C code must not know torch, batches or sampling: Python hands it addresses and lists of tokens, see `structures`.
"""
