"""Chooses one token for each row, in one vectorized pass with every row's own parameters.

It must not know models, keys and values, or what becomes of a token.
"""
