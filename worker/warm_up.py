"""Runs the engine before anybody waits for it: one row, all rows, and a whole prefill chunk.

The first forward pass re-packs 4-bit weights on a CPU and loads kernels on a GPU; other shapes load others.
"""

from .engine import Engine
from .sequence import Root, SamplingParameters, Sequence

_PROMPT_TOKENS = 16
_NEW_TOKENS = 4


def warm_up(engine: Engine) -> None:
    """Generates a few tokens for one row with a long prompt, then for all rows, greedily and by sampling."""
    limits = engine.scheduler.limits
    new_tokens = min(_NEW_TOKENS, limits.context_length - 1)
    longest = limits.context_length - new_tokens
    for rows, prompt_tokens in ((1, limits.idle_chunk_tokens), (limits.max_rows, _PROMPT_TOKENS)):
        prompt = [0] * min(prompt_tokens, longest)
        for row in range(rows):
            parameters = SamplingParameters(max_new_tokens=new_tokens, do_sample=row % 2 == 1)
            engine.scheduler.submit(Root(prompt, [Sequence(row, prompt, parameters)]))
        while engine.scheduler.has_work:
            engine.step()
