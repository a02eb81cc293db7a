"""How long the lists of a request may be, and what work goes with them. Pure.

One table, used twice: on the wire before a large message is parsed (`wire`), and on the message. Values made of the
millions of empty messages that fit into a few megabytes would keep every other call waiting for half a minute. What is
in the lists is checked later, by `limits`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from textserve.v1 import generation_pb2 as pb

from ..domain.errors import Violation
from ..request.config_limits import (
    MAX_BAD_WORD_TOKENS,
    MAX_BAD_WORDS,
    MAX_LOGIT_BIASES,
    MAX_STOP_TOKEN_IDS,
    MAX_TOKEN_IDS,
    out_of_range,
)
from ..request.resumption import MAX_RESUMED_CANDIDATES
from ..request.validation import MAX_CHAT_MESSAGES, MAX_PROMPT_IDS, MAX_STOP_SEQUENCES


@dataclass(frozen=True, slots=True)
class ListLimit:
    """What is known of a list before it is looked into."""

    most: int
    """Entries that it may have."""

    chars: int = 1
    """The work that an entry brings, in characters of a prompt that take as long; without what is in it."""


LISTS: dict[str, ListLimit] = {
    "chat.messages": ListLimit(MAX_CHAT_MESSAGES, chars=16),
    "tokens.ids": ListLimit(MAX_PROMPT_IDS),
    "stop_sequences": ListLimit(MAX_STOP_SEQUENCES),
    "generation_config.bad_words_ids": ListLimit(MAX_BAD_WORDS, chars=4),
    "generation_config.bad_words_ids.ids": ListLimit(MAX_BAD_WORD_TOKENS),
    "generation_config.logit_bias": ListLimit(MAX_LOGIT_BIASES, chars=4),
    "generation_config.allowed_token_ids": ListLimit(MAX_TOKEN_IDS),
    "generation_config.stop_token_ids": ListLimit(MAX_STOP_TOKEN_IDS),
    "generation_config.suppress_tokens": ListLimit(MAX_TOKEN_IDS),
    "generation_config.begin_suppress_tokens": ListLimit(MAX_TOKEN_IDS),
    "resume_from.candidates": ListLimit(MAX_RESUMED_CANDIDATES, chars=16),
    # Each is decoded and searched for stop sequences, as if it had just been generated.
    "resume_from.candidates.token_ids": ListLimit(MAX_PROMPT_IDS, chars=16),
}
"""Every repeated field of GenerateRequest, by its path."""

ECHO_CHARS = 16
"""The work that a token of an echoed prompt brings: it is decoded like an output."""


def list_violations(message: pb.GenerateRequest) -> Iterator[Violation]:
    """The lists with more than they may have."""
    for path, limit in LISTS.items():
        for field, entries in _lists(message, path):
            if len(entries) > limit.most:
                yield too_many(field, limit.most)


def too_many(field: str, limit: int) -> Violation:
    """A list with more entries than it may have. How many more is not counted, so that nobody has to wait for it."""
    return out_of_range(field, f"must have at most {limit} entries, has more")


def work_chars(message: pb.GenerateRequest) -> int:
    """How much work a request within its limits is, in characters of a prompt that take as long to tokenize."""
    prompt = message.text if message.WhichOneof("prompt") == "text" else ""
    chat = sum(len(turn.role) + len(turn.content) for turn in message.chat.messages)
    work = len(prompt) + chat + sum(map(len, message.stop_sequences))
    for path, limit in LISTS.items():
        work += sum(limit.chars * len(entries) for _, entries in _lists(message, path))
    if message.output_options.echo:
        work += ECHO_CHARS * (len(prompt) + chat + len(message.tokens.ids))
    return work


def _lists(message: pb.GenerateRequest, path: str) -> Iterator[tuple[str, Any]]:
    """The lists at a path, each with its own path; of those within a list, no more than there may be."""
    *outer, last = path.split(".")
    owners: list[tuple[str, Any]] = [("", message)]
    for depth, name in enumerate(outer, start=1):
        limit = LISTS.get(".".join(outer[:depth]))
        owners = [inner for field, owner in owners for inner in _inside(field + name, getattr(owner, name), limit)]
    return ((field + last, getattr(owner, last)) for field, owner in owners)


def _inside(field: str, value: Any, limit: ListLimit | None) -> list[tuple[str, Any]]:  # noqa: ANN401 - a message or a list
    if limit is None:
        return [(f"{field}.", value)]
    return [(f"{field}[{index}].", entry) for index, entry in enumerate(value[: limit.most])]
