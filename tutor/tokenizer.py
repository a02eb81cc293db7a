"""The byte-level BPE tokenizer, its chat template, and documents as token ids."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from .compose import Document

VOCABULARY_SIZE = 2048
NUMBER_COPIES = 200
CONTEXT_LENGTH = 512
"""Tokens that prompt and answer may have together; the longest rows of the training."""

PAD, BEGIN, END, END_OF_TURN = "<|pad|>", "<|begin|>", "<|end|>", "<|end_of_turn|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}

WORDS = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Pieces that no token crosses: words with the space before them, one or two digits, runs of marks, white space."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('Roles are system, user and assistant, not ' + message['role']) }}"
    "{% endif %}"
    f"{{{{ '<|' + message['role'] + '|>' + message['content'] + '{END_OF_TURN}' }}}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{ROLES['assistant']}' }}}}{{% endif %}}"
)

NOT_LEARNED = -100
"""The label of a token that the loss leaves out."""


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer of `VOCABULARY_SIZE` tokens, any text and back; it puts `BEGIN` before a plain text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(chain(texts, _numbers()), _trainer())
    begin = tokenizer.token_to_id(BEGIN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B:1", special_tokens=[(BEGIN, begin)]
    )
    return tokenizer


def texts(document: Document) -> list[str]:
    """The texts of the document, for training the tokenizer."""
    return [document.text, *(message.content for message in document.messages)]


def encode(tokenizer: Tokenizer, document: Document) -> tuple[list[int], list[int]]:
    """Token ids and labels, of the same length; what the user and the system say is not learned."""
    ids: list[int] = []
    labels: list[int] = []
    for text, learned in _segments(document):
        segment = tokenizer.encode(text, add_special_tokens=False).ids
        ids += segment
        labels += segment if learned else [NOT_LEARNED] * len(segment)
    return ids, labels


def _segments(document: Document) -> list[tuple[str, bool]]:
    if not document.messages:
        return [(BEGIN + document.text + END, True)]
    segments = [(BEGIN, True)]
    for message in document.messages:
        segments.append((ROLES[message.role], False))
        segments.append((message.content + END_OF_TURN, message.role == "assistant"))
    return segments


def _numbers() -> list[str]:
    """Every number below a hundred, often enough to become one token, with and without a space before it."""
    return [f"{space}{number}" for number in range(100) for space in ("", " ")] * NUMBER_COPIES


def _trainer() -> trainers.BpeTrainer:
    special = [AddedToken(token, special=True) for token in (PAD, BEGIN, END, END_OF_TURN, *ROLES.values())]
    return trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
