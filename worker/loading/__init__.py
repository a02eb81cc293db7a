"""From a checkpoint to a model that is ready to run: checks, weights, quantization, facts.

It must not know the engine, nor anything that happens after the first step.
"""
