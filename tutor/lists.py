"""Lists and sequences in plain text: colours, numbers, letters, days and their like."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from .example import Example, capitalized
from .words import CATEGORIES, DAYS, LETTERS, MONTHS, NUMBERS, ORDINALS, PLANETS, SEASONS, british, plural

GIVEN_COUNT = 2
"""Items of a list that belong to its prompt."""

HEADERS = (
    "A list of {}: ",
    "List of {}: ",
    "{}: ",
    "Some {}: ",
    "Here are some {}: ",
    "Here is a list of {}: ",
    "A few {}: ",
    "My favorite {}: ",
    "These are {}: ",
    "",
)
SEQUENCE_HEADERS = (
    "A sequence of {}: ",
    "A list of {}: ",
    "Sequence of {}: ",
    "List of {}: ",
    "{}: ",
    "Here are some {}: ",
    "Here is a list of {}: ",
    "The {}: ",
    "Some {}: ",
    "The {} in order: ",
    "",
)
CALENDAR = {
    "days": DAYS,
    "days of the week": DAYS,
    "weekdays": DAYS,
    "months": MONTHS,
    "months of the year": MONTHS,
    "seasons": SEASONS,
}
CHAINS = {
    "planets": PLANETS,
    "number words": NUMBERS,
    "ordinals": ORDINALS,
}


def category(rng: Random) -> Example:
    """A list of things of one kind in their usual order, from somewhere in its first half to the end."""
    name = rng.choice(list(CATEGORIES))
    items = CATEGORIES[name]
    items = items[rng.randrange(len(items) // 2) :]
    if rng.random() < 0.15:
        items = [capitalized(item) for item in items]
    spelling = british if rng.random() < 0.5 else str
    header = _header(rng, HEADERS, plural(name))
    return _split("category lists", spelling(header), [spelling(item) for item in items])


def calendar(rng: Random) -> Example:
    """Days, months or seasons, from any of them to the last."""
    name = rng.choice(list(CALENDAR))
    items = CALENDAR[name]
    return _sequence(rng, name, items[rng.randrange(len(items) - GIVEN_COUNT) :])


def chain(rng: Random) -> Example:
    """Things that have a first and a last, from somewhere in their first half to the end."""
    name = rng.choice(list(CHAINS))
    items = CHAINS[name]
    return _sequence(rng, name, items[rng.randrange(len(items) // 2) :])


def letters(rng: Random) -> Example:
    """The alphabet, from any of its letters to Z."""
    first = 0 if rng.random() < 0.3 else rng.randrange(len(LETTERS) - GIVEN_COUNT)
    items = LETTERS[first:]
    if rng.random() < 0.3:
        items = [letter.lower() for letter in items]
    return _sequence(rng, rng.choice(("letters", "letters", "letters of the alphabet")), items)


def counting(rng: Random) -> Example:
    """Numbers that go up by one to 20."""
    first = rng.choice((0, 1, 1, rng.randrange(18)))
    return _sequence(rng, "numbers", _numbers(first, 1, 20))


def stepping(rng: Random) -> Example:
    """Even, odd and round numbers, and numbers that go down to one."""
    name, items = rng.choice(
        (
            ("even numbers", _numbers(2, 2, 20)),
            ("odd numbers", _numbers(1, 2, 19)),
            ("numbers", _numbers(10, 10, 100)),
            ("numbers", _numbers(rng.randrange(4, 21), -1, 1)),
        )
    )
    return _sequence(rng, name, items)


def _sequence(rng: Random, name: str, items: Sequence[str]) -> Example:
    return _split("sequences", _header(rng, SEQUENCE_HEADERS, name), items)


def _header(rng: Random, headers: Sequence[str], name: str) -> str:
    return capitalized(rng.choice(headers).format(name))


def _split(task: str, header: str, items: Sequence[str]) -> Example:
    """The list as a prompt that holds its first items, and the rest as the answer."""
    given, rest = items[:GIVEN_COUNT], items[GIVEN_COUNT:]
    return Example(task, header + ", ".join(given), "".join(", " + item for item in rest))


def _numbers(first: int, step: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last + (1 if step > 0 else -1), step)]
