"""Checks how long the lists of a request are, while it still is a message. Pure.

Values made of the millions of empty messages that fit into a few megabytes would keep every other call waiting for half
a minute. What is in the lists is checked later, by `limits`.
"""

from collections.abc import Iterator

from textserve.v1 import generation_pb2 as pb

from .config_limits import MAX_BAD_WORDS, MAX_LOGIT_BIASES, out_of_range
from .errors import Violation
from .limits import MAX_CHAT_MESSAGES
from .resumption import FIELD as RESUMED
from .resumption import MAX_RESUMED_CANDIDATES


def list_violations(message: pb.GenerateRequest) -> Iterator[Violation]:
    """The lists with more than they may have."""
    config = message.generation_config
    counts = (
        ("chat.messages", len(message.chat.messages), MAX_CHAT_MESSAGES),
        ("generation_config.bad_words_ids", len(config.bad_words_ids), MAX_BAD_WORDS),
        ("generation_config.logit_bias", len(config.logit_bias), MAX_LOGIT_BIASES),
        (RESUMED, len(message.resume_from.candidates), MAX_RESUMED_CANDIDATES),
    )
    for field, count, limit in counts:
        if count > limit:
            yield out_of_range(field, f"must have at most {limit}, has {count}")
