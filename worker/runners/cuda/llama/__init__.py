"""The forward pass of a decode step that can be captured: Llama-like models' fused, others' by transformers.

It must not know when it is captured or replayed, nor windows and views: those are read on the device.
"""
