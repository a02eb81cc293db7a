"""The words that all folders speak: request, generation, sequence, served model, errors.

Pure: it must not know anything of the project but itself, nor the event loop, the clock or messages. Where a value
needs a service, that is a Protocol here.
"""
