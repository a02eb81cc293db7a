"""Keys and values of the batch: left-padded rows, their storage, and how many fit.

It must not know sequences, sampling or gateways.
"""
