"""How much the engine attempts at once after an allocation has failed. Pure.

The memory for keys and values is allocated at start; what a step needs beside it, for activations and logits, grows
with its rows and with the tokens that it reads, and is not known before. So after a failure half as much is tried, and
what went well for a while is doubled again.
"""

_RECOVERY_STEPS = 256


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

    def allocation_failed(self, rows: int, tokens: int) -> None:
        """Halves what was tried: a step with so many rows in batch and group, reading so many tokens."""
        self.rows = max(1, min(self.rows, rows) // 2)
        self.tokens = max(1, min(self.tokens, tokens or self.tokens) // 2)
        self._good_steps = 0

    def step_succeeded(self) -> None:
        """Doubles the limits after a number of steps without a failure."""
        self._good_steps += 1
        if self._good_steps >= _RECOVERY_STEPS:
            self.rows = min(self._most_rows, 2 * self.rows)
            self.tokens = min(self._most_tokens, 2 * self.tokens)
            self._good_steps = 0
