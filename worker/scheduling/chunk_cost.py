"""What reading a chunk of a prompt costs: a fixed part, and one for each token. Pure.

An eager forward pass of a model with 32 layers takes some 28 ms of Python whatever it reads, and a CPU without kernels
dequantizes all weights for each: were that laid on the tokens, they would look ever dearer the fewer of them are read,
and a budget that follows would shrink to nothing. Two numbers are learned from pairs of tokens and seconds, by a Kalman
filter (Kalman 1960): chunks that are all of one size tell their sum alone, and then nothing but the sum is learned.
"""

_DRIFT = 0.03
"""How much either part may change from one chunk to the next, as a share of the chunk's time."""
_NOISE, _NOISE_BELOW = 0.4, 0.25
"""Of one measurement, as a share; less if it was faster, as first steps of a kind are slow."""
_OUTLIER = 3.0
"""Standard deviations: a chunk that took longer is the machine's hiccup, and counts as so many."""


class ChunkCost:
    """Seconds that a chunk of so many tokens takes, beyond those of the rows beside it."""

    def __init__(self) -> None:
        self.fixed_s = 0.0
        self.token_s = 0.0
        """0 until seen."""
        self._covariance = (0.0, 0.0, 0.0)
        """Of both: the variance of the fixed part, that of a token's, and what they share."""

    def seconds(self, tokens: int) -> float:
        """Returns what is expected of a chunk."""
        return self.fixed_s + self.token_s * tokens

    def observe(self, tokens: int, seconds: float) -> None:
        """Learns from a chunk of at least one token."""
        expected = self.seconds(tokens)
        if not expected:
            # Tokens are likelier to blame, but a half of it may be fixed: what is the one's is not the other's.
            self.token_s = seconds / tokens
            self._covariance = ((seconds / 2) ** 2, (self.token_s / 2) ** 2, -seconds * self.token_s / 4)
            return
        fixed, token, both = self._drifted(tokens, expected)
        with_fixed, with_token = fixed + both * tokens, both + token * tokens
        noise = (_NOISE if seconds > expected else _NOISE_BELOW) * expected
        variance = with_fixed + with_token * tokens + noise**2
        error = min(seconds - expected, _OUTLIER * variance**0.5) / variance
        self.fixed_s = max(0.0, self.fixed_s + with_fixed * error)
        self.token_s = max(0.0, self.token_s + with_token * error)
        self._covariance = (
            fixed - with_fixed**2 / variance,
            token - with_token**2 / variance,
            both - with_fixed * with_token / variance,
        )

    def _drifted(self, tokens: int, expected: float) -> tuple[float, float, float]:
        """Returns the covariance, grown by what either part may have changed, up to the chunk's own time."""
        fixed, token, both = self._covariance
        step, most = (_DRIFT * expected) ** 2, expected**2
        return (
            max(fixed, min(fixed + step, most)),
            max(token, min(token + step / tokens**2, most / tokens**2)),
            both,
        )
