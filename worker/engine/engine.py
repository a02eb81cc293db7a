"""The engine: schedule, run, update.

One thread owns it, and with it the model and every tensor. It knows sequences and tokens; who asked for them, and how
the tokens travel, is not its business.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..domain.outcome import Outcome, Output, PromptPart
from ..domain.plan import Plan
from ..domain.sequence import Beams, Root, Sequence
from ..memory.batch import Batch
from ..memory.copies import on_device
from ..memory.group import PrefillGroup
from ..memory.layout import Layout
from ..memory.storage import Storage
from ..runners.runner import Prefill, Runner
from ..sampling.logprobs import token_logprobs
from ..sampling.rows import inherit
from ..sampling.sampler import Sampled, process, resort, sample
from ..scheduling.scheduler import Scheduler
from .beam_search import BeamSearch

T = TypeVar("T")
Sampler = Callable[[Tensor, Rows[Sequence]], Sampled]


@dataclass(frozen=True)
class Memory:
    """The shape of the engine's memory; the scheduler's limits say how much of it there is."""

    layouts: Rows[Layout]
    device: torch.device
    """Of the model's inputs."""
    pad_token_id: int

    @property
    def gpus(self) -> set[torch.device]:
        """The GPUs among the devices of the model's inputs and layers."""
        shapes = [shape for layout in self.layouts for shape in (layout.tokens, *layout.states) if shape]
        return {device for device in (self.device, *(shape.device for shape in shapes)) if device.type == "cuda"}


