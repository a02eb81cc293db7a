"""The C sampler chooses the tokens that torch chooses, for every setting, size and number of threads."""

import gc
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import worker.sampling.native.native_sampler
from tests.examples import examples
from tests.worker.sampling.native.comparison import assert_same, random_batch, random_logits, with_seeds
from tests.worker.sampling.settings import batches
from tests.worker.sampling.test_sample import EVERY, EXTREME
from worker.domain.sequence import SamplingParameters, Sequence
from worker.sampling.native.edits import MAKERS
from worker.sampling.native.native_sampler import NativeSampler
from worker.sampling.random_numbers import uniforms
from worker.sampling.stages import PROCESSORS
from worker.sampling.weights import WEIGHT_UNIT, in_units

SIZES = [1, 2, 7, 8, 9, 255, 256, 257, 1000, 5003, 8192, 8193, 20_011]
"""Around the sizes of lanes, groups and parts, and odd ones."""


@examples(given(batch=batches(**EVERY)), few=60, many=400)
def test_random_batches_get_the_tokens_that_torch_chooses(
    native: NativeSampler, batch: tuple[Tensor, list[Sequence]]
) -> None:
    assert_same(native, *batch)


@examples(given(batch=batches(**EXTREME), scale=st.sampled_from([1e-30, 1.0, 1e30])), few=30, many=200)
def test_extreme_settings_get_the_tokens_that_torch_chooses(
    native: NativeSampler, batch: tuple[Tensor, list[Sequence]], scale: float
) -> None:
    logits, rows = batch
    assert_same(native, logits * scale, rows)


@examples(given(batch=batches(**EVERY), tokens=st.lists(st.integers(0, 3), min_size=1, max_size=8)), few=10, many=60)
def test_rows_get_the_same_tokens_from_step_to_step(
    native: NativeSampler, batch: tuple[Tensor, list[Sequence]], tokens: list[int]
) -> None:
    logits, rows = batch
    for token in tokens:
        assert_same(native, logits, rows)
        for row in rows:
            row.output.append(token)


@pytest.mark.parametrize("count", [8, pytest.param(50, marks=pytest.mark.long)])
@pytest.mark.parametrize("vocabulary", SIZES)
def test_vocabularies_of_all_sizes_get_the_same_tokens(native: NativeSampler, vocabulary: int, count: int) -> None:
    rng = random.Random(vocabulary)
    for _ in range(count):
        assert_same(native, *random_batch(rng, vocabulary, seeds=rng.choice([1, 2, 20])))


@pytest.mark.parametrize("seed", range(6))
def test_few_rows_that_are_shared_out_in_parts_get_the_same_tokens(native: NativeSampler, seed: int) -> None:
    assert_same(native, *random_batch(random.Random(seed), 150_001, seeds=1 + seed % 2))


@pytest.mark.long
def test_many_settings_of_large_vocabularies_get_the_same_tokens(native: NativeSampler) -> None:
    rng = random.Random(0)
    for _ in range(500):
        assert_same(native, *random_batch(rng, rng.choice([300, 2048, 32_003]), seeds=rng.choice([1, 30])))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("vocabulary", [5, 256, 20_011])
def test_one_bad_logit_anywhere_is_found_and_others_are_unaffected(
    native: NativeSampler, bad: float, vocabulary: int
) -> None:
    rng = random.Random(1)
    for place in {0, vocabulary // 2, vocabulary - 1}:
        logits, rows = random_batch(rng, vocabulary, seeds=3)
        logits[1, place] = bad
        assert_same(native, logits, rows)
        assert native(logits, rows).finite == [True, False, True]


def test_large_finite_logits_are_finite(native: NativeSampler) -> None:
    logits = torch.full((1, 1000), 3.0e38)
    assert_same(native, logits, [Sequence(0, [0], SamplingParameters(1, do_sample=True))])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_any_floating_type_and_stride_are_taken(native: NativeSampler, dtype: torch.dtype) -> None:
    logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).T.to(dtype)
    rows = with_seeds(Sequence(0, [0], SamplingParameters(1, do_sample=True, top_k=9, logit_bias=((0, 9.0),))), 5)
    assert native(logits, rows).tokens == native(logits.float().contiguous(), rows).tokens
    assert native(logits[:1].expand(5, -1), rows).tokens == native(logits[:1].repeat(5, 1), rows).tokens


def test_a_batch_without_rows_has_no_tokens(native: NativeSampler) -> None:
    assert native(torch.zeros(0, 7), []).tokens == []


def test_rows_that_are_left_nothing_are_torchs(native: NativeSampler) -> None:
    nothing: dict[str, Any] = {"suppress_tokens": frozenset(range(8)), "eos_token_ids": frozenset({2, 4})}
    logits = torch.tensor([[0.0, 9.0, 3.0, 8.0, 4.0, 2.0, 1.0, 0.0]] * 2)
    rows = [
        Sequence(0, [0], SamplingParameters(9, logprobs=True, top_logprobs=2, **nothing)),
        Sequence(1, [0], SamplingParameters(9, do_sample=True, **nothing)),
    ]
    assert_same(native, logits, rows)
    assert native(logits, rows).tokens == [4, 4]


