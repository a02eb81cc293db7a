"""How much waits. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..domain.tenancy import Caller, Priority

if TYPE_CHECKING:
    from ..domain.generation import Generation


@dataclass(frozen=True, slots=True)
class Backlog:
    """Work that waits: generations, the tokens of their prompts, and the rows of workers that they will take.

    Output that is gone on behind is read like a prompt, and counts as one.
    """

    generation_count: int = 0
    prompt_tokens: int = 0
    row_count: int = 0

    @classmethod
    def of(cls, generation: Generation) -> Backlog:
        """One generation's."""
        return cls(1, len(generation.prompt_ids) + generation.output_token_count, generation.row_count)

    def __add__(self, other: Backlog) -> Backlog:
        return Backlog(
            self.generation_count + other.generation_count,
            self.prompt_tokens + other.prompt_tokens,
            self.row_count + other.row_count,
        )

    def __sub__(self, other: Backlog) -> Backlog:
        return Backlog(
            self.generation_count - other.generation_count,
            self.prompt_tokens - other.prompt_tokens,
            self.row_count - other.row_count,
        )

    def part(self, share: float) -> Backlog:
        """A share of it, from 0 to 1, rounded down."""
        return Backlog(int(share * self.generation_count), int(share * self.prompt_tokens), int(share * self.row_count))


NOTHING = Backlog()


class Tally:
    """What waits, by caller. Each generation is counted as it was when it began to wait."""

    def __init__(self) -> None:
        self._counted: dict[Generation, Backlog] = {}
        self._by_caller: dict[Caller, Backlog] = {}
        self._by_priority = dict.fromkeys(Priority, NOTHING)
        self.total = NOTHING
        """All that waits."""

    def __len__(self) -> int:
        return len(self._counted)

    def __contains__(self, generation: Generation) -> bool:
        return generation in self._counted

    def of_caller(self, caller: Caller) -> Backlog:
        return self._by_caller.get(caller, NOTHING)

    def of_priority(self, priority: Priority) -> Backlog:
        return self._by_priority[priority]

    def of_tenant(self, tenant: str) -> Backlog:
        if not self._by_caller:
            return NOTHING
        callers = (Caller(tenant, priority) for priority in Priority)
        return sum((self._by_caller[caller] for caller in callers if caller in self._by_caller), NOTHING)

    def add(self, generation: Generation) -> None:
        """It waits."""
        caller, one = generation.caller, Backlog.of(generation)
        self._counted[generation] = one
        self._by_caller[caller] = self.of_caller(caller) + one
        self._by_priority[caller.priority] += one
        self.total += one

    def remove(self, generation: Generation) -> bool:
        """It waits no more. False if it did not."""
        one = self._counted.pop(generation, None)
        if one is None:
            return False
        caller = generation.caller
        left = self._by_caller[caller] - one
        if left.generation_count:
            self._by_caller[caller] = left
        else:
            del self._by_caller[caller]
        self._by_priority[caller.priority] -= one
        self.total -= one
        return True
