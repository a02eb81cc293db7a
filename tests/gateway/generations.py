"""Generations without a model, for tests of what carries them about."""

import itertools

from gateway.domain.generation import Generation
from gateway.domain.generation_config import GenerationConfig
from gateway.domain.request import ModelFacts, OutputOptions
from gateway.domain.sequence import Sequence
from gateway.request.defaults import resolve
from gateway.text.detokenizer import Detokenizer
from gateway.text.output_text import OutputText, Stopping
from gateway.text.tokenizer import Tokenizer, TokenizerFacts
from tests.fakes import EOS, TOKENIZER, ids

_TEXT_ALONE = OutputOptions()
_SEQUENCE_IDS = itertools.count(1)
_TOKENIZER = Tokenizer.from_parts(
    TOKENIZER.to_str().encode(),
    TokenizerFacts(chat_template="", special_tokens={}, clean_up_tokenization_spaces=False),
)
FACTS = ModelFacts(
    name="tutor",
    architecture="FakeForCausalLM",
    context_length=1000,
    vocab_size=300,
    quantization="nf4",
    quantized_share=0.5,
    fingerprint="f",
    generation_defaults=GenerationConfig(),
    eos_token_ids=(EOS,),
    tokenizer_sha256="h",
    max_rows=8,
    prompt_logprobs_limit=1000,
    pool_tokens=4000,
)


def generation(
    *stop_sequences: str,
    prompt: str = "ab",
    candidate_count: int = 1,
    output: OutputOptions = _TEXT_ALONE,
    stopping: Stopping | None = None,
    num_beams: int | None = None,
) -> Generation:
    """A generation that waits."""
    prompt_ids = ids(prompt)
    sequences = tuple(
        Sequence(
            sequence_id=next(_SEQUENCE_IDS),
            candidate_index=index,
            seed=index,
            text=OutputText(
                Detokenizer(_TOKENIZER, prompt_ids, skip_special_tokens=output.skip_special_tokens),
                stopping or Stopping(sequences=stop_sequences),
            ),
            output=output,
            arrived_at=0.0,
        )
        for index in range(candidate_count)
    )
    config = resolve(GenerationConfig(num_beams=num_beams), GenerationConfig(), room=500, seed=1)
    return Generation(FACTS, prompt_ids, prompt if output.echo else "", config, output, sequences)
