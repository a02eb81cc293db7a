"""How much the engine attempts at once after a step has failed for being too large. Pure.

The memory for keys and values is allocated at start; what a step needs beside it, for activations and logits, grows
with its rows and with the tokens that it reads, and is not known before. So after a failure half as much is tried, and
what went well for a while is doubled again: for ever longer whiles, because each failure costs everybody the way back.
"""

_PATIENCE, _MOST_PATIENCE = 256, 1 << 20
"""Steps that must go well before the limits are doubled: at first, and at most."""


class Pressure:
    """Limits that shrink when an allocation fails, and recover."""

    def __init__(self, rows: int, tokens: int) -> None:
        """Starts without pressure.

        Args:
            rows: most rows of batch and group together, at least 1.
            tokens: most tokens of a prefill chunk, at least 1.
        """
        self._most_rows, self._most_tokens = rows, tokens
        self.rows, self.tokens = rows, tokens
        self._good_steps = 0
        self._patience = _PATIENCE // 2

    def step_failed(self, rows: int, tokens: int) -> None:
        """Halves what was tried: a step with so many rows in batch and group, reading so many tokens."""
        self.rows = max(1, min(self.rows, rows) // 2)
        self.tokens = max(1, min(self.tokens, tokens or self.tokens) // 2)
        self._good_steps = 0
        self._patience = min(2 * self._patience, _MOST_PATIENCE)

    def step_succeeded(self) -> None:
        """Doubles the limits after a number of steps without a failure."""
        self._good_steps += 1
        if self._good_steps >= self._patience:
            self.rows = min(self._most_rows, 2 * self.rows)
            self.tokens = min(self._most_tokens, 2 * self.tokens)
            self._good_steps = 0
