"""Runs requests through the engine and through `generate()` alone, and compares: the measure of exactness."""

import math
import random
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worker.engine import Engine, Memory
from worker.memory import probe_shapes
from worker.model_runner import ModelRunner
from worker.sampling import Sampled, sample
from worker.scheduler import Limits, Scheduler
from worker.sequence import SamplingParameters, Sequence

LOGITS_TOLERANCE = 1e-4
LIMITS = Limits(max_rows=8, context_length=64, group_tokens=160, chunk_tokens=24, idle_chunk_tokens=48)
COLUMNS = 96
EOS_TOKEN_IDS = (1, *range(20, 30))
"""Many, so that random models end some sequences by themselves."""


@dataclass
class Recorder:
    """A sampler that remembers the logits of every step, by sequence."""

    logits: dict[int, list[Tensor]] = field(default_factory=dict)
    forced: dict[int, list[int]] = field(default_factory=dict)
    """Tokens to take instead of the sampled ones (teacher forcing), by sequence."""

    def __call__(self, logits: Tensor, rows: Rows[Sequence]) -> Sampled:
        sampled = sample(logits, rows)
        tokens = list(sampled.tokens)
        for index, row in enumerate(rows):
            self.logits.setdefault(row.sequence_id, []).append(logits[index].float().clone())
            if row.sequence_id in self.forced:
                tokens[index] = self.forced[row.sequence_id][len(row.output)]
        return Sampled(tokens, sampled.finite)


def engine_for(model: Any, recorder: Recorder) -> Engine:
    device = torch.device("cpu")
    memory = Memory(probe_shapes(model), LIMITS.max_rows, COLUMNS, device, pad_token_id=0)
    runner = ModelRunner(model, takes_position_ids=True, device=device)
    return Engine(runner, Scheduler(LIMITS, EOS_TOKEN_IDS), memory, sampler=recorder)


def mixed_sequences(count: int, seed: int, *, vocab_size: int, **parameters: Any) -> list[Sequence]:
    """Returns requests with prompts of 1 to 40 tokens and outputs of 1 to 24."""
    rng = random.Random(seed)
    return [
        Sequence(
            sequence_id=number,
            prompt=[rng.randrange(2, vocab_size) for _ in range(rng.randint(1, 40))],
            parameters=SamplingParameters(max_new_tokens=rng.randint(1, 24), seed=number, **parameters),
        )
        for number in range(count)
    ]


def run_with_random_arrivals(engine: Engine, sequences: Rows[Sequence], seed: int, cancelled: Rows[int] = ()) -> None:
    """Submits the sequences at random times, cancels some while they run, and runs until all have ended."""
    rng = random.Random(seed)
    waiting = list(sequences)
    scheduler = engine.scheduler
    while waiting or scheduler.has_work:
        while waiting and rng.random() < 0.5:
            scheduler.submit(waiting.pop(0))
        for sequence in (s for s in scheduler.running if s.sequence_id in cancelled and len(s.output) >= 2):
            scheduler.cancel([sequence])
        engine.step()


@dataclass(frozen=True)
class Alone:
    """What `generate()` makes of one prompt."""

    tokens: list[int]
    logits: list[Tensor]


def generate_alone(model: Any, sequence: Sequence) -> Alone:
    prompt = torch.tensor([sequence.prompt])
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=sequence.parameters.max_new_tokens,
        do_sample=False,
        eos_token_id=list(EOS_TOKEN_IDS),
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return Alone(output.sequences[0, prompt.shape[1] :].tolist(), [step[0].float() for step in output.logits])


def largest_difference(ours: Rows[Tensor], theirs: Rows[Tensor]) -> float:
    """Returns the largest absolute difference of any logit of any step; NaN counts as infinite."""
    differences = [float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=False)]
    return max((float("inf") if math.isnan(d) else d for d in differences), default=0.0)


def mismatches(model: Any, recorder: Recorder, sequences: Rows[Sequence]) -> list[str]:
    """Compares each sequence with `generate()` on its prompt alone; a cancelled one as far as it came.

    Returns one line for each sequence whose tokens or logits differ.
    """
    lines = []
    for sequence in sequences:
        alone = generate_alone(model, sequence)
        difference = largest_difference(recorder.logits.get(sequence.sequence_id, []), alone.logits)
        whole = sequence.status.name.startswith("FINISHED")
        expected = alone.tokens if whole else alone.tokens[: len(sequence.output)]
        if sequence.output != expected or difference > LOGITS_TOLERANCE:
            lines.append(f"{sequence.sequence_id}: logits differ by {difference:.2g}, {sequence.output} != {expected}")
    return lines
