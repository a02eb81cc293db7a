"""What a caller sees of one request after another: when its tokens came, and whether that was soon enough. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

FIRST_TOKEN_S = 2.0
MEAN_GAP_S = 0.150


@dataclass(frozen=True)
class Served:
    """One request's tokens. All times are in seconds on one clock."""

    arrived_at: float
    output_count: int
    """Tokens that were asked for."""
    token_times: list[float] = field(default_factory=list)
    """When each token came; fewer than were asked for if the request was refused or dropped."""

    @property
    def first_token_s(self) -> float:
        """Returns the time to the first token; infinite if there was none."""
        return self.token_times[0] - self.arrived_at if self.token_times else math.inf

    @property
    def gaps(self) -> list[float]:
        """Returns the times between its tokens."""
        return [later - earlier for earlier, later in pairwise(self.token_times)]

    @property
    def is_good(self) -> bool:
        """Whether all tokens came, the first within 2 s and the others at most 150 ms apart on average."""
        gaps = self.gaps
        mean_gap = sum(gaps) / len(gaps) if gaps else 0.0
        is_complete = len(self.token_times) == self.output_count
        return is_complete and self.first_token_s <= FIRST_TOKEN_S and mean_gap <= MEAN_GAP_S


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns the least value that `percent` of 100 values do not exceed (nearest rank); 0 if there are none."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(percent / 100 * len(ordered))) - 1] if ordered else 0.0


def good_share(served: Sequence[Served]) -> float:
    """Returns the share of requests that were served soon enough, 0 to 1; a dropped one was not."""
    return sum(request.is_good for request in served) / len(served)
