"""Generations without a model, for tests of what carries them about."""

import itertools

from gateway.detokenizer import Detokenizer
from gateway.effective import resolve
from gateway.generation import Generation
from gateway.request import GenerationConfig, ModelFacts, OutputOptions
from gateway.sequence import Sequence
from gateway.stopping import StopMatcher
from gateway.tokenizer import Tokenizer, TokenizerFacts
from tests.fakes import EOS, TOKENIZER, ids

_SEQUENCE_IDS = itertools.count(1)
_TOKENIZER = Tokenizer.from_parts(
    TOKENIZER.to_str().encode(),
    TokenizerFacts(chat_template="", special_tokens={}, clean_up_tokenization_spaces=False),
)
_FACTS = ModelFacts(
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
)


def generation(*stop_sequences: str, prompt: str = "ab", candidate_count: int = 1) -> Generation:
    """A generation that waits."""
    prompt_ids = ids(prompt)
    sequences = tuple(
        Sequence(
            sequence_id=next(_SEQUENCE_IDS),
            candidate_index=index,
            seed=index,
            detokenizer=Detokenizer(_TOKENIZER, prompt_ids, skip_special_tokens=True),
            stop_matcher=StopMatcher(stop_sequences),
            arrived_at=0.0,
            keeps_token_ids=False,
        )
        for index in range(candidate_count)
    )
    config = resolve(GenerationConfig(), GenerationConfig(), room=500, seed=1)
    return Generation(_FACTS, prompt_ids, "", config, OutputOptions(), sequences)
