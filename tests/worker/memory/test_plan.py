"""How a GPU's memory is divided: over cards of all sizes, models of all sizes and contexts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.refusal import UnsupportedModelError
from worker.memory.plan import GIB, MIB, Card, Demand, MemoryPlan, ModelSize, plan

DRIVER_BYTES = 300 * MIB
"""What of a card no process ever has."""
CARDS = {gb: int(gb * 0.98 * GIB) for gb in (8, 12, 16, 24, 40, 48, 80)} | {140: 140 * 10**9}
"""Bytes of cards that are sold with so many GB: an H200 has 141 of 10^9, others have GiB, less what they keep."""
DEMAND = Demand(rows=32, chunk_tokens=1024, graphs=7)


def shape(sizes: tuple[int, int, int, int, int, int], *, is_tied: bool = False) -> ModelSize:
    """Returns the sizes of a model in NF4 with quantized scales; heads are 128 wide.

    Args:
        sizes: width, width of its MLP, layers, heads, heads of keys, vocabulary.
        is_tied: whether its head is its embedding.
    """
    width, inner, layers, heads, groups, vocabulary = sizes
    linear = layers * (2 * width * heads * 128 + 2 * width * groups * 128 + 3 * width * inner)
    blocks = linear // 64
    return ModelSize(
        weights=linear // 2 + 2 * vocabulary * width * (1 if is_tied else 2),
        scales=blocks + 4 * (blocks // 256),
        token=2 * layers * groups * 128 * 2,
        row=0,
        context=32768,
        layers=layers,
        width=width,
        inner=inner,
        vocabulary=vocabulary,
        largest_matrix=width * inner,
        quantized=linear,
    )


MODELS = {
    "1.5B": shape((1536, 8960, 28, 12, 2, 151936), is_tied=True),  # Qwen 2.5
    "3B": shape((2048, 11008, 36, 16, 2, 151936), is_tied=True),  # Qwen 2.5
    "7B": shape((3584, 18944, 28, 28, 4, 152064)),  # Qwen 2.5
    "8B": shape((4096, 14336, 32, 32, 8, 128256)),  # Llama 3
    "14B": shape((5120, 13824, 48, 40, 8, 152064)),  # Qwen 2.5
    "24B": shape((5120, 32768, 40, 32, 8, 131072)),  # Mistral Small 3
    "32B": shape((5120, 27648, 64, 40, 8, 152064)),  # Qwen 2.5
    "70B": shape((8192, 28672, 80, 64, 8, 128256)),  # Llama 3
}
LARGEST = {8: "8B", 12: "14B", 16: "24B", 24: "32B", 40: "32B", 48: "70B", 80: "70B", 140: "70B"}
"""What is served on one card, if with a short context."""


def on(gb: int, model: ModelSize, demand: Demand = DEMAND) -> MemoryPlan:
    return plan(Card(CARDS[gb], CARDS[gb] - DRIVER_BYTES), model, demand)


@pytest.mark.parametrize("context", [2048, 8192, 32768, 131072])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("gb", CARDS)
def test_models_fit_the_cards_that_they_are_bought_for(gb: int, name: str, context: int) -> None:
    model = replace(MODELS[name], context=context)
    names = list(MODELS)
    if names.index(name) > names.index(LARGEST[gb]):
        with pytest.raises(UnsupportedModelError, match="GiB"):
            on(gb, model)
        return
    if context > 32768 and name == LARGEST[gb]:
        return  # the mask of a long context may be what does not fit
    found = on(gb, model)
    assert sum(found.kinds.values()) <= CARDS[gb] - DRIVER_BYTES
    assert min(found.kinds.values()) >= 0
    assert found.room.context_length >= 400
    assert found.room.max_rows == DEMAND.rows
    smaller = names.index(name) < names.index(LARGEST[gb]) - 1
    assert not smaller or found.room.context_length >= min(context, 4000)


@pytest.mark.parametrize(("gb", "name"), [(12, "14B"), (16, "24B")])
def test_flattened_scales_are_what_does_not_fit(gb: int, name: str) -> None:
    model = MODELS[name]
    flattened = replace(model, scales=4 * model.quantized // 64)
    assert flattened.scales + flattened.weights > 1.05 * (model.scales + model.weights)
    assert on(gb, model)
    with pytest.raises(UnsupportedModelError):
        on(gb, flattened)


@given(
    gb=st.sampled_from(list(CARDS)),
    name=st.sampled_from(list(MODELS)),
    context=st.integers(64, 131072),
    rows=st.integers(1, 256),
    graphs=st.integers(0, 15),
    workers=st.integers(1, 4),
    is_loaded=st.booleans(),
)
def test_no_plan_takes_more_than_there_is(
    *, gb: int, name: str, context: int, rows: int, graphs: int, workers: int, is_loaded: bool
) -> None:
    model = replace(MODELS[name], context=context)
    demand = Demand(rows, 1024, graphs, is_loaded=is_loaded)
    total = CARDS[gb]
    free = total - DRIVER_BYTES
    try:
        found = plan(Card(total, free, workers), model, demand)
    except UnsupportedModelError:
        return
    beside = found.cuda + found.weights + found.scales if is_loaded else 0
    assert workers * (sum(found.kinds.values()) - beside) <= free + workers * DRIVER_BYTES


@given(st.sampled_from(list(CARDS)), st.sampled_from(list(MODELS)), st.integers(64, 32768))
def test_loading_changes_nothing_of_a_plan(gb: int, name: str, context: int) -> None:
    model = replace(MODELS[name], context=context)
    try:
        before = on(gb, model)
    except UnsupportedModelError:
        return
    resident = before.cuda + before.weights + before.scales
    card = Card(CARDS[gb], CARDS[gb] - DRIVER_BYTES - resident)
    assert plan(card, model, replace(DEMAND, is_loaded=True)) == before


@given(st.sampled_from(list(MODELS)), st.integers(8 * GIB, 140 * GIB), st.integers(0, 8 * GIB))
def test_more_memory_never_gives_less(name: str, total: int, more: int) -> None:
    try:
        found = plan(Card(total, total), MODELS[name], DEMAND)
    except UnsupportedModelError:
        return
    richer = plan(Card(total + more, total + more), MODELS[name], DEMAND)
    assert richer.room.tokens >= found.room.tokens
    assert richer.room.context_length >= found.room.context_length


def test_two_workers_on_a_card_take_half_of_it_each() -> None:
    alone = on(80, MODELS["8B"])
    shared = plan(Card(CARDS[80], CARDS[80] - DRIVER_BYTES, workers=2), MODELS["8B"], DEMAND)
    resident = shared.cuda + shared.weights + shared.scales
    assert 2 * sum(shared.kinds.values()) <= CARDS[80]
    assert shared.keys_values < alone.keys_values / 2
    # The second finds the first there, loaded or not.
    later = Card(CARDS[80], CARDS[80] // 2 - resident - DRIVER_BYTES, workers=2)
    assert plan(later, MODELS["8B"], replace(DEMAND, is_loaded=True)).keys_values > 0.95 * shared.keys_values


def test_what_is_asked_for_is_given() -> None:
    assert on(24, MODELS["8B"], replace(DEMAND, gib=4)).keys_values <= 4 * GIB
    half, all_of_it = (on(24, MODELS["8B"], replace(DEMAND, share=share)) for share in (0.5, 1.0))
    assert half.keys_values == pytest.approx(all_of_it.keys_values / 2, rel=0.01)
    assert on(24, MODELS["8B"], replace(DEMAND, graphs=0)).graphs == 0


def test_copies_take_half_of_what_is_left_over_at_most() -> None:
    few = replace(MODELS["1.5B"], context=2048)
    found = on(24, few)
    assert found.room.tokens == 32 * 3072
    assert found.copies == 2 * few.quantized
    tight = on(8, replace(few, context=8192))
    assert tight.copies <= tight.left + 1
