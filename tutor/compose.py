"""Composes the training text and the prompts to measure with: pure, seeded, without downloads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from random import Random

from . import arithmetic, chat, facts, lists, objects, stories
from .example import Composer, Example, Message, is_held_out

WEIGHTS: Mapping[Composer, int] = {
    lists.category: 10,
    lists.calendar: 4,
    lists.chain: 2,
    lists.letters: 4,
    lists.counting: 5,
    lists.stepping: 3,
    arithmetic.formula: 16,
    arithmetic.question: 20,
    objects.chat_object: 12,
    objects.plain_object: 5,
    facts.question: 16,
    facts.plain_question: 3,
    facts.statement: 3,
    chat.talk: 5,
    chat.naming: 4,
    stories.story: 6,
    stories.chat_story: 2,
}
"""How often each kind of example is drawn."""

LEARNED_WHOLE = ("small talk", "names", "stories", "statements")
"""Tasks of which nothing is held out: their prompts are few, or stand in answers too, or their answers are free."""

CONVERSATION_CHANCE = 0.25
SYSTEM_CHANCE = 0.25
WRAPPED_CHANCE = 0.2


@dataclass(frozen=True)
class Document:
    """One training document: a plain text, or a chat that ends with the assistant's turn."""

    text: str = ""
    messages: tuple[Message, ...] = ()


def documents(seed: int) -> Iterator[Document]:
    """Training documents without end, the same ones for the same seed, none of which holds a held-out prompt."""
    rng = Random(seed)
    while True:
        example = _training_example(rng)
        yield _conversation(rng, example) if example.chat else Document(text=example.prompt + example.answer)


def held_out(seed: int, count_per_task: int) -> list[Example]:
    """Different examples whose prompts no training document holds, at most `count_per_task` for each task."""
    rng = Random(seed)
    found: dict[str, dict[str, Example]] = {}
    for example in islice(_examples(rng), 40 * count_per_task * len(WEIGHTS)):
        of_task = found.setdefault(_row(example), {})
        if is_held_out(example.prompt) and example.task not in LEARNED_WHOLE and len(of_task) < count_per_task:
            of_task.setdefault(example.prompt, example)
    return [example for of_task in found.values() for example in of_task.values()]


def _row(example: Example) -> str:
    return f"{example.task} {'chat' if example.chat else 'plain'}"


def _examples(rng: Random) -> Iterator[Example]:
    composers, weights = list(WEIGHTS), list(WEIGHTS.values())
    while True:
        yield rng.choices(composers, weights)[0](rng)


def _training_example(rng: Random) -> Example:
    return next(example for example in _examples(rng) if _may_be_learned(example))


def _may_be_learned(example: Example) -> bool:
    """Every line counts by itself, so that no worked line or quoted question gives a held-out prompt away."""
    return example.task in LEARNED_WHOLE or not any(map(is_held_out, _asked(example.prompt)))


def _asked(prompt: str) -> list[str]:
    """The prompt, its lines, and what is behind the colon of a line such as `Q: ...`."""
    lines = prompt.split("\n")
    return [prompt, *lines, *(line.split(": ", 1)[-1] for line in lines)]


def _conversation(rng: Random, example: Example) -> Document:
    """The example as a chat of its own, or as a turn among others."""
    turns = _with_company(rng, example) if rng.random() < CONVERSATION_CHANCE else [example]
    messages = [Message("system", rng.choice(chat.SYSTEMS))] if rng.random() < SYSTEM_CHANCE else []
    for turn in turns:
        asked = chat.wrapped(rng, turn.prompt) if rng.random() < WRAPPED_CHANCE else turn.prompt
        messages += [Message("user", asked), Message("assistant", turn.answer)]
    return Document(messages=tuple(messages))


def _with_company(rng: Random, example: Example) -> list[Example]:
    """The example among one or two other turns."""
    told, asked = rng.choice((chat.introduction, chat.liking))(rng)
    other = _chat_example(rng)
    return rng.choice(
        ([other, example], [other, _chat_example(rng), example], [told, asked, example], [told, example, asked])
    )


def _chat_example(rng: Random) -> Example:
    while not (example := _training_example(rng)).chat:
        pass
    return example
