"""Requests for small JSON objects."""

from __future__ import annotations

import json
from random import Random

from .example import Example
from .words import CATEGORIES, NAMES

REQUESTS = (
    "Write a JSON object with {}.",
    "Make a JSON object with {}.",
    "Give me a JSON object with {}.",
    "Create a JSON object with {}.",
    "Write JSON with {}.",
    "A JSON object with {}:",
)
CHOICES = {name: CATEGORIES[name] for name in ("color", "city", "animal", "fruit", "job", "food")}
OLDEST = 30


def chat_object(rng: Random) -> Example:
    """A request in a chat, answered by the object alone."""
    request, answer = _request(rng)
    return Example("JSON objects", request, answer, chat=True)


def plain_object(rng: Random) -> Example:
    """A request in plain text; the object stands on the next line."""
    request, answer = _request(rng)
    return Example("JSON objects", request, "\n" + answer)


def _request(rng: Random) -> tuple[str, str]:
    fields = _fields(rng)
    described = [f"{key} {json.dumps(value).strip(chr(34))}" for key, value in fields.items()]
    return rng.choice(REQUESTS).format(_enumeration(described)), json.dumps(fields)


def _fields(rng: Random) -> dict[str, str | int]:
    keys = rng.choice((["name", "age"], ["name", "age"], ["name"], ["age"]))
    if len(keys) == 1 and rng.random() < 0.8:
        keys = [*keys, rng.choice(list(CHOICES))]
    return {key: _value(rng, key) for key in keys}


def _value(rng: Random, key: str) -> str | int:
    if key == "age":
        return rng.randint(1, OLDEST)
    return rng.choice(NAMES if key == "name" else CHOICES[key])


def _enumeration(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
