"""How many prompt tokens a step reads while rows are running, who wait for it. Pure.

A step that reads a chunk is to take about STRETCH times as long as one that only decodes: so streams keep flowing
while a long prompt is read, and the reading gets the larger share of the time all the same. Both costs are learned from
the steps that were run, as moving averages.
"""

STRETCH = 2.2
"""Time of a step with a chunk over that of one without."""
LEAST_TOKENS = 16
_WEIGHT, _WEIGHT_BELOW = 0.2, 0.5
"""Of the newest step in the averages; more if it was faster, as first steps of a kind are slow."""
_OUTLIER = 4.0
"""A step that took so many times the average is the machine's hiccup; it counts as this many times."""


class ChunkBudget:
    """What a decode step and a prompt token cost, in seconds; 0 until seen."""

    def __init__(self) -> None:
        self.decode_s = 0.0
        self.token_s = 0.0

    def tokens(self, most: int) -> int:
        """Returns how many prompt tokens to read in the next step, at most `most`."""
        if not self.decode_s or not self.token_s:
            return most
        affordable = int((STRETCH - 1) * self.decode_s / self.token_s)
        return min(most, max(LEAST_TOKENS, affordable))

    def observe(self, *, decodes: bool, prompt_tokens: int, seconds: float) -> None:
        """Learns from a step."""
        if decodes and not prompt_tokens:
            self.decode_s = _average(self.decode_s, seconds)
        elif prompt_tokens >= LEAST_TOKENS:
            beside = self.decode_s if decodes else 0.0
            self.token_s = _average(self.token_s, max(0.0, seconds - beside) / prompt_tokens)


def _average(before: float, new: float) -> float:
    if not before:
        return new
    weight = _WEIGHT if new > before else _WEIGHT_BELOW
    return before + weight * (min(new, _OUTLIER * before) - before)
