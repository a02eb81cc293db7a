"""From a checkpoint to a model that is ready to run: weights, quantization, devices, what is known of it.

It must not know runners, the engine or gateways, nor anything that happens after the first step.
"""
