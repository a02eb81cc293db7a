"""Shares a worker's room between gateways. Pure."""

from collections.abc import Mapping


def share(total: int, demands: Mapping[int, int]) -> dict[int, int]:
    """Divides `total` places between gateways by demand (what each has at the worker and in its queue).

    Each gateway gets at least one place, so that none is locked out, and none gets more than its demand while another
    wants more (max-min fairness). Places that nobody wants are dealt out evenly, to be used at once when work arrives.
    The shares sum to `total`, or to the number of gateways if that is larger.
    """
    shares = dict.fromkeys(demands, 1)
    for _ in range(total - len(shares) if shares else 0):
        wanting = [key for key in shares if demands[key] > shares[key]]
        poorest = min(wanting or shares, key=lambda key: shares[key])
        shares[poorest] += 1
    return shares
