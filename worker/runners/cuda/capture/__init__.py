"""Steps captured as CUDA graphs, one for each bucket of rows, and replayed without Python.

It must not know how a layer is computed, nor who has which row: a forward pass and a batch are given.
"""
