"""Sequences for a scheduler alone: it knows counts and lengths, no model."""

from worker.domain.plan import Plan
from worker.domain.sequence import Beams, EarlyStopping, Root, SamplingParameters, Sequence
from worker.scheduling.scheduler import Scheduler

EOS = 1
OTHER = 2


def sequence(number: int, prompt_length: int, max_new_tokens: int, priority: int = 0) -> Sequence:
    parameters = SamplingParameters(max_new_tokens=max_new_tokens, eos_token_ids=frozenset([EOS]))
    # Every token of a prompt tells whose it is.
    return Sequence(number, [100 + number] * prompt_length, parameters, priority=priority, arrived_at=number)


def root(*sequences: Sequence) -> Root:
    return Root(sequences[0].prompt, list(sequences))


def beam_root(num_beams: int, *candidates: Sequence) -> Root:
    return Root(candidates[0].prompt, Beams(num_beams, 1.0, EarlyStopping.HEURISTIC, list(candidates)).rows())


def run(scheduler: Scheduler) -> Plan:
    """Runs one step in which every row gets OTHER."""
    plan = scheduler.schedule()
    for row in plan.sampled:
        if row.beams is None:
            scheduler.update(row, OTHER)
    scheduler.step_succeeded(plan, seconds=0.0)
    return plan