def test_what_is_kept_of_a_sequence_goes_with_it(native: NativeSampler) -> None:
    sequence = Sequence(1, [1, 2, 1], SamplingParameters(9, repetition_penalty=1.5, bad_words_ids=((1,), (2, 3))))
    native(torch.zeros(1, 5), [sequence])
    gone = ref(sequence)
    del sequence
    gc.collect()
    assert gone() is None


def test_every_processor_is_known() -> None:
    assert set(MAKERS) == {stage.apply for stage in PROCESSORS}


def powers_differ(native: NativeSampler, x: Tensor) -> bool:
    """Returns whether e to the power of any of these is another float32 than torch's, or adds up to something else."""
    powers, units = native._functions.powers(x)
    expected = x.double().exp().float()
    return not torch.equal(powers, expected) or units != int(in_units(expected, WEIGHT_UNIT).sum())


def floats(step: int) -> Tensor:
    """Returns every n-th float32 from -2^-26, of which e to the power is 1, to -110, where it is 0."""
    first, last = (int(torch.tensor(each).view(torch.int32)) for each in (-(2.0**-26), -110.0))
    return torch.arange(first, last, step, dtype=torch.int32).view(torch.float32)


def test_powers_are_the_nearest_float32_as_torchs_are(native: NativeSampler) -> None:
    assert not powers_differ(native, floats(997))
    assert not powers_differ(native, torch.tensor([0.0, -0.0, -torch.inf, -3e38, -1e-40]))


@pytest.mark.long
def test_every_power_is_torchs(native: NativeSampler) -> None:
    assert not any(powers_differ(native, part) for part in floats(1).split(1 << 22))


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40))
def test_random_numbers_are_the_same(native: NativeSampler, seed: int, index: int) -> None:
    assert native._functions.uniform(seed, index) == uniforms([seed], [index])[0]


MISTAKES = [
    ("w->broken = w->weighs_all = 0;", "w->weighs_all = 0;", "one bad row breaks those after it"),
    ("broken |= (bits & 0x7f800000) == 0x7f800000;", "", "NaN is not noticed"),
    ("int64_t group = begin; group < end; group++", "int64_t group = begin; group + 1 < end; group++", "no last group"),
    ("least_of_maxima(w, by->top_k)", "least_of_maxima(w, (by->top_k + 1) / 2)", "half of the k largest"),
    (
        "for (int64_t place = 0; place < e->count",
        "for (int64_t place = 1; place < e->count",
        "the first id is not edited",
    ),
    ("undo_edits(&w->row", "if (0) undo_edits(&w->row", "logits stay changed"),
    ("if (as_share(before) > rest) break;", "if (as_share(before) >= rest) break;", "a border that is not above"),
    ("s->scores[i] == least && i > last_out", "s->scores[i] == least", "all equals at the border stay"),
    ("return target < total ? target : total - 1;", "return target / 2;", "another draw"),
    ("- best) - entropy)", "- best) + entropy)", "distance from the entropy's negative"),
    ("s->scores[i] < best));\n}\n\n/* A number", "1));\n}\n\n/* A number", "epsilon cuts the likeliest, too"),
    ("k[0] += 0x9E3779B9;", "k[0] += 0x9E3779B8;", "another random number"),
    ("isfinite(best / by->temperature) ? 0.0f : best", "0.0f", "quotients overflow"),
    ("if (logprob >= least)", "if (logprob > least)", "fewer alternatives"),
]


@pytest.mark.parametrize(("right", "wrong"), [each[:2] for each in MISTAKES], ids=[each[2] for each in MISTAKES])
def test_a_mistake_in_the_c_code_is_noticed(
    right: str, wrong: str, mistaken: Callable[[str, str], NativeSampler]
) -> None:
    sampler = mistaken(right, wrong)
    assert not agrees(sampler)


def agrees(sampler: NativeSampler) -> bool:
    """Returns whether the comparisons of this file find nothing, in short."""
    rng = random.Random(5)
    try:
        for vocabulary in (9, 257, 300, 5003):
            for _ in range(25):
                assert_same(sampler, *random_batch(rng, vocabulary, seeds=10))
        logits, rows = random_batch(rng, 300, seeds=3)
        logits[1, 7] = torch.nan
        assert_same(sampler, logits, rows)
        ties = random_logits(rng, 1, 64).round().repeat(60, 1)
        for share in (0.15, 0.25, 0.5, 0.75, 0.95):
            rows = with_seeds(Sequence(0, [0], SamplingParameters(1, do_sample=True, top_p=share)), 60)
            assert_same(sampler, ties, rows)
            assert_same(sampler, torch.zeros_like(ties), rows)
    except (AssertionError, MemoryError):
        return False
    return True


def test_without_a_mistake_the_short_comparison_finds_none(native: NativeSampler) -> None:
    assert agrees(native)


def test_other_devices_are_torchs(native: NativeSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def recorded(logits: Tensor, _: object) -> None:
        taken.append(logits.device.type)

    monkeypatch.setattr(worker.sampling.native.native_sampler, "sample", recorded)
    native(torch.zeros(1, 4, device="meta"), [Sequence(0, [0], SamplingParameters(1))])
    assert taken == ["meta"]


def test_a_library_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sampling.so").write_text("none")
    with pytest.raises(OSError, match="sampling"):
        NativeSampler(tmp_path / "sampling.so", 1)
