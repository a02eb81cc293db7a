"""How a memory budget becomes rows and columns, and which models are refused."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import MambaConfig, MambaForCausalLM

from tests.worker.tiny_models import tiny_llama
from worker.memory import UnsupportedModelError, divide, free_bytes, probe_shapes
from worker.slab import LayerShape, Slab, Storage, bytes_per_token

CPU = torch.device("cpu")
SHAPE = LayerShape(key_heads=2, key_dim=8, value_heads=2, value_dim=8, dtype=torch.bfloat16, device=CPU)
SHAPES = [SHAPE] * 3
TOKEN = bytes_per_token(SHAPES)
CONTEXTS = st.integers(1, 5000)


@given(st.integers(0, 40_000), st.integers(1, 64), CONTEXTS)
def test_a_division_stays_within_its_budget_and_the_models_context(tokens: int, max_rows: int, context: int) -> None:
    try:
        room = divide(SHAPES, budget=tokens * TOKEN, max_rows=max_rows, model_context=context)
    except UnsupportedModelError:
        return
    assert room.bytes_total == (room.rows * room.columns + room.context_length) * TOKEN <= tokens * TOKEN
    assert 1 <= room.rows <= max_rows
    assert min(64, context) <= room.context_length <= context
    assert room.columns >= int(1.5 * room.context_length)


@given(st.integers(0, 40_000), st.integers(1, 64), CONTEXTS)
def test_context_is_given_up_only_when_four_rows_are_left(tokens: int, max_rows: int, context: int) -> None:
    try:
        room = divide(SHAPES, budget=tokens * TOKEN, max_rows=max_rows, model_context=context)
    except UnsupportedModelError:
        assume(False)
    if room.context_length < context:
        assert room.rows == min(4, max_rows)


@given(st.integers(1, 64), CONTEXTS)
def test_with_memory_enough_nothing_is_given_up(max_rows: int, context: int) -> None:
    room = divide(SHAPES, budget=2**40, max_rows=max_rows, model_context=context)
    assert (room.rows, room.context_length) == (max_rows, context)


@given(st.integers(0, 39_000), st.integers(0, 1000), st.integers(1, 64), CONTEXTS)
def test_more_memory_never_gives_less(tokens: int, more: int, max_rows: int, context: int) -> None:
    try:
        room = divide(SHAPES, budget=tokens * TOKEN, max_rows=max_rows, model_context=context)
    except UnsupportedModelError:
        assume(False)
    richer = divide(SHAPES, budget=(tokens + more) * TOKEN, max_rows=max_rows, model_context=context)
    assert (richer.rows, richer.context_length) >= (room.rows, room.context_length)


def test_too_small_a_budget_is_refused_with_a_way_out() -> None:
    with pytest.raises(UnsupportedModelError, match=r"100 tokens.*--memory-gib.*--max-rows"):
        divide(SHAPES, budget=100 * TOKEN, max_rows=8, model_context=2048)


def test_a_batch_takes_the_memory_that_was_reckoned() -> None:
    room = divide(SHAPES, budget=2**40, max_rows=3, model_context=100)
    slab = Slab(Storage(SHAPES, room.rows * room.columns), room.rows, room.columns)
    taken = sum(buffer.nbytes for layer in slab.layers for buffer in layer.buffers)
    assert room.bytes_total - taken == room.context_length * TOKEN


def test_probing_tells_heads_and_dimensions_of_each_layer() -> None:
    shapes = probe_shapes(tiny_llama(num_hidden_layers=2))
    assert shapes == [LayerShape(2, 16, 2, 16, torch.float32, CPU)] * 2


def test_a_model_with_recurrent_state_is_refused_in_one_sentence() -> None:
    model = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4))
    with pytest.raises(UnsupportedModelError) as refusal:
        probe_shapes(model)
    text = str(refusal.value)
    assert text.startswith("MambaForCausalLM has layers of kind LinearAttentionLayer")
    assert "\n" not in text


def test_a_cpu_gives_a_quarter_of_its_free_memory() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 4000}))
        assert free_bytes([CPU]) == 1000
