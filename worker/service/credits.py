"""Shares a worker's room between gateways. Pure."""

from bisect import bisect_right
from collections.abc import Mapping
from itertools import islice


def share(total: int, demands: Mapping[int, int]) -> dict[int, int]:
    """Divides `total` places between gateways by demand (what each has at the worker and in its queue).

    Each gateway gets at least one place, so that none is locked out, and none gets more than its demand while another
    wants more (max-min fairness). Places that nobody wants are dealt out evenly, to be used at once when work arrives.
    The shares sum to `total`, or to the number of gateways if that is larger.
    """
    wanted = _fill(total, dict.fromkeys(demands, 1), demands)
    return _fill(total, wanted, dict.fromkeys(demands, total))


def _fill(total: int, floors: Mapping[int, int], limits: Mapping[int, int]) -> dict[int, int]:
    """Raises the lowest shares, each up to its limit, until they sum to `total`; none falls below its floor."""

    def at(level: int) -> dict[int, int]:
        return {key: max(floor, min(level, limits[key])) for key, floor in floors.items()}

    level = bisect_right(range(total + 1), total, key=lambda level: sum(at(level).values())) - 1
    shares, higher = at(level), at(level + 1)
    left = total - sum(shares.values())
    for key in islice((key for key in shares if higher[key] > shares[key]), max(0, left)):
        shares[key] += 1
    return shares
