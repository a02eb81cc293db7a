"""Measures the saved checkpoint on held-out prompts: `python -m tutor.evaluate [--write]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from .checkpoint import FOLDER
from .compose import held_out
from .example import Example
from .inference import Tutor

SEED = 2
PROMPTS_PER_TASK = 100
BATCH_SIZE = 20
STORY_PROMPT = "I am a cat."
STORIES = 32
QUOTED = (
    ("A list of colors: red, blue", False),
    ("A sequence of numbers: 1, 2", False),
    ("A, B, C, D, E", False),
    ("Days of the week: Monday, Tuesday", False),
    ("2 + 3 =", False),
    ("What is 7 plus 5?", True),
    ("What color is grass?", True),
    ("Which day comes after Monday?", True),
    ("What is your name?", True),
    ("Write a JSON object with name Tom and age 7.", True),
)
"""Prompts shown in the model card, with whether they go through the chat template."""
BEGIN_MARK, END_MARK = "<!-- measured -->", "<!-- /measured -->"


@dataclass(frozen=True)
class Rate:
    """How many of a task's prompts were answered rightly."""

    task: str
    chat: bool
    prompts: int
    right: int


def measure(tutor: Tutor, examples: Sequence[Example], failures: list[str] | None = None) -> list[Rate]:
    """Counts the greedy answers that are right and end by themselves; wrong ones are added to `failures`."""
    rates = []
    for (task, chat), group in groupby(sorted(examples, key=_row), key=_row):
        of_task = list(group)
        answers = tutor.answers([example.prompt for example in of_task], chat=chat, batch_size=BATCH_SIZE)
        wrong = [
            f"{task}: {example.prompt!r} -> {answer.text!r}, not {example.answer!r}"
            for example, answer in zip(of_task, answers, strict=True)
            if not (answer.ended and answer.text == example.answer)
        ]
        rates.append(Rate(task, chat, len(of_task), len(of_task) - len(wrong)))
        if failures is not None:
            failures += wrong
    return rates


def report(tutor: Tutor, rates: Sequence[Rate]) -> str:
    """The measurements as Markdown."""
    rows = [
        f"| {rate.task} | {'chat' if rate.chat else 'plain'} | {rate.prompts} | {rate.right / rate.prompts:.1%} |"
        for rate in rates
    ]
    stories = tutor.stories(STORY_PROMPT, STORIES)
    different = len({story.text for story in stories})
    ended = sum(story.ended for story in stories)
    return "\n".join(
        (
            "| task | form | held-out prompts | right |",
            "|---|---|---:|---:|",
            *rows,
            "",
            f"`{STORY_PROMPT}` at temperature 1, {STORIES} seeds: {different} different stories, "
            f"{ended} of which end by themselves.",
            "",
            "| prompt | form | greedy answer |",
            "|---|---|---|",
            *(_quoted(tutor, prompt, chat=chat) for prompt, chat in QUOTED),
        )
    )


def write(card: Path, measured: str) -> None:
    """Puts the measurements between the marks of the model card."""
    before, rest = card.read_text(encoding="utf-8").split(BEGIN_MARK)
    _, after = rest.split(END_MARK)
    card.write_text(f"{before}{BEGIN_MARK}\n\n{measured}\n\n{END_MARK}{after}", encoding="utf-8")


def _row(example: Example) -> tuple[str, bool]:
    return example.task, example.chat


def _quoted(tutor: Tutor, prompt: str, *, chat: bool) -> str:
    answer = tutor.answers([prompt], chat=chat)[0].text
    return f"| `{prompt}` | {'chat' if chat else 'plain'} | `{answer}` |"


def main() -> None:
    """Prints the measurements and, if told so, writes them down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="the checkpoint (default: %(default)s)")
    parser.add_argument(
        "--prompts", type=int, default=PROMPTS_PER_TASK, help="at most, per task (default: %(default)s)"
    )
    parser.add_argument("--write", action="store_true", help="put the table into the checkpoint's README.md")
    parser.add_argument("--failures", action="store_true", help="print every wrong answer")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    tutor = Tutor.load(arguments.folder)
    failures: list[str] = []
    measured = report(tutor, measure(tutor, held_out(SEED, arguments.prompts), failures))
    print(measured)
    if arguments.failures:
        print(*failures, sep="\n")
    if arguments.write:
        write(arguments.folder / "README.md", measured)


if __name__ == "__main__":
    main()
