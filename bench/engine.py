"""Measures the engine: its steps over their floor, and its service against `generate()` on static batches.

    python -m bench.engine [--json] [--rounds N] [--only SECTION ...]

- closed-loop: a decode step at 1 to 32 rows over the arithmetic that it cannot do without (`bench.step_floor`).
- mixed: 32 requests, prompts of 8 to 95 tokens, outputs of 8 to 63, all there at the beginning, on 16 rows; against
  `generate()` in left-padded batches of 16, in order of arrival and sorted by output, and against what is possible.
- skewed: the same for one long output and fifteen short ones.
- interference: 8 rows decode, a prompt of 1,024 tokens arrives.
- open-loop: Poisson arrivals at shares of the engine's throughput on the mixed set, for the engine and for static
  batches. A request is good if its first token comes within 2 s and the mean gap between its tokens is at most 150 ms.

Tokens beyond a request's own output are not counted. What is compared takes turns in each round, ratios are taken
within a round, and medians of the rounds are printed. `generate()` runs on a model of its own, which no engine touches.
"""

import sys
from collections.abc import Callable

from bench.closed_loop import closed_loop
from bench.interference import interference
from bench.models import Models
from bench.poisson import open_loop
from bench.report import Section, arguments, show_sections
from bench.request_sets import mixed, skewed
from bench.step_floor import NO_KERNEL

SECTIONS: dict[str, Callable[[Models, int], Section]] = {
    "closed-loop": closed_loop,
    "mixed": mixed,
    "skewed": skewed,
    "interference": interference,
    "open-loop": open_loop,
}


def main() -> int:
    """Runs the bench."""
    flags = arguments(__doc__ or "", list(SECTIONS))
    models = Models.load()
    if not models.floor.has_kernel:
        print(NO_KERNEL, file=sys.stderr)
    measured = [SECTIONS[name](models, flags.rounds) for name in flags.only]
    return show_sections("engine", measured, as_json=flags.json)


if __name__ == "__main__":
    sys.exit(main())
