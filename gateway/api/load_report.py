"""Load reports in the trailers of calls, by which callers' libraries spread their calls over gateways. Pure.

They are ORCA's `xds.data.orca.v3.OrcaLoadReport`, as gRPC's policy `weighted_round_robin` reads it (gRFC A51, A58). The
three numbers are encoded here: the package with the generated message overwrites files of googleapis-common-protos.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

TRAILER = "endpoint-load-metrics-bin"
# Field numbers of OrcaLoadReport, each behind it the wire type of a double.
_RPS_FRACTIONAL = 6 << 3 | 1
_EPS = 7 << 3 | 1
_APPLICATION_UTILIZATION = 9 << 3 | 1
_RATE_WINDOW_S = 10.0


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How much a gateway does, in what a load balancer weighs it by; each at least 0."""

    utilization: float
    """Rows that run and wait, relative to those that there are; above 1 while work waits."""

    calls_per_s: float
    errors_per_s: float

    def encode(self) -> bytes:
        """The bytes of the message."""
        return struct.pack(
            "<BdBdBd",
            _RPS_FRACTIONAL,
            self.calls_per_s,
            _EPS,
            self.errors_per_s,
            _APPLICATION_UTILIZATION,
            self.utilization,
        )


class Rate:
    """Events a second over the last seconds, older ones counting ever less.

    Args:
        now: When it begins to count, in seconds.
    """

    def __init__(self, now: float) -> None:
        self._began_at = self._counted_at = now
        self._count = 0.0

    def observe(self, now: float) -> None:
        """An event."""
        self._count = self._faded(now) + 1.0
        self._counted_at = now

    def value(self, now: float) -> float:
        """Events a second; 0 in the instant that it begins in."""
        seconds = _RATE_WINDOW_S * -math.expm1((self._began_at - now) / _RATE_WINDOW_S)
        return self._faded(now) / seconds if seconds > 0 else 0.0

    def _faded(self, now: float) -> float:
        return self._count * math.exp((self._counted_at - now) / _RATE_WINDOW_S)
