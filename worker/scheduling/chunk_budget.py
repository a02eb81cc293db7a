"""How many prompt tokens a step reads while rows are running, who wait for it. Pure.

A step that reads a chunk is to take about STRETCH times as long as one that only decodes: so streams keep flowing
while a long prompt is read, and the reading gets the larger share of the time all the same. Both costs are learned from
the steps that were run, as moving averages. Under steady load prompts always wait, and no step would show the cost of
decoding alone: so now and then one reads nothing. Else more rows, or longer ones, would look like dearer prompts.
"""

STRETCH = 2.2
"""Time of a step with a chunk over that of one without."""
LEAST_TOKENS = 12
TELLING_TOKENS = LEAST_TOKENS // 2
"""A step that reads fewer is mostly fixed cost.

Chunks of LEAST_TOKENS, which end with a whole column, read fewer only where further rows begin or the group ends.
"""
_MOST_IN_A_ROW = 32
"""Steps with a chunk, before one without shows what decoding costs by now."""
_WEIGHT, _WEIGHT_BELOW = 0.2, 0.5
"""Of the newest step in the averages; more if it was faster, as first steps of a kind are slow."""
_OUTLIER = 4.0
"""A step that took so many times the average is the machine's hiccup; it counts as this many times."""


class ChunkBudget:
    """What a decode step and a prompt token cost, in seconds."""

    def __init__(self) -> None:
        self.decode_s: dict[int, float] = {}
        """By the bit length of the number of rows: from one key to the next it doubles."""
        self.token_s = 0.0
        """0 until seen."""
        self._in_a_row = 0

    def tokens(self, most: int, rows: int) -> int:
        """Returns how many prompt tokens, padding included, to read beside so many rows, at most `most`; 0: none."""
        decode_s = self.decode_s.get(rows.bit_length())
        if decode_s is None or self._in_a_row >= _MOST_IN_A_ROW:
            return 0
        if not decode_s or not self.token_s:
            return most
        affordable = int((STRETCH - 1) * decode_s / self.token_s)
        return min(most, max(LEAST_TOKENS, affordable))

    def observe(self, *, rows: int, prompt_tokens: int, seconds: float) -> None:
        """Learns from a step that decoded rows, read prompt tokens, padding not counted, or both."""
        if prompt_tokens:
            self._observe_chunk(rows.bit_length(), prompt_tokens, seconds)
        elif rows:
            self._observe_decode(rows.bit_length(), seconds)

    def _observe_decode(self, kind: int, seconds: float) -> None:
        # After chunks it is the only news in a while.
        weight = _WEIGHT_BELOW if self._in_a_row else _WEIGHT
        self.decode_s[kind] = _average(self.decode_s.get(kind, 0.0), seconds, weight)
        self._in_a_row = 0

    def _observe_chunk(self, kind: int, prompt_tokens: int, seconds: float) -> None:
        self._in_a_row = self._in_a_row + 1 if kind else 0
        if kind in self.decode_s:
            self.decode_s[kind] = min(self.decode_s[kind], seconds)  # whatever it was, a chunk makes no step shorter
        if prompt_tokens >= TELLING_TOKENS:
            beside = self.decode_s.get(kind, 0.0)
            self.token_s = _average(self.token_s, max(0.0, seconds - beside) / prompt_tokens, _WEIGHT)


def _average(before: float, new: float, weight: float) -> float:
    if not before:
        return new
    return before + (weight if new > before else _WEIGHT_BELOW) * (min(new, _OUTLIER * before) - before)
