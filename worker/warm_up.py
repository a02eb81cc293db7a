"""Runs the engine before anybody waits for it: one row, all rows, what lies between, and the largest prefill chunk.

The first forward pass re-packs 4-bit weights on a CPU and loads kernels on a GPU; other shapes load others.
"""

from .domain.sequence import Root, SamplingParameters, Sequence, Status
from .engine.engine import Engine

_PROMPT_TOKENS = 16
_NEW_TOKENS = 4
_IDS = 16
"""Different token ids in the prompts."""


def warm_up(engine: Engine, vocab_size: int) -> None:
    """Reads a whole chunk, then generates a few tokens for every number of rows that has a first step of its own.

    Raises ValueError if the model computes something else than finite numbers.
    """
    limits = engine.scheduler.limits
    ids = min(_IDS, vocab_size)
    _generate(engine, 1, limits.idle_chunk_tokens, ids=ids)
    for rows in engine.runner.first_steps(limits.max_rows):
        # In one group if they fit: rows of the first of several could have ended before those of the last join them.
        _generate(engine, rows, min(_PROMPT_TOKENS, limits.shared_group_tokens // rows), ids=ids)


def _generate(engine: Engine, rows: int, prompt_tokens: int, *, ids: int) -> None:
    """Runs rows with different prompts, for a check of what was captured to see something; every other one samples."""
    limits = engine.scheduler.limits
    further_groups = (rows - 1) // limits.shared_group_tokens  # of prompts of one token, as many as fit
    # A group may wait for one step in which rows decode alone, see ChunkBudget.
    new_tokens = min(_NEW_TOKENS + 2 * further_groups, limits.context_length - 1)
    longest = max(1, min(prompt_tokens, limits.context_length - new_tokens))
    sequences = []
    for row in range(rows):
        prompt = [(row + place) % ids for place in range(longest - row % (longest // 2 + 1))]
        parameters = SamplingParameters(max_new_tokens=new_tokens, do_sample=row % 2 == 1)
        sequences.append(Sequence(row, prompt, parameters))
        engine.scheduler.submit(Root(prompt, [sequences[-1]]))
    while engine.scheduler.has_work:
        engine.step()
    if any(sequence.status is Status.FAILED for sequence in sequences):
        raise ValueError(
            "its logits are not finite: the weights are damaged, or too large for the type that is computed in "
            "(--compute-dtype)"
        )
