"""What came of a scene, and the table of all scenes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Outcome:
    """One line of the table."""

    case: str
    figures: str
    bar: str
    problems: Sequence[str] = field(default_factory=tuple)
    """What is wrong on any machine, in words: what was lost, doubled or left over."""
    misses: Sequence[str] = field(default_factory=tuple)
    """What took longer, or was less, than the bar allows; a machine that does something else beside may be why."""


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed; 0 without any."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def table(outcomes: Sequence[Outcome]) -> str:
    """A table in Markdown, and below it what broke the bars."""
    lines = ["| case | bar | measured | |", "|---|---|---|---|"]
    lines += [f"| {each.case} | {each.bar} | {each.figures} | {_verdict(each)} |" for each in outcomes]
    lines += [f"{each.case}: {what}" for each in outcomes for what in (*each.problems, *each.misses)]
    return "\n".join(lines) + "\n"


def _verdict(outcome: Outcome) -> str:
    return "FAIL" if outcome.problems else "missed" if outcome.misses else "pass"
