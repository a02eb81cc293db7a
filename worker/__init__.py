"""The worker: one process that holds one model and generates tokens for all its callers in one left-padded batch.

It is the token domain. Text, chat templates and stop strings belong to the gateway, and nothing here imports it.
"""
