"""Sums and differences of small numbers, as formulas and as questions."""

from __future__ import annotations

from random import Random

from .example import Example, is_held_out

LARGEST_TERM = 10
MORE_CHANCE = 0.1
"""Chance of one more worked line before the last one."""

QUESTIONS = {
    "+": (
        "What is {} plus {}?",
        "What is {} + {}?",
        "How much is {} plus {}?",
        "How much is {} + {}?",
        "Add {} and {}.",
        "Calculate {} + {}.",
        "{} + {} = ?",
        "What is the sum of {} and {}?",
    ),
    "-": (
        "What is {} minus {}?",
        "What is {} - {}?",
        "How much is {} minus {}?",
        "Calculate {} - {}.",
        "{} - {} = ?",
    ),
}
FORMULAS = {
    "+": ("{} + {} =", "{}+{}=", "{} plus {} is", "{} and {} make"),
    "-": ("{} - {} =", "{}-{}=", "{} minus {} is"),
}
TASKS = {"+": "additions", "-": "subtractions"}


def formula(rng: Random) -> Example:
    """One formula, or several of the same form, one a line, of which the last is to be solved."""
    operator = _operator(rng)
    form = rng.choice(FORMULAS[operator])
    lines: list[str] = []
    while rng.random() < MORE_CHANCE:
        worked, result = _solved(rng, operator, form)
        if not is_held_out(worked):
            lines.append(worked + result)
    prompt, answer = _solved(rng, operator, form)
    return Example(TASKS[operator], "\n".join((*lines, prompt)), answer)


def question(rng: Random) -> Example:
    """A sum or difference asked in a chat; the answer is the number alone."""
    operator = _operator(rng)
    left, right, result = _terms(rng, operator)
    return Example(TASKS[operator], rng.choice(QUESTIONS[operator]).format(left, right), str(result), chat=True)


def _operator(rng: Random) -> str:
    return rng.choice("++-")


def _terms(rng: Random, operator: str) -> tuple[int, int, int]:
    left, right = rng.randint(0, LARGEST_TERM), rng.randint(0, LARGEST_TERM)
    if operator == "+":
        return left, right, left + right
    left, right = max(left, right), min(left, right)
    return left, right, left - right


def _solved(rng: Random, operator: str, form: str) -> tuple[str, str]:
    left, right, result = _terms(rng, operator)
    space = "" if form.endswith("}=") else " "
    return form.format(left, right), space + str(result)
