"""Seeds of a request's candidates, made of the one that the request has. Pure."""

from itertools import count as count_from

SEED_LIMIT = 2**53
"""JavaScript and JSON readers keep integers exact below this."""

_MASK = SEED_LIMIT - 1


def candidate_seeds(seed: int, count: int) -> list[int]:
    """Distinct seeds for `count` candidates: first `seed` itself, then derived ones below SEED_LIMIT.

    The seed of a candidate depends on `seed` and its index alone, not on how many there are.
    """
    seeds = [seed]
    start = _mix(seed ^ (seed >> 53))
    for index in count_from(1):
        if len(seeds) == count:
            break
        # A permutation of different numbers: the only one that can come twice is the request's own.
        derived = _mix(start + index)
        if derived != seed:
            seeds.append(derived)
    return seeds


def _mix(value: int) -> int:
    """A permutation of the numbers below SEED_LIMIT: the finalizer of MurmurHash3 (fmix64), cut to 53 bits."""
    value &= _MASK
    value = ((value ^ (value >> 27)) * 0xFF51AFD7ED558CCD) & _MASK
    value = ((value ^ (value >> 27)) * 0xC4CEB9FE1A85EC53) & _MASK
    return value ^ (value >> 27)
