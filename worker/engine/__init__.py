"""The loop: schedule, run, sample, report; on a thread of its own.

It must not know gRPC, nor how a step is computed: that is a runner's business.
"""
