"""How a memory budget becomes tokens and rows."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from worker.domain.refusal import UnsupportedModelError
from worker.memory.budget import budget, divide, free_bytes
from worker.memory.layout import (
    Layout,
    RecurrentShape,
    StateShape,
    TokenShape,
    bytes_per_row,
    bytes_per_token,
    prefills_whole,
)
from worker.memory.plan import Room
from worker.memory.storage import Storage

CPU = torch.device("cpu")
ATTENTION = Layout(TokenShape(key_heads=2, key_dim=8, value_heads=1, value_dim=4, dtype=torch.bfloat16, device=CPU))
RECURRENT = Layout(
    states=(RecurrentShape(StateShape((16, 4), torch.bfloat16, CPU), StateShape((4, 2, 8), torch.float32, CPU)),)
)
NOTHING = Layout()
MODELS = st.sampled_from([[ATTENTION] * 3, [RECURRENT, ATTENTION, NOTHING], [RECURRENT] * 2])
BUDGETS = st.integers(0, 2_000_000)
ROWS = st.integers(1, 64)
CONTEXTS = st.integers(1, 5000)


def division(layouts: list[Layout], budget: int, max_rows: int, context: int) -> Room:
    """Returns a division; budgets that hold nothing are no example."""
    try:
        return divide(layouts, budget=budget, max_rows=max_rows, model_context=context)
    except UnsupportedModelError:
        assume(False)
        raise


@given(MODELS, BUDGETS, ROWS, CONTEXTS)
def test_a_division_stays_within_its_budget_and_the_models_context(
    layouts: list[Layout], budget: int, max_rows: int, context: int
) -> None:
    room = division(layouts, budget, max_rows, context)
    assert room.bytes_total <= budget
    assert 1 <= room.max_rows <= max_rows
    assert min(64, context) <= room.context_length <= context
    assert room.group_tokens == room.context_length
    assert 1.5 * room.context_length <= room.tokens <= room.max_rows * (1.5 * room.context_length + 1)


@given(MODELS, BUDGETS, ROWS, CONTEXTS)
def test_batch_and_group_take_the_memory_that_was_reckoned(
    layouts: list[Layout], budget: int, max_rows: int, context: int
) -> None:
    room = division(layouts, budget, max_rows, context)
    tokens = (room.tokens + room.group_tokens) * bytes_per_token(layouts)
    assert room.bytes_total == tokens + 2 * room.max_rows * bytes_per_row(layouts)


@given(MODELS, ROWS, CONTEXTS)
def test_with_memory_enough_nothing_is_given_up(layouts: list[Layout], max_rows: int, context: int) -> None:
    room = divide(layouts, budget=2**40, max_rows=max_rows, model_context=context)
    assert (room.max_rows, room.context_length) == (max_rows, context)
    assert room.tokens >= 1.5 * context * max_rows


@given(MODELS, BUDGETS, st.integers(0, 2000), ROWS, CONTEXTS)
def test_more_memory_never_gives_less(
    layouts: list[Layout], budget: int, more: int, max_rows: int, context: int
) -> None:
    room = division(layouts, budget, max_rows, context)
    richer = division(layouts, budget + more, max_rows, context)
    assert richer.max_rows >= room.max_rows
    assert richer.context_length >= room.context_length


def test_a_small_budget_cuts_the_context_but_not_the_rows() -> None:
    room = divide([ATTENTION], budget=1000 * bytes_per_token([ATTENTION]), max_rows=8, model_context=4000)
    assert (room.tokens, room.group_tokens, room.context_length, room.max_rows) == (600, 400, 400, 8)


def test_states_take_at_most_half_of_the_budget_and_cost_rows_beyond() -> None:
    row = bytes_per_row([RECURRENT])
    room = divide([RECURRENT, ATTENTION], budget=20 * row, max_rows=8, model_context=32)
    assert room.max_rows == 5


@pytest.mark.parametrize("layouts", [[ATTENTION], [RECURRENT], [RECURRENT, ATTENTION]])
def test_too_small_a_budget_is_refused_with_a_way_out(layouts: list[Layout]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"^500 bytes hold .*--memory-gib$"):
        divide(layouts, budget=500, max_rows=8, model_context=2048)


@pytest.mark.parametrize("layout", [ATTENTION, RECURRENT, NOTHING])
def test_a_storage_takes_what_its_layouts_say(layout: Layout) -> None:
    storage = Storage([layout], 10, 3)
    tokens = [buffer for layer in storage.layers if layer.tokens for buffer in (layer.tokens.keys, layer.tokens.values)]
    states = [buffer for layer in storage.layers for pair in layer.states for buffer in pair.buffers]
    assert sum(buffer.nbytes for buffer in tokens) == 10 * bytes_per_token([layout])
    assert sum(buffer.nbytes for buffer in states) == 3 * bytes_per_row([layout])


def test_models_with_a_recurrent_layer_read_prompts_whole() -> None:
    assert prefills_whole([ATTENTION, RECURRENT])
    assert not prefills_whole([ATTENTION, NOTHING])


def test_a_budget_in_gib_is_taken_as_it_is() -> None:
    assert budget([ATTENTION], gib=0.5, share=0.25) == 2**29


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1000), (0.5, 2000)])
def test_by_default_a_cpu_gives_a_quarter_of_what_this_process_may_take(
    share: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.memory.budget.available_bytes", lambda: 4000)
    assert budget([ATTENTION, RECURRENT], gib=0, share=share) == expected


def test_what_torch_keeps_of_a_gpu_for_itself_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"memory_reserved": 700, "memory_allocated": 500, "mem_get_info": (1000, 9000)}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, size=size: size)
    assert free_bytes(torch.device("cuda", 0)) == 1200


def test_no_device_of_several_is_overrun(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"meta": 1000, "cpu": 8000}
    monkeypatch.setattr("worker.memory.budget.free_bytes", lambda device: free[device.type])
    tokens = ATTENTION.tokens
    assert tokens is not None
    elsewhere = Layout(replace(tokens, device=torch.device("meta")))
    # A quarter of 1000 bytes on one of two equal devices, and as much on the other.
    assert budget([ATTENTION, elsewhere], gib=0, share=0.25) == 500