class Engine:
    """A running batch, the group that is being prefilled, and the scheduler that decides about both."""

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        memory: Memory,
        sampler: Sampler = sample,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.runner = runner
        self.clock = clock
        self.scheduler = scheduler
        self.memory = memory
        self._gpus = memory.gpus
        self.sampler = sampler
        limits = scheduler.limits
        storage = Storage(memory.layouts, limits.pool_tokens, limits.max_rows, runner.moves)
        self.batch = Batch(storage, memory.device, reads_padding=runner.reads_padding)
        self.group: PrefillGroup | None = None
        self._passed: PrefillGroup | None = None
        """The group that the present one has passed; its memory is in front of that one's."""
        self._group_storage = Storage(memory.layouts, limits.group_tokens, limits.max_rows, runner.moves)
        self._searches: WeakKeyDictionary[Beams, BeamSearch] = WeakKeyDictionary()

    def plan(self) -> Plan:
        """Returns what the next step will do. Every plan must be run."""
        return self.scheduler.schedule()

    @torch.inference_mode()
    def run(self, plan: Plan) -> Outcome:
        """Carries out a plan: at most one token for each row."""
        began = self.clock()
        self._rearrange(plan)
        tokens = [sequence.output[-1] for sequence in plan.decoding]
        prefill = self._prefill(plan)
        answered = self.runner.step(self.batch, tokens, prefill)
        logits = [] if answered.decoded is None else [answered.decoded]
        parts: list[PromptPart] = []
        if prefill and answered.read is not None:
            if prefill.all_positions:
                parts = _prompt_parts(answered.read, prefill, plan.reading)
            if plan.joining:
                logits.append(self._join(prefill, answered.read, plan))
        if not plan.sampled:
            self._synchronize()  # nobody's token is waited for: the step would be timed by its launch alone
        outputs = self._choose(_join_rows(logits), plan.sampled) if logits else []
        for part in parts:
            part.root.reported += len(part.logprobs)
        self.scheduler.step_succeeded(plan, self.clock() - began)
        return Outcome(outputs, parts)

    def step(self) -> Outcome:
        """Plans and runs one step."""
        return self.run(self.plan())

    @torch.inference_mode()
    def relieve(self, plan: Plan) -> list[Sequence]:
        """Makes all sequences wait again, after an allocation in a plan's step failed.

        They are tried again as they were if there was something to free that only makes steps faster, else fewer at a
        time. Returns those that failed, because fewer is not possible. Raises if the device is lost.
        """
        has_freed = self.runner.release()
        self._clear()
        return self.scheduler.preempt_all(plan, shrinks=not has_freed)

    @torch.inference_mode()
    def try_again(self, plan: Plan) -> list[Sequence]:
        """Makes all sequences wait again, to find out for whom a plan's step has failed.

        Returns those that are to blame, which have failed. Raises if the device is lost.
        """
        self._clear()
        return self.scheduler.try_again(plan)

    def _clear(self) -> None:
        self.batch.clear()
        self.group = self._passed = None
        if self._gpus:
            torch.cuda.empty_cache()
        # Errors of a device come late: this makes one that is still on its way appear here.
        self._synchronize()

    def _synchronize(self) -> None:
        for gpu in self._gpus:
            torch.cuda.synchronize(gpu)

    def _rearrange(self, plan: Plan) -> None:
        if plan.batch_rows is not None:
            self.batch.filter(plan.batch_rows)
        if plan.view is not None:
            self.batch.view(plan.view.rows, plan.view.columns)
        self._passed = _filtered(self._passed, plan.passed_rows)
        self.group = _filtered(self.group, plan.group_rows)
        if self.group is None:
            self.group, self._passed = self._passed, None
        if plan.opening:
            self._open([root.tokens for root in plan.opening])

    def _open(self, prompts: list[list[int]]) -> None:
        storage = self._group_storage
        if self.group:
            storage = storage.behind(self.group.slab.rows * self.group.slab.columns)
        self._passed, self.group = (
            self.group,
            PrefillGroup(
                storage,
                prompts,
                pad_token_id=self.memory.pad_token_id,
                device=self.memory.device,
                reads_padding=self.runner.reads_padding,
            ),
        )

    def _prefill(self, plan: Plan) -> Prefill | None:
        if plan.chunk is None or self.group is None:
            return None
        return Prefill(self.group, plan.chunk, any(root.wants_prompt_logprobs for root in plan.reading))

    def _join(self, prefill: Prefill, read: Tensor, plan: Plan) -> Tensor:
        """Forks the group's rows into the batch. Returns the logits of their first tokens, one row for each fork."""
        logits = read[:, -1] if prefill.all_positions else read
        copies = [len(root.sequences) for root in plan.joining]
        self.batch.concatenate(prefill.group, copies)
        self.group, self._passed = self._passed, None
        for beams in {row.beams for row in plan.joining_rows if row.beams}:
            self._searches[beams] = _start(beams)
        return _take(logits, [row for row, count in enumerate(copies) for _ in range(count)])

    def _choose(self, logits: Tensor, rows: list[Sequence]) -> list[Output]:
        alone = [place for place, row in enumerate(rows) if row.beams is None]
        searching: dict[Beams, list[int]] = defaultdict(list)
        for place, row in sorted(enumerate(rows), key=lambda item: item[1].beam_index):
            if row.beams:
                searching[row.beams].append(place)
        sampled = self.sampler(_take(logits, alone), [rows[place] for place in alone]) if alone else None
        finite = [
            self._search(beams, _take(logits, places), [rows[place] for place in places])
            for beams, places in searching.items()
        ]
        broken = [place for place, ok in zip(alone, sampled.finite, strict=True) if not ok] if sampled else []
        broken += [place for places, ok in zip(searching.values(), finite, strict=True) if not ok for place in places]
        for place in broken:
            self.batch.clear_row(place)
        # From here on the device is not asked for anything: a step that fails has given nobody a token.
        outputs = self._give(sampled, rows, alone) if sampled else []
        for (beams, places), is_finite in zip(searching.items(), finite, strict=True):
            outputs += self._move_on(beams, [rows[place] for place in places], is_finite=is_finite)
        return outputs

    def _give(self, sampled: Sampled, rows: list[Sequence], places: list[int]) -> list[Output]:
        """Gives the rows at these places their tokens."""
        outputs = []
        for index, place in enumerate(places):
            token = sampled.tokens[index] if sampled.finite[index] else None
            logprob = sampled.logprobs[index] if sampled.logprobs else None
            if self.scheduler.update(rows[place], token):
                outputs.append(Output(rows[place], _present(token), _present(logprob)))
        return outputs

    def _search(self, beams: Beams, logits: Tensor, rows: list[Sequence]) -> bool:
        """Finds a beam search's next tokens; returns whether its logits, [num_beams, vocabulary], were finite."""
        log_probs = logits.float().log_softmax(dim=-1)
        if log_probs.isnan().any():
            return False
        search = self._searches[beams]
        if search.step(process(log_probs, rows)):
            search.step(resort(log_probs, rows))
        return True

    def _move_on(self, beams: Beams, before: list[Sequence], *, is_finite: bool) -> list[Output]:
        """Gives a beam search's rows, by beam, what it has found. Returns its candidates if it has ended."""
        search = self._searches[beams]
        if not is_finite:
            return [Output(candidate) for candidate in self.scheduler.fail_beams(beams)]
        if not search.is_done:
            after = self.scheduler.advance_beams(beams, search.parents, search.outputs)
            for row, parent in zip(after, search.parents, strict=True):
                inherit(row, before[parent])
            return []
        results = [(hypothesis.tokens, hypothesis.score) for hypothesis in search.hypotheses()]
        ended = self.scheduler.conclude_beams(beams, results)
        return [Output(candidate, tuple(candidate.output)) for candidate in ended]


