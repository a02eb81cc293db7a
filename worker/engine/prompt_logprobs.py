"""Log-probabilities of prompts, taken from each prefill chunk as it is read: a prompt's logits are never whole."""

from collections.abc import Sequence as Rows

from torch import Tensor

from ..domain.outcome import PromptPart
from ..domain.plan import Chunk
from ..domain.sequence import Root
from ..memory.group import PrefillGroup
from ..sampling.logprobs import token_logprobs


def prompt_parts(logits: Tensor, group: PrefillGroup, chunk: Chunk, roots: Rows[Root]) -> list[PromptPart]:
    """Returns what a chunk tells about the prompts whose log-probabilities were asked for.

    Args:
        logits: [rows that take part, columns of the chunk, vocabulary].
        group: the group that the chunk is part of.
        chunk: its columns.
        roots: the rows of the group.
    """
    parts = []
    targets = group.targets(chunk.begin, chunk.end)
    for row, root in enumerate(roots[: logits.shape[0]]):
        if root.prompt_logprobs is None or not root.wants_prompt_logprobs:
            continue
        padding = group.width - len(root.tokens)
        # Column c predicts token c - padding + 1.
        begin = max(chunk.begin, padding + root.reported) - chunk.begin
        end = min(chunk.end, padding + len(root.sequences[0].prompt) - 1) - chunk.begin
        if begin < end:
            found = token_logprobs(logits[row, begin:end], targets[row, begin:end], root.prompt_logprobs)
            parts.append(PromptPart(root, root.sequences[0], root.reported + 1, found))
    return parts
