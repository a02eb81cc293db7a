"""A stage runs for the rows that use it, in its order, and not at all if there are none."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from worker.domain.sequence import SamplingParameters, Sequence
from worker.sampling.history import output_tokens, seen_tokens
from worker.sampling.rows import Row, history_tail, rows_of
from worker.sampling.sampler import process, sample
from worker.sampling.stages import PROCESSORS, WARPERS, Stage, processors_due, warpers_due

# For each stage, in order, a setting that switches on it alone, and an output at which it is due.
PROCESSOR_SETTINGS: list[tuple[dict[str, Any], int]] = [
    ({"logit_bias": ((1, 1.0),)}, 0),
    ({"repetition_penalty": 1.1}, 0),
    ({"frequency_penalty": 0.1}, 1),
    ({"no_repeat_ngram_size": 2}, 0),
    ({"bad_words_ids": ((1,),)}, 0),
    ({"bad_words_ids": ((2, 1),)}, 0),
    ({"min_new_tokens": 2}, 1),
    ({"allowed_token_ids": frozenset({1})}, 0),
    ({"forced_bos_token_id": 1}, 0),
    ({"forced_eos_token_id": 1}, 8),
    ({"exponential_decay": (1, 2.0)}, 2),
    ({"suppress_tokens": frozenset({1})}, 0),
    ({"begin_suppress_tokens": frozenset({1})}, 0),
]
WARPER_SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.5},
    {"top_k": 2},
    {"top_p": 0.5},
    {"min_p": 0.1},
    {"typical_p": 0.5},
    {"epsilon_cutoff": 0.1},
]


def row(number: int, output_count: int = 0, **parameters: Any) -> Sequence:
    return Sequence(number, [2], SamplingParameters(9, **parameters), output=[3] * output_count)


def due(found: list[tuple[Stage, list[Row]]]) -> dict[Stage, list[int]]:
    return {stage: [row.index for row in rows] for stage, rows in found}


def test_each_stage_works_on_the_rows_that_use_it_and_in_the_listed_order() -> None:
    rows = [row(n, count, **parameters) for n, (parameters, count) in enumerate(PROCESSOR_SETTINGS)]
    warping = [row(n, **parameters) for n, parameters in enumerate(WARPER_SETTINGS)]
    # Listed backwards, so that the order of the rows is not that of the stages.
    found = due(processors_due(rows_of(torch.zeros(len(rows), 5), rows[::-1])))
    assert list(found) == list(PROCESSORS)
    assert list(found.values()) == [[index] for index in reversed(range(len(PROCESSORS)))]
    found = due(warpers_due(rows_of(torch.zeros(len(warping), 5), warping[::-1])))
    assert list(found) == list(WARPERS)
    everybody = list(range(len(WARPERS)))
    alone = reversed(everybody)
    expected = [everybody if stage.spares_others else [index] for stage, index in zip(WARPERS, alone, strict=True)]
    assert list(found.values()) == expected


@pytest.mark.parametrize("stage", [each for each in WARPERS if each.spares_others])
def test_a_stage_that_is_run_on_all_rows_changes_nothing_in_those_that_have_it_off(stage: Stage) -> None:
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 5
    scores[1, 7] = -torch.inf
    before = scores.clone()
    stage.apply(scores, rows_of(scores, [row(n) for n in range(3)]))
    assert torch.equal(scores, before)


@pytest.mark.parametrize(
    ("parameters", "first", "last"),
    [
        ({"min_new_tokens": 2}, 0, 1),
        ({"forced_bos_token_id": 1}, 0, 0),
        ({"forced_eos_token_id": 1}, 8, 8),
        ({"exponential_decay": (1, 2.0)}, 2, 8),
        ({"begin_suppress_tokens": frozenset({1})}, 0, 0),
        ({"begin_suppress_tokens": frozenset({1}), "forced_bos_token_id": 1}, 0, 1),
        ({"presence_penalty": 1.0}, 1, 8),
    ],
)
def test_a_stage_is_run_only_at_the_tokens_that_it_is_about(parameters: dict[str, Any], first: int, last: int) -> None:
    scores = torch.zeros(1, 5)
    run = [n for n in range(9) if processors_due(rows_of(scores, [row(n, n, **parameters)]))]
    assert run == list(range(first, last + 1))


class Operations(TorchDispatchMode):
    """Counts what torch does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def operations() -> Iterator[list[str]]:
    with Operations() as mode:
        yield mode.names


