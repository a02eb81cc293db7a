"""Sequences without a model or a worker, for tests of what they do with tokens."""

from gateway.domain.request import OutputOptions
from gateway.domain.sequence import Sequence
from gateway.text.detokenizer import Detokenizer
from gateway.text.output_text import OutputText, Stopping
from gateway.text.tokenizer import Tokenizer, TokenizerFacts
from tests.fakes import TOKENIZER, ids

FACTS = TokenizerFacts(chat_template="", special_tokens={}, clean_up_tokenization_spaces=False)


def sequence(
    *stop_sequences: str,
    keeps_token_ids: bool = False,
    output: OutputOptions | None = None,
    stop_token_ids: frozenset[int] = frozenset(),
    min_new_tokens: int = 0,
    is_included: bool = False,
) -> Sequence:
    tokenizer = Tokenizer.from_parts(TOKENIZER.to_str().encode(), FACTS)
    return Sequence(
        sequence_id=1,
        candidate_index=0,
        seed=0,
        text=OutputText(
            Detokenizer(tokenizer, ids("prompt"), skip_special_tokens=True),
            Stopping(stop_sequences, stop_token_ids, min_new_tokens, is_included),
        ),
        output=output or OutputOptions(token_ids=keeps_token_ids),
        arrived_at=10.0,
    )


def push(sequence: Sequence, text: str, now: float = 11.0) -> None:
    for token_id in ids(text):
        sequence.push(token_id, now)


def taken(sequence: Sequence) -> str:
    delta = sequence.take()
    return delta.text if delta else ""
