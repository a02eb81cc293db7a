"""Runs the engine once at both ends of its range before anybody waits for it.

The first forward pass re-packs 4-bit weights on a CPU and loads kernels on a GPU; the first full batch touches the
memory.
"""

from .engine import Engine
from .sequence import SamplingParameters, Sequence

_PROMPT_TOKENS = 16
_NEW_TOKENS = 4


def warm_up(engine: Engine) -> None:
    """Generates a few tokens for one row, then for all rows, greedily and by sampling."""
    limits = engine.scheduler.limits
    prompt = [0] * min(_PROMPT_TOKENS, limits.context_length - _NEW_TOKENS)
    for rows in (1, limits.max_rows):
        for row in range(rows):
            parameters = SamplingParameters(max_new_tokens=_NEW_TOKENS, do_sample=row % 2 == 1)
            engine.scheduler.submit(Sequence(row, list(prompt), parameters))
        while engine.scheduler.has_work:
            engine.step()
