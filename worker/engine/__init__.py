"""The loop: schedule, run, sample, update; on a thread of its own, which alone catches a step's errors.

It must not know gRPC or gateways, nor how a step is computed: that is a runner's business.
"""