def test_rows_without_processors_cost_not_a_single_operation() -> None:
    scores = torch.zeros(4, 5)
    with operations() as names:
        assert process(scores, [row(n, do_sample=True, top_p=0.5) for n in range(4)]) is scores
    assert names == []


def test_greedy_rows_cost_the_check_for_finite_logits_and_the_search_for_the_likeliest_token() -> None:
    with operations() as names:
        sample(torch.zeros(4, 5), [row(n) for n in range(4)])
    of_vocabulary = [name for name in names if name.split(".")[1] in {"mul", "sum", "argmax"}]
    assert len(of_vocabulary) == 3
    assert not [name for name in names if "softmax" in name or "sort" in name or "clone" in name]


def test_a_stage_that_sorts_nothing_costs_no_more_operations_for_many_rows_with_settings_of_their_own() -> None:
    def count(rows: list[Sequence]) -> int:
        with operations() as names:
            sample(torch.zeros(len(rows), 5), rows)
        return len(names)

    def rows(count: int) -> list[Sequence]:
        each: list[dict[str, Any]] = [
            {"temperature": 0.5 + n, "min_p": 1 / (2 + n), "epsilon_cutoff": 1 / (9 + n), "do_sample": True}
            for n in range(count)
        ]
        return [row(n, **parameters) for n, parameters in enumerate(each)]

    assert count(rows(8)) == count(rows(2))


def test_what_is_kept_of_a_sequence_goes_with_it() -> None:
    sequence = row(1, 3, repetition_penalty=1.5, no_repeat_ngram_size=2, bad_words_ids=((1,),), logit_bias=((1, 1.0),))
    sample(torch.zeros(1, 5), [sequence])
    gone = ref(sequence)
    del sequence
    gc.collect()
    assert gone() is None


def test_counts_follow_a_history_of_any_length() -> None:
    sequence = Sequence(1, list(range(100)), SamplingParameters(9))
    (kept,) = rows_of(torch.zeros(1, 300), [sequence])
    for step in range(300):
        counts = output_tokens(kept)
        found = dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True))
        assert found == {each: sequence.output.count(each) for each in sequence.output}
        seen = [each for ids in seen_tokens(kept) for each in ids.tolist()]
        assert len(seen) == len(set(seen))
        assert set(seen) == {*sequence.prompt, *sequence.output}
        sequence.output += [(7 * step) % 200, 5]


@pytest.mark.parametrize("count", range(8))
def test_the_tail_of_a_history_spans_prompt_and_output(count: int) -> None:
    sequence = Sequence(1, [1, 2, 3], SamplingParameters(9), output=[4, 5])
    assert history_tail(sequence, count) == [1, 2, 3, 4, 5][max(0, 5 - count) :]


def changed(before: Tensor, after: Tensor) -> list[int]:
    return [index for index in range(len(before)) if not torch.equal(before[index], after[index])]


@pytest.mark.parametrize(("parameters", "count"), PROCESSOR_SETTINGS)
def test_a_row_that_does_not_use_a_stage_is_not_touched(parameters: dict[str, Any], count: int) -> None:
    scores = torch.arange(15.0).view(3, 5) + 1
    rows = [row(0), row(1, count, eos_token_ids=frozenset({3}), **parameters), row(2)]
    assert changed(scores, process(scores, rows)) in ([], [1])
