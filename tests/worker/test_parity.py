"""The engine gives every request what `generate()` gives it alone; and this suite would notice if it did not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.parity import (
    Alone,
    Recorder,
    engine_for,
    generate_each_alone,
    largest_difference,
    mismatches,
    mixed_sequences,
    run_with_random_arrivals,
)
from tests.worker.planted_mistakes import MISTAKES, Mistake
from tests.worker.tiny_models import VOCAB_SIZE, save_tiny_llama, tiny_llama
from worker.domain.config import Config
from worker.domain.sequence import SamplingParameters, Sequence, Status
from worker.loading.loading import load

REQUESTS, MANY = 24, 64
COUNTS = [REQUESTS, pytest.param(MANY, marks=pytest.mark.long)]
CANCELLED = range(5, MANY, 9)
NF4_KERNEL_TOLERANCE = 0.06
"""Largest difference of a logit through the 4-bit kernel, as a share of the largest logit: the kernel and 16-bit
activations round differently for different batch shapes. The largest seen over 144 requests was 0.038."""


def requests(count: int) -> list[Sequence]:
    return mixed_sequences(count, 1, vocab_size=VOCAB_SIZE)


def compare(model: Any, count: int, alone: dict[int, Alone] | None = None) -> list[str]:
    recorder, sequences = Recorder(), requests(count)
    run_with_random_arrivals(engine_for(model, recorder), sequences, 1, CANCELLED)
    assert all(sequence.is_finished for sequence in sequences)
    return mismatches(recorder, sequences, alone or generate_each_alone(model, sequences))


@pytest.fixture(scope="module")
def float32_model() -> Any:
    return tiny_llama()


@pytest.fixture(scope="module")
def alone(float32_model: Any) -> dict[int, Alone]:
    """What `generate()` makes of each request, no mistake being planted."""
    return generate_each_alone(float32_model, requests(REQUESTS))


@pytest.fixture(scope="module")
def nf4_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.mark.parametrize("count", COUNTS)
def test_float32_tokens_and_logits_equal_generate_alone(float32_model: Any, count: int) -> None:
    assert compare(float32_model, count) == []


@pytest.mark.parametrize("count", COUNTS)
def test_the_compared_run_slides_cancels_and_ends_in_every_way(float32_model: Any, count: int) -> None:
    sequences = requests(count)
    engine = engine_for(float32_model, Recorder())
    events = run_with_random_arrivals(engine, sequences, 1, CANCELLED)
    assert {s.status for s in sequences} == {Status.CANCELLED, Status.FINISHED_EOS, Status.FINISHED_LENGTH}
    assert events.slides > 0
    assert events.reviews > 0


@pytest.mark.parametrize("count", COUNTS)
def test_nf4_dequantized_to_float32_equals_generate_alone(nf4_folder: Path, count: int) -> None:
    model = load(Config(model=str(nf4_folder), compute_dtype="float32")).model.dequantize(torch.float32).float()
    assert compare(model, count) == []


@pytest.mark.parametrize("count", [8, pytest.param(24, marks=pytest.mark.long)])
def test_nf4_through_the_kernel_stays_within_its_tolerance(nf4_folder: Path, count: int) -> None:
    model = load(Config(model=str(nf4_folder))).model
    sequences = mixed_sequences(count, 3, vocab_size=VOCAB_SIZE)
    alone = generate_each_alone(model, sequences)
    recorder = Recorder(forced={number: result.tokens for number, result in alone.items()})
    run_with_random_arrivals(engine_for(model, recorder), sequences, 3)
    for number, result in alone.items():
        spread = max(float(step.abs().max()) for step in result.logits)
        difference = largest_difference(recorder.logits[number], result.logits)
        assert difference <= NF4_KERNEL_TOLERANCE * spread


@pytest.mark.parametrize("count", [16, pytest.param(32, marks=pytest.mark.long)])
def test_a_seeded_request_is_the_same_alone_and_in_company(float32_model: Any, count: int) -> None:
    sampling: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.95}
    company = mixed_sequences(count, 4, vocab_size=VOCAB_SIZE, **sampling)
    run_with_random_arrivals(engine_for(float32_model, Recorder()), company, 4)
    for sequence in mixed_sequences(count, 4, vocab_size=VOCAB_SIZE, **sampling):
        run_with_random_arrivals(engine_for(float32_model, Recorder()), [sequence], 4)
        assert sequence.output == company[sequence.sequence_id].output


def test_different_seeds_give_different_texts(float32_model: Any) -> None:
    sequences = [
        Sequence(seed, [5, 6, 7], SamplingParameters(max_new_tokens=16, do_sample=True, temperature=2.0, seed=seed))
        for seed in range(8)
    ]
    run_with_random_arrivals(engine_for(float32_model, Recorder()), sequences, 5)
    assert len({tuple(sequence.output) for sequence in sequences}) == 8


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_the_suite_notices_a_planted_mistake(
    mistake: Mistake, float32_model: Any, alone: dict[int, Alone], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mistake.owner, mistake.attribute, mistake.replacement)
    assert compare(float32_model, REQUESTS, alone) != []
