"""Runs the engine before anybody waits for it: one row, all rows, what lies between, and a whole prefill chunk.

The first forward pass re-packs 4-bit weights on a CPU and loads kernels on a GPU; other shapes load others.
"""

from .engine import Engine
from .sequence import Root, SamplingParameters, Sequence

_PROMPT_TOKENS = 16
_NEW_TOKENS = 4
_TOKENS = 16
"""Ids from 0 that every vocabulary has."""


def warm_up(engine: Engine) -> None:
    """Reads a long prompt, then generates a few tokens for every number of rows that has a first step of its own."""
    limits = engine.scheduler.limits
    new_tokens = min(_NEW_TOKENS, limits.context_length - 1)
    _generate(engine, 1, min(limits.chunk_tokens, limits.context_length - new_tokens), new_tokens)
    for rows in engine.runner.first_steps(limits.max_rows):
        _generate(engine, rows, min(_PROMPT_TOKENS, limits.context_length - new_tokens), new_tokens)


def _generate(engine: Engine, rows: int, prompt_tokens: int, new_tokens: int) -> None:
    """Runs rows with different prompts, for a check of what was captured to see something; every other one samples."""
    for row in range(rows):
        prompt = [(row + place) % _TOKENS for place in range(max(1, prompt_tokens - row % _PROMPT_TOKENS))]
        parameters = SamplingParameters(max_new_tokens=new_tokens, do_sample=row % 2 == 1)
        engine.scheduler.submit(Root(prompt, [Sequence(row, prompt, parameters)]))
    while engine.scheduler.has_work:
        engine.step()
