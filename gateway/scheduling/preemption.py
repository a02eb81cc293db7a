"""Which generations make way for interactive work. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..domain.tenancy import Priority

if TYPE_CHECKING:
    from ..domain.generation import Generation

MAX_PREEMPTIONS = 3
"""Each costs a prefill, and time: what has made way so often runs to its end."""


def makes_way(generation: Generation) -> bool:
    """Whether it is taken back from its worker when interactive work needs the room.

    Batch work is, but for beam searches, which would begin again, and for what has waited or made way enough.
    """
    return (
        generation.caller.priority is Priority.BATCH
        and generation.config.num_beams == 1
        and not generation.is_protected
        and generation.preemptions < MAX_PREEMPTIONS
    )
