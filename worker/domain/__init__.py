"""The words that all folders speak: config, sequence, plan, outcome, and why a model is refused.

Pure: it must not know torch, files, clocks or threads, and imports nothing of the project but itself.
"""
