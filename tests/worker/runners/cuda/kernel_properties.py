"""Triton's kernels against plain torch, on a GPU or in Triton's interpreter: `kernels.run`.

Not collected by itself: Triton decides at its import whether it interprets, so these properties have a process of their
own.
"""

import os
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worker.parity import (
    Recorder,
    engine_for,
    generate_each_alone,
    mismatches,
    mixed_sequences,
    run_with_random_arrivals,
)
from tests.worker.runners.cuda.matrices import FOUR_BIT_SHAPES, quantized
from tests.worker.runners.cuda.tracing import count_steps
from tests.worker.tiny_models import VOCAB_SIZE, tiny_llama
from worker.memory.batch import Batch
from worker.memory.copies import TORCH_MOVES
from worker.memory.group import PrefillGroup
from worker.memory.layout import Layout, TokenShape
from worker.memory.storage import Storage
from worker.runners.cuda.capture.graph_step import GraphStep
from worker.runners.cuda.kernels.checked_moves import Kind, check_moves
from worker.runners.cuda.kernels.kernel_check import WrongKernelError, check_ops, difference
from worker.runners.cuda.kernels.ops import ABSENT, Bounds, Pool
from worker.runners.cuda.kernels.reference import ReferenceOps
from worker.runners.cuda.kernels.tiling import attention_parts, columns_at_once
from worker.runners.cuda.kernels.triton_moves import TritonMoves
from worker.runners.cuda.kernels.triton_ops import TritonOps
from worker.runners.cuda.llama.forward import TransformersForward, pools
from worker.runners.cuda.llama.four_bit_product import FourBitProduct
from worker.runners.cuda.llama.llama import LlamaForward
from worker.runners.cuda.llama.matrix import fuse

INTERPRETER = "TRITON_INTERPRET"
DEVICE = torch.device("cpu" if INTERPRETER in os.environ else "cuda")
PROCESSORS = 16
EXAMPLES = 4 if INTERPRETER in os.environ else 25
"""The interpreter takes a second for what a GPU does at once."""
LONG_SCENES = (11, 17, 37)
"""Seeds of scenes with a row that is long, with and without a window that is."""
DTYPES = [torch.float32, torch.float16, *([] if INTERPRETER in os.environ else [torch.bfloat16])]
"""The interpreter, made of numpy, has no products of bfloat16."""


class Scene:
    """Rows of random lengths, some absent, in a pool whose other numbers are not numbers."""

    def __init__(self, seed: int, *, most_columns: int = 130, least_columns: int = 2) -> None:
        rng = random.Random(seed)
        self.random = torch.Generator().manual_seed(seed)
        self.rows = rng.choice([1, 2, 3, 5])
        self.heads, self.group = rng.choice([1, 2]), rng.choice([1, 2, 3, 8])
        self.dim, self.value_dim = rng.choice([16, 24, 64]), rng.choice([16, 24, 64])
        self.window = rng.choice([0, 0, 1, 7, 70, 1000])
        self.columns = rng.randint(least_columns, most_columns)
        self.end = rng.randint(least_columns // 2, self.columns - 1)
        self.lengths = [rng.choice([ABSENT, 0, 1, self.end, rng.randint(0, self.end)]) for _ in range(self.rows)]
        places = torch.tensor([*self.lengths, self.end, self.columns], device=DEVICE)
        self.bounds = Bounds(places[:-2], places[-2], places[-1])
        spare = rng.randint(0, 50)
        self.keys, self.values = self.pool(self.dim, spare), self.pool(self.value_dim, spare)
        self.query = self.normal(self.rows, self.heads * self.group, self.dim)

    def normal(self, *sizes: int) -> Tensor:
        return torch.randn(sizes, generator=self.random).to(DEVICE)

    def pool(self, dim: int, spare: int) -> Tensor:
        memory = torch.full((1, self.heads, self.rows * self.columns + spare, dim), torch.nan, device=DEVICE)
        seen = self.view(memory)
        for row, length in enumerate(self.lengths):
            if length != ABSENT:
                begin = self.end - length
                seen[row, :, begin : self.end + 1] = self.normal(self.heads, length + 1, dim)
        return memory

    def view(self, memory: Tensor) -> Tensor:
        dim = memory.shape[-1]
        sizes = (self.rows, self.heads, self.columns, dim)
        return memory.view(-1)[: self.rows * self.heads * self.columns * dim].view(sizes)

    def attended(self, row: int) -> Tensor:
        """Returns what a row's queries should see, computed from its own tokens alone."""
        count = min(self.lengths[row] + 1, self.window or self.columns)
        begin = self.end + 1 - count
        keys = self.view(self.keys)[row, :, begin : self.end + 1].repeat_interleave(self.group, dim=0)
        values = self.view(self.values)[row, :, begin : self.end + 1].repeat_interleave(self.group, dim=0)
        weights = torch.einsum("hd,hcd->hc", self.query[row], keys).mul(0.3).softmax(-1)
        return torch.einsum("hc,hcd->hd", weights, values)

    def check(self, out: Tensor) -> None:
        for row, length in enumerate(self.lengths):
            expected = torch.zeros_like(out[row]) if length == ABSENT else self.attended(row)
            torch.testing.assert_close(out[row], expected, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 10**9))
