"""The engine: schedule, run, update.

One thread owns it, and with it the model and every tensor. It knows sequences and tokens; who asked for them, and how
the tokens travel, is not its business.
"""

from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from .batch import Batch
from .group import PrefillGroup
from .model_runner import ModelRunner
from .sampling import Sampled, sample
from .scheduler import Plan, Scheduler
from .sequence import Sequence
from .slab import LayerShape, Storage

Sampler = Callable[[Tensor, Rows[Sequence]], Sampled]


@dataclass(frozen=True)
class Memory:
    """The shape of the engine's memory."""

    shapes: Rows[LayerShape]
    rows: int
    columns: int
    device: torch.device
    pad_token_id: int


class Engine:
    """A running batch, the group that is being prefilled, and the scheduler that decides about both."""

    def __init__(self, runner: ModelRunner, scheduler: Scheduler, memory: Memory, sampler: Sampler = sample) -> None:
        self.runner = runner
        self.scheduler = scheduler
        self.memory = memory
        self.sampler = sampler
        self.batch = Batch(memory.shapes, memory.rows, memory.columns, memory.device)
        self.group: PrefillGroup | None = None
        self._group_storage = Storage(memory.shapes, scheduler.limits.group_tokens)

    def plan(self) -> Plan:
        """Returns what the next step will do. Every plan must be run."""
        return self.scheduler.schedule()

    @torch.inference_mode()
    def run(self, plan: Plan) -> list[Sequence]:
        """Carries out a plan: at most one token for each row. Returns the sequences that got a token, or failed."""
        self._rearrange(plan)
        logits = []
        if plan.decoding:
            logits.append(self.runner.decode(self.batch, [sequence.output[-1] for sequence in plan.decoding]))
        if plan.chunk and self.group:
            first = self.runner.prefill(self.group, plan.chunk)
            if plan.joining:
                logits.append(first)
                self.batch.concatenate(self.group)
                self.group = None
        if not logits:
            return []
        sampled = self.sampler(logits[0] if len(logits) == 1 else torch.cat(logits), plan.sampled)
        self._clear_broken_rows(sampled.finite)
        return self.scheduler.update(plan, sampled.tokens, sampled.finite)

    def step(self) -> list[Sequence]:
        """Plans and runs one step."""
        return self.run(self.plan())

    @torch.inference_mode()
    def reset(self) -> list[Sequence]:
        """Forgets all sequences and returns those that had not ended, after an error that left the batch undefined."""
        self.batch.clear()
        self.group = None
        return self.scheduler.drop_all()

    def _rearrange(self, plan: Plan) -> None:
        if plan.batch_rows is not None:
            self.batch.filter(plan.batch_rows)
        if self.group and plan.group_rows:
            self.group.filter(plan.group_rows)
        elif plan.group_rows is not None:
            self.group = None
        if plan.opening:
            prompts = [sequence.prompt for sequence in plan.opening]
            memory = self.memory
            self.group = PrefillGroup(
                self._group_storage, prompts, pad_token_id=memory.pad_token_id, device=memory.device
            )

    def _clear_broken_rows(self, finite: list[bool]) -> None:
        for row, is_finite in enumerate(finite):
            if not is_finite:
                self.batch.slab.clear_row(row)
