"""Runs requests through the engine and through `generate()` alone, and compares: the measure of exactness."""

import math
import random
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.worker.fake_model import frozen
from worker.domain.plan import Plan
from worker.domain.sequence import Root, SamplingParameters, Sequence
from worker.engine.engine import Engine, Memory
from worker.loading.probe import layer_layouts
from worker.memory.layout import prefills_whole
from worker.runners.model_runner import ModelRunner
from worker.sampling.sampler import Sampled, sample
from worker.scheduling.scheduler import Limits, Scheduler

LOGITS_TOLERANCE = 1e-4
EOS_TOKEN_IDS = (1, *range(20, 30))
"""Many, so that random models end some sequences by themselves."""
_NO_TOKEN_ID = 1 << 20


@dataclass(frozen=True)
class Scale:
    """How much memory an engine has, and how long requests to it are, in tokens."""

    context_length: int
    max_rows: int
    prompt_tokens: int
    """Of the longest prompt."""
    new_tokens: int
    """Of the longest output, but for the one that fills the context."""
    idle_chunk_tokens: int
    """Read at once while nothing runs. Recurrent prompts are read together up to this size."""


LARGE = Scale(64, 6, 40, 24, 48)
SMALL = Scale(32, 4, 20, 12, 40)
"""Enough for everything to happen that happens at the larger one, and a third of its steps."""
CONTEXT_LENGTH = LARGE.context_length


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
        return Sampled(tokens, sampled.finite, sampled.logprobs)


@dataclass
class Events:
    """What a run went through. Equality shows little where nothing happened."""

    padded_groups: int = 0
    """Prefill groups whose rows had different lengths."""
    chunked_groups: int = 0
    """Prefill groups that were read in several chunks."""
    joins: int = 0
    """Groups that joined while others ran."""
    departures: int = 0
    """Steps in which rows left while others ran."""
    slides: int = 0
    """Slides of the window."""
    reviews: int = 0
    """New views of the memory as rows and columns."""
    chunks: int = 0
    """Chunks of the present group so far."""

    def count(self, plan: Plan) -> None:
        """Counts in what a plan does."""
        if plan.opening:
            self.chunks = 0
            self.padded_groups += len({len(root.tokens) for root in plan.opening}) > 1
        self.chunks += plan.chunk is not None
        if plan.joining:
            self.chunked_groups += self.chunks > 1
            self.joins += bool(plan.decoding)
        self.departures += bool(plan.batch_rows)


def engine_for(model: Any, recorder: Recorder, scale: Scale = LARGE) -> Engine:
    """Returns an engine with little memory, so that much happens in it."""
    device = torch.device("cpu")
    layouts = layer_layouts(model)
    limits = Limits(
        max_rows=scale.max_rows,
        context_length=scale.context_length,
        pool_tokens=scale.max_rows * scale.context_length,
        group_tokens=4 * scale.prompt_tokens,
        chunk_tokens=scale.new_tokens,
        idle_chunk_tokens=scale.idle_chunk_tokens,
        prefills_whole=prefills_whole(layouts),
    )
    runner = ModelRunner.for_model(model, device)
    return Engine(runner, Scheduler(limits), Memory(layouts, device, pad_token_id=0), recorder, frozen)


def mixed_sequences(
    count: int, seed: int, *, vocab_size: int, scale: Scale = LARGE, **parameters: Any
) -> list[Sequence]:
    """Returns requests with prompts and outputs of 1 to as many tokens, behind one that makes the window slide.

    That one is short when it joins, and fills the context without an end: longer prompts that join shift it, and then
    the right edge comes before its last token.
    """
    rng = random.Random(seed)
    sizes = [(rng.randint(1, scale.prompt_tokens), rng.randint(1, scale.new_tokens)) for _ in range(count - 1)]
    end = frozenset(EOS_TOKEN_IDS)
    return [
        Sequence(
            sequence_id=number,
            prompt=[rng.randrange(2, vocab_size) for _ in range(prompt_tokens)],
            parameters=SamplingParameters(
                max_new_tokens=new_tokens, seed=number, eos_token_ids=end if number else frozenset(), **parameters
            ),
        )
        for number, (prompt_tokens, new_tokens) in enumerate([(2, scale.context_length - 2), *sizes])
    ]


def run_with_random_arrivals(engine: Engine, sequences: Rows[Sequence], seed: int, cancelled: Rows[int] = ()) -> Events:
    """Submits the sequences at random times, cancels some while they run, and runs until all have ended."""
    rng = random.Random(seed)
    waiting = list(sequences)
    scheduler = engine.scheduler
    events = Events()
    while waiting or scheduler.has_work:
        while waiting and rng.random() < 0.5:
            sequence = waiting.pop(0)
            scheduler.submit(Root(sequence.prompt, [sequence]))
        for sequence in (s for s in scheduler.running if s.sequence_id in cancelled and len(s.output) >= 2):
            scheduler.cancel([sequence])
        plan = engine.plan()
        events.count(plan)
        engine.run(plan)
    events.slides, events.reviews = engine.batch.slides, engine.batch.reviews
    return events


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
        eos_token_id=list(sequence.parameters.eos_token_ids) or _NO_TOKEN_ID,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return Alone(output.sequences[0, prompt.shape[1] :].tolist(), [step[0].float() for step in output.logits])


def generate_each_alone(model: Any, sequences: Rows[Sequence]) -> dict[int, Alone]:
    """Returns what `generate()` makes of each sequence's prompt, by sequence."""
    return {sequence.sequence_id: generate_alone(model, sequence) for sequence in sequences}


def largest_difference(ours: Rows[Tensor], theirs: Rows[Tensor]) -> float:
    """Returns the largest absolute difference of any logit of the steps that both have; NaN counts as infinite."""
    differences = [float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=False)]
    return max((float("inf") if math.isnan(d) else d for d in differences), default=0.0)


def mismatches(recorder: Recorder, sequences: Rows[Sequence], alone: Mapping[int, Alone]) -> list[str]:
    """Compares each sequence with what `generate()` makes of its prompt alone; a cancelled one as far as it came.

    Returns one line for each sequence whose tokens or logits differ.
    """
    lines = []
    for sequence in sequences:
        theirs = alone[sequence.sequence_id]
        steps = len(theirs.tokens) if sequence.status.name.startswith("FINISHED") else len(sequence.output)
        recorded = recorder.logits.get(sequence.sequence_id, [])
        difference = largest_difference(recorded, theirs.logits)
        expected = theirs.tokens[:steps]
        if len(recorded) != steps or sequence.output != expected or difference > LOGITS_TOLERANCE:
            lines.append(f"{sequence.sequence_id}: logits differ by {difference:.2g}, {sequence.output} != {expected}")
    return lines
