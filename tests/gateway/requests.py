"""Requests of the domain, for tests of what is checked in them."""

from gateway.domain.generation_config import GenerationConfig
from gateway.domain.request import ModelFacts, Request, TemplateFacts, TextPrompt
from gateway.request.validation import request_violations

FACTS = ModelFacts(
    name="tutor",
    architecture="FakeForCausalLM",
    context_length=100,
    vocab_size=50,
    quantization="nf4",
    quantized_share=0.5,
    fingerprint="f",
    generation_defaults=GenerationConfig(),
    eos_token_ids=(1,),
    tokenizer_sha256="h",
    max_rows=8,
    prompt_logprobs_limit=40,
    pool_tokens=150,
)
GOOD = Request(TextPrompt("hello"))


def fields(request: Request, facts: ModelFacts = FACTS, *, has_chat_template: bool = True) -> list[str]:
    """The paths of everything that is wrong with a request."""
    return [violation.field for violation in request_violations(request, facts, TemplateFacts(has_chat_template))]
