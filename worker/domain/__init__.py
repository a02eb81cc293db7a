"""The words that all folders speak: config, sequence, plan, outcome.

Pure: it imports nothing of the project but itself, and no torch.
"""
