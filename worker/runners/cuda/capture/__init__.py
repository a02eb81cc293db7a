"""Steps captured as CUDA graphs: buckets of shapes, static inputs, replay.

It must not know how a layer is computed.
"""
