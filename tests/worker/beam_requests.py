"""Random requests for beam search, and what `generate()` makes of each alone."""

import math
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.worker.tiny_models import VOCAB_SIZE
from worker.domain.sequence import EarlyStopping
from worker.engine.beam_search import BeamSearch, Hypothesis

TRANSFORMERS_NAME: dict[EarlyStopping, bool | str] = {
    EarlyStopping.HEURISTIC: False,
    EarlyStopping.FIRST: True,
    EarlyStopping.NEVER: "never",
}
SCORE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Request:
    """A prompt and how it is to be searched."""

    prompt: list[int]
    num_beams: int
    num_return_sequences: int
    length_penalty: float
    early_stopping: EarlyStopping
    max_new_tokens: int
    eos_token_ids: frozenset[int]
    min_new_tokens: int = 0
    suppress_tokens: tuple[int, ...] = ()

    def search(self) -> BeamSearch:
        return BeamSearch(
            num_beams=self.num_beams,
            num_return_sequences=self.num_return_sequences,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
            max_new_tokens=self.max_new_tokens,
            eos_token_ids=self.eos_token_ids,
        )

    def mask(self, log_probs: Tensor, length: int) -> Tensor:
        """Does what transformers' processors do for min_new_tokens and suppress_tokens."""
        masked = [*self.suppress_tokens, *(self.eos_token_ids if length < self.min_new_tokens else ())]
        return log_probs.index_fill(1, torch.tensor(masked, dtype=torch.long), -math.inf)


def random_request(rng: random.Random, length_penalty: float, early_stopping: EarlyStopping) -> Request:
    num_beams = rng.randint(2, 6)
    max_new_tokens = rng.randint(1, 20)
    eos_token_ids = rng.sample(range(VOCAB_SIZE), rng.choice([0, 1, 8, 30, 60]))
    return Request(
        prompt=[rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 12))],
        num_beams=num_beams,
        num_return_sequences=rng.randint(1, num_beams),
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        max_new_tokens=max_new_tokens,
        eos_token_ids=frozenset(eos_token_ids),
        min_new_tokens=rng.choice([0, 0, rng.randint(1, max_new_tokens)]),
        suppress_tokens=tuple(rng.sample(range(VOCAB_SIZE), rng.choice([0, 0, 100]))),
    )


def random_requests(count: int, length_penalty: float, early_stopping: EarlyStopping) -> list[Request]:
    rng = random.Random(f"{length_penalty} {early_stopping.name}")
    return [random_request(rng, length_penalty, early_stopping) for _ in range(count)]


def generate(model: Any, request: Request) -> list[Hypothesis]:
    prompt = torch.tensor([request.prompt])
    answer = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        num_beams=request.num_beams,
        num_return_sequences=request.num_return_sequences,
        length_penalty=request.length_penalty,
        early_stopping=TRANSFORMERS_NAME[request.early_stopping],
        max_new_tokens=request.max_new_tokens,
        min_new_tokens=request.min_new_tokens,
        suppress_tokens=list(request.suppress_tokens) or None,
        eos_token_id=sorted(request.eos_token_ids) or None,
        pad_token_id=0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    outputs = answer.sequences[:, prompt.shape[1] :].tolist()
    lengths = (answer.beam_indices >= 0).sum(dim=1).tolist()
    scores = answer.sequences_scores.tolist()
    found = zip(outputs, lengths, scores, strict=True)
    return [Hypothesis(output[:length], score) for output, length, score in found]


def agree(ours: list[Hypothesis], theirs: list[Hypothesis]) -> bool:
    same_tokens = [each.tokens for each in ours] == [each.tokens for each in theirs]
    return same_tokens and all(
        math.isclose(a.score, b.score, rel_tol=1e-6, abs_tol=SCORE_TOLERANCE) for a, b in zip(ours, theirs, strict=True)
    )
