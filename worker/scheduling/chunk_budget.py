"""How many prompt tokens a step reads while rows are running, who wait for it. Pure.

Rows that decode and prompts that are read share the time: over a while, rows get their tokens STRETCH times as slowly
as they would alone. Where a chunk costs little beside its tokens every step reads one, and takes that long. Where each
costs much, however little it reads (see ChunkCost), one is read that is worth it, and the steps behind it read none
until the rows have had their share.

Costs are learned from the steps that were run, as moving averages. Under steady load prompts always wait, and no step
would show the cost of decoding alone: so now and then one reads nothing. Else more rows, or longer ones, would look
like dearer prompts.
"""

from .chunk_cost import ChunkCost

STRETCH = 2.2
"""Time of a step with a chunk over that of one without, in the mean."""
MOST_FIXED = 1 / 3
"""Share of a chunk's time that its fixed cost may be, where a larger chunk is allowed."""
LEAST_TOKENS = 12
TELLING_TOKENS = LEAST_TOKENS // 2
"""A step that reads fewer is mostly fixed cost.

Chunks of LEAST_TOKENS, which end with a whole column, read fewer only where further rows begin or the group ends.
"""
_MOST_IN_A_ROW = 32
"""Steps with a chunk, before one without shows what decoding costs by now; and steps without, for a chunk's sake."""
_WEIGHT, _WEIGHT_BELOW = 0.2, 0.5
"""Of the newest step in the averages; more if it was faster, as first steps of a kind are slow."""
_OUTLIER = 4.0
"""A step that took so many times the average is the machine's hiccup; it counts as this many times."""


class ChunkBudget:
    """What a decode step and a prompt's chunk cost, in seconds."""

    def __init__(self) -> None:
        self.decode_s: dict[int, float] = {}
        """By the bit length of the number of rows: from one key to the next it doubles."""
        self.cost = ChunkCost()
        """Beside running rows; as long as none was read there, of chunks that were read alone."""
        self._was_beside = False
        self._chunks = self._in_a_row = 0
        self._debt_s = 0.0
        """How much longer than their share prompts have taken of the rows' time."""

    def tokens(self, most: int, rows: int) -> int:
        """Returns how many prompt tokens, padding included, to read beside so many rows, at most `most`; 0: none."""
        decode_s = self.decode_s.get(rows.bit_length())
        if decode_s is None or self._in_a_row >= _MOST_IN_A_ROW or self._debt_s > _share(decode_s):
            return 0
        if not decode_s or not self.cost.seconds(1):
            return most
        chunk_s = max(_share(decode_s), self.cost.fixed_s / MOST_FIXED) - self.cost.fixed_s
        # Not `chunk_s / token_s`: that of a token may be 0.
        affordable = most if chunk_s >= self.cost.token_s * most else int(chunk_s / self.cost.token_s)
        if affordable < LEAST_TOKENS:
            # Of chunks that are all of one size nobody could tell whether their tokens are dear, or their being there.
            affordable = LEAST_TOKENS + TELLING_TOKENS * (self._chunks % 2)
        return min(most, affordable)

    def observe(self, *, rows: int, prompt_tokens: int, seconds: float) -> None:
        """Learns from a step that decoded rows, read prompt tokens, padding not counted, or both."""
        if not rows:
            self._debt_s = 0.0  # nobody is left that it could be paid to
        if prompt_tokens:
            self._observe_chunk(rows.bit_length(), prompt_tokens, seconds)
        elif rows:
            self._observe_decode(rows.bit_length(), seconds)

    def _observe_decode(self, kind: int, seconds: float) -> None:
        # After chunks it is the only news in a while.
        weight = _WEIGHT_BELOW if self._in_a_row else _WEIGHT
        self.decode_s[kind] = _average(self.decode_s.get(kind, 0.0), seconds, weight)
        self._debt_s = max(0.0, self._debt_s - _share(seconds))
        self._in_a_row = 0

    def _observe_chunk(self, kind: int, prompt_tokens: int, seconds: float) -> None:
        self._chunks += 1
        self._in_a_row = self._in_a_row + 1 if kind else 0
        if kind in self.decode_s:
            self.decode_s[kind] = min(self.decode_s[kind], seconds)  # whatever it was, a chunk makes no step shorter
            share = _share(self.decode_s[kind])
            self._debt_s += seconds - self.decode_s[kind] - share
            self._debt_s = min(max(0.0, self._debt_s), _MOST_IN_A_ROW * share)
        if prompt_tokens < TELLING_TOKENS:
            return
        if kind and not self._was_beside:
            self._was_beside, self.cost = True, ChunkCost()
        if kind or not self._was_beside:
            self.cost.observe(prompt_tokens, max(0.0, seconds - self.decode_s.get(kind, 0.0)))


def _share(decode_s: float) -> float:
    """Returns what prompts may take of a step whose rows take so long."""
    return (STRETCH - 1) * decode_s


def _average(before: float, new: float, weight: float) -> float:
    if not before:
        return new
    return before + (weight if new > before else _WEIGHT_BELOW) * (min(new, _OUTLIER * before) - before)
