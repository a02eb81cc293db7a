"""The words that all folders speak: request, generation, sequence, served model, errors.

Pure: it imports nothing of the project but itself, and no I/O.
"""