def _filtered(group: PrefillGroup | None, rows: list[int] | None) -> PrefillGroup | None:
    """Returns a group with the given rows alone; none without a row."""
    if group and rows:
        group.filter(rows)
    return None if rows == [] else group


def _prompt_parts(logits: Tensor, prefill: Prefill, roots: Rows[Root]) -> list[PromptPart]:
    """Returns what a chunk tells about the prompts whose log-probabilities were asked for.

    Taken as it is read: a prompt's logits are never whole.

    Args:
        logits: [rows that take part, columns of the chunk, vocabulary].
        prefill: the chunk, and the group that it is part of.
        roots: the rows of the group.
    """
    group, chunk = prefill.group, prefill.chunk
    parts = []
    targets = group.targets(chunk.begin, chunk.end)
    for row, root in enumerate(roots[: logits.shape[0]]):
        if root.prompt_logprobs is None or not root.wants_prompt_logprobs:
            continue
        padding = group.width - len(root.tokens)
        # Column c predicts token c - padding + 1.
        begin = max(chunk.begin, padding + root.reported) - chunk.begin
        end = min(chunk.end, padding + len(root.sequences[0].prompt) - 1) - chunk.begin
        if begin < end:
            found = token_logprobs(logits[row, begin:end], targets[row, begin:end], root.prompt_logprobs)
            parts.append(PromptPart(root, root.sequences[0], root.reported + 1, found))
    return parts


def _join_rows(logits: list[Tensor]) -> Tensor:
    """Returns all rows; without a copy in the most frequent step, in which nobody joins."""
    return logits[0] if len(logits) == 1 else torch.cat(logits)


def _take(logits: Tensor, places: list[int]) -> Tensor:
    """Returns rows of logits, those in their order alone without a copy."""
    return logits if places == list(range(len(logits))) else logits[on_device(places, logits.device)]


def _start(beams: Beams) -> BeamSearch:
    parameters = beams.candidates[0].parameters
    return BeamSearch(
        num_beams=beams.num_beams,
        num_return_sequences=len(beams.candidates),
        length_penalty=beams.length_penalty,
        early_stopping=beams.early_stopping,
        max_new_tokens=parameters.max_new_tokens,
        eos_token_ids=parameters.end_token_ids,
    )


def _present(value: T | None) -> tuple[T, ...]:
    return () if value is None else (value,)
