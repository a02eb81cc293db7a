"""The tokenizer as a gateway needs it: the serialized backend of the loaded AutoTokenizer, and what that leaves out."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer, ready to be sent."""

    serialized: bytes
    """Text of a tokenizer.json."""
    chat_template: str
    """Jinja template; empty if the model has none."""
    special_tokens: Mapping[str, str]
    """Named special tokens, such as bos_token."""
    clean_up_tokenization_spaces: bool
    clean_up_bpe: bool = False
    """Whether it cleans up although it is of the BPE kind, which transformers otherwise leaves alone."""
    split_special_tokens: bool = False
    """Whether the text of a special token in a prompt is tokenized like other text."""

    @property
    def sha256(self) -> str:
        """Returns the hash of the serialized tokenizer, in hexadecimal digits."""
        return hashlib.sha256(self.serialized).hexdigest()

    def chunks(self) -> Iterator[bytes]:
        """Yields the serialized tokenizer in parts of at most 1 MiB."""
        for begin in range(0, len(self.serialized), CHUNK_BYTES):
            yield self.serialized[begin : begin + CHUNK_BYTES]


def tokenizer_files(tokenizer: Any) -> TokenizerFiles:  # noqa: ANN401 - transformers' tokenizers are untyped here
    """Returns the files of a transformers fast tokenizer, with the chat template that is named `default` of several."""
    special = {name: str(text) for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
    return TokenizerFiles(
        serialized=tokenizer.backend_tokenizer.to_str().encode(),
        chat_template=_chat_template(tokenizer.chat_template),
        special_tokens=special,
        clean_up_tokenization_spaces=bool(tokenizer.clean_up_tokenization_spaces),
        clean_up_bpe=bool(tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output),
        split_special_tokens=bool(tokenizer.split_special_tokens),
    )


def _chat_template(template: str | Mapping[str, str] | None) -> str:
    if template is None or isinstance(template, str):
        return template or ""
    if "default" not in template:
        logger.warning(
            "the model has chat templates named %s and none named default: chats are refused, plain text is served",
            ", ".join(sorted(template)),
        )
    return template.get("default", "")