@settings(max_examples=EXAMPLES, deadline=None)
def test_attention_sees_a_rows_own_tokens_and_nothing_else(seed: int) -> None:
    scene = Scene(seed)
    pool = Pool(scene.keys, scene.values)
    scene.check(TritonOps(PROCESSORS).attend(scene.query, pool, scene.bounds, scaling=0.3, window=scene.window))


@pytest.mark.parametrize("seed", LONG_SCENES)
def test_attention_sees_all_of_a_part_that_is_several_tiles_long(seed: int) -> None:
    scene = Scene(seed, least_columns=1200, most_columns=1500)
    seen = min(max(scene.lengths) + 1, scene.window or scene.columns)
    assert seen > attention_parts(scene.rows * scene.heads, processors=1) * columns_at_once(4 * scene.dim)
    pool = Pool(scene.keys, scene.values)
    scene.check(TritonOps(1).attend(scene.query, pool, scene.bounds, scaling=0.3, window=scene.window))


@given(st.integers(0, 10**9))
@settings(max_examples=EXAMPLES, deadline=None)
def test_the_reference_sees_a_rows_own_tokens_and_nothing_else(seed: int) -> None:
    scene = Scene(seed)
    pool = Pool(scene.keys, scene.values)
    scene.check(ReferenceOps().attend(scene.query, pool, scene.bounds, scaling=0.3, window=scene.window))


@given(st.integers(0, 10**9))
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_column_is_written_for_the_rows_that_are_there_and_nowhere_else(seed: int) -> None:
    scene = Scene(seed, most_columns=20)
    keys = scene.normal(scene.rows, scene.heads, 2 * scene.dim)[..., : scene.dim]
    values = scene.normal(scene.rows, scene.heads, scene.value_dim)
    expected = scene.keys.clone(), scene.values.clone()
    for memory, given_vectors in zip(expected, (keys, values), strict=True):
        for row, length in enumerate(scene.lengths):
            if length != ABSENT:
                scene.view(memory)[row, :, scene.end] = given_vectors[row]
    pool = Pool(scene.keys, scene.values)
    TritonOps(PROCESSORS).write(keys, values, pool, scene.bounds)
    torch.testing.assert_close((pool.keys, pool.values), expected, rtol=0, atol=0, equal_nan=True)


def test_a_row_with_a_value_that_is_not_a_number_is_seen_to_have_one() -> None:
    scene = Scene(0)
    places = torch.tensor([5, 5, 9, 20], device=DEVICE)
    bounds = Bounds(places[:2], places[2], places[3])
    pool = Pool(scene.normal(1, 1, 40, 16), scene.normal(1, 1, 40, 16))
    pool.keys[0, 0, 7] = torch.nan
    out = TritonOps(PROCESSORS).attend(scene.normal(2, 1, 16), pool, bounds, scaling=0.3)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()


