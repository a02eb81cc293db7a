"""Keys, values and states of the batch: left-padded rows, their storage, and how many of them fit.

It must not know the model beside what its layers keep, nor sequences, sampling or gateways: rows are numbers here.
"""
