"""The bundled model `tutor`: composes its training text, trains it, and measures it.

`python -m tutor.train` makes the checkpoint in `worker/models/tutor`; `python -m tutor.evaluate` measures it.
"""
