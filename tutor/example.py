"""What the composer makes: prompts with their answers, and the rule that holds some of them out of training."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from random import Random
from typing import Protocol

HELD_OUT_ONE_IN = 12


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


@dataclass(frozen=True)
class Example:
    """A prompt and the answer that the model is to give, which ends with an end token."""

    task: str
    """The row of the model card's table that it counts for."""
    prompt: str
    """A plain text to continue, or the question of a chat."""
    answer: str
    """What follows the prompt; in a chat, the whole of the assistant's turn."""
    chat: bool = False
    """Whether the prompt is asked through the chat template."""


class Composer(Protocol):
    """Makes one example; every choice comes from `rng`."""

    def __call__(self, rng: Random) -> Example: ...


def is_held_out(prompt: str) -> bool:
    """Whether the prompt is for measuring only: a fixed one in twelve, by its text alone."""
    return zlib.crc32(prompt.encode()) % HELD_OUT_ONE_IN == 0


def capitalized(text: str) -> str:
    """The text with its first letter as a capital and the rest as it was."""
    return text[:1].upper() + text[1:]