@pytest.mark.parametrize("dtype", [DTYPES[0], *(pytest.param(each, marks=pytest.mark.long) for each in DTYPES[1:])])
def test_all_operations_agree_with_the_reference(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.runners.cuda.kernels.kernel_check._COLUMNS", 90)
    monkeypatch.setattr("worker.runners.cuda.kernels.kernel_check._LENGTHS", (80, 1, 0, 63, 64, 65, ABSENT))
    memory = torch.empty(1, 2, 8, 32, dtype=dtype, device=DEVICE)
    check_ops(TritonOps(PROCESSORS), Pool(memory, memory), group=3)


def move_kinds() -> list[Kind]:
    """Vectors of 8, 4 and 2 bytes' words; the first are so long that what overlaps is moved in several blocks."""
    return [
        (1, 128, torch.float16, DEVICE),
        (2, 4, torch.float32, DEVICE),
        (1, 3, torch.float32, DEVICE),
        (2, 3, torch.float16, DEVICE),
        (3, 16, torch.bfloat16, DEVICE),
    ]


@pytest.mark.parametrize("kind", move_kinds(), ids=str)
def test_keys_and_values_are_moved_as_torch_moves_them(kind: Kind) -> None:
    check_moves(TritonMoves(), kind)


@given(st.integers(0, 10**9))
@settings(max_examples=EXAMPLES, deadline=None)
def test_slabs_of_random_histories_hold_the_same(seed: int) -> None:
    """Views, slides, joins, leaves and exchanges, in layers of two kinds."""
    rng = random.Random(seed)
    shapes = [TokenShape(2, 4, 2, 4, torch.float16, DEVICE), TokenShape(1, 3, 1, 6, torch.float16, DEVICE)]
    layouts = [Layout(shape) for shape in (shapes[0], shapes[1], shapes[0])]
    batches = [Batch(Storage(layouts, 240, 6, moves), DEVICE) for moves in (TritonMoves(), TORCH_MOVES)]
    for batch in batches:
        batch.view(3, 40)
    for _ in range(12):
        lengths = sorted((rng.randint(1, 30) for _ in range(rng.randint(1, 2))), reverse=True)
        order = rng.sample(range(len(batches[0].lengths)), rng.randint(0, min(4, len(batches[0].lengths))))
        numbers = rng.randint(0, 10**6)
        for batch in batches:
            _live(batch, order, lengths, numbers)
        for ours, theirs in zip(*(each.slab.token_buffers for each in batches), strict=True):
            window = batches[0].slab.window
            rows, columns = slice(window.rows), slice(window.start, window.end)
            assert torch.equal(ours[rows, :, columns], theirs[rows, :, columns])


def _live(batch: Batch, order: list[int], lengths: list[int], seed: int) -> None:
    """Lets rows go, and takes a group of random numbers in."""
    batch.filter(order)
    rows = len(order) + len(lengths)
    batch.view(max(rows, 1 + seed % 6), 40)
    storage = Storage([Layout(layer.tokens.shape) for layer in batch.slab.storage.layers if layer.tokens], 60, 6)
    group = PrefillGroup(storage, [[1] * length for length in lengths], pad_token_id=0, device=DEVICE)
    generator = torch.Generator().manual_seed(seed)
    for buffer in group.slab.token_buffers:
        buffer.copy_(torch.randint(-50, 50, buffer.shape, generator=generator).to(buffer.dtype))
    group.slab.window.end = group.width
    batch.concatenate(group, [1] * len(lengths))
    if batch.width < 40:
        batch.make_room()
        batch.advance()


class WrongOps(ReferenceOps):
    """Forgets the newest token."""

    def attend(self, query: Tensor, pool: Pool, bounds: Bounds, *, scaling: float, window: int = 0) -> Tensor:
        fewer = Bounds(bounds.lengths - 1, bounds.end - 1, bounds.columns)
        return super().attend(query, pool, fewer, scaling=scaling, window=window)


def test_an_operation_that_is_wrong_is_found() -> None:
    memory = torch.empty(1, 1, 8, 16, device=DEVICE)
    with pytest.raises(WrongKernelError, match="attention is wrong"):
        check_ops(WrongOps(), Pool(memory, memory), group=2)


@pytest.mark.parametrize("rows", [1, *(pytest.param(each, marks=pytest.mark.long) for each in (3, 16)), 40])
@pytest.mark.parametrize(
    ("outputs", "inputs", "processors"),
    [*((*shape, PROCESSORS) for shape in FOUR_BIT_SHAPES), (64, 1024, 1)],  # the last: several blocks in each part
)
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_four_bit_product_is_that_with_the_dequantized_matrix(
    rows: int, outputs: int, inputs: int, processors: int, *, has_bias: bool
) -> None:
    matrix = fuse([quantized(outputs, inputs, has_bias=has_bias, device=DEVICE)])
    given_rows = torch.randn(rows, 2 * inputs, device=DEVICE)[:, :inputs]
    expected = given_rows @ matrix.dequantize(torch.float32).T + (0 if matrix.bias is None else matrix.bias)
    for outputs_at_once in (32, 64):
        product = FourBitProduct(matrix, outputs_at_once, processors)
        assert difference(product(given_rows), expected) < 1e-5


@pytest.mark.parametrize("processors", [1, PROCESSORS])
def test_the_four_bit_product_reads_scales_that_are_quantized(processors: int) -> None:
    layers = [quantized(outputs, 256, is_nested=True, device=DEVICE) for outputs in (64, 128)]
    layers[1].weight.quant_state.offset *= 2
    matrix = fuse(layers)
    assert matrix.nested is not None
    given_rows = torch.randn(3, 256, device=DEVICE)
    expected = given_rows @ matrix.dequantize(torch.float32).T
    for outputs_at_once in (32, 64):
        assert difference(FourBitProduct(matrix, outputs_at_once, processors)(given_rows), expected) < 1e-5


@pytest.mark.long
@pytest.mark.skipif(INTERPRETER not in os.environ, reason="tests/gpu/test_graphs.py runs models on a device")
@pytest.mark.parametrize("make", [LlamaForward, TransformersForward])
def test_a_model_through_the_kernels_gives_its_tokens_and_logits(make: Any) -> None:
    model = tiny_llama(num_hidden_layers=1)
    sequences = mixed_sequences(3, 0, vocab_size=VOCAB_SIZE, do_sample=False)
    alone = generate_each_alone(model, sequences)
    recorder = Recorder()
    engine = engine_for(model, recorder)
    graphs = GraphStep(model, lambda storage: make(model, pools(storage), TritonOps(1)), lambda work: work)
    steps = count_steps(engine, model, graphs)
    run_with_random_arrivals(engine, sequences, 0)
    assert mismatches(recorder, sequences, alone) == []
    assert steps.declined == 0
