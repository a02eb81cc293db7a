"""The random numbers: the published vectors, and what sampling needs of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.sampling.random_numbers import Words, philox, uniforms

LARGEST = 2**63 - 1
# Standard deviation of a correlation of 20,000 independent pairs is 0.007; four of them.
PAIRS, CORRELATION = 20_000, 0.028
# The 99.9 % point of chi-square with 63 degrees of freedom.
CHI_SQUARE_63 = 103.4


def words(text: str) -> list[Words]:
    return [np.array([int(word, 16)], dtype=np.uint64) for word in text.split()]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter: str, key: str, expected: str) -> None:
    c0, c1, c2, c3 = words(counter)
    k0, k1 = words(key)
    assert philox((c0, c1, c2, c3), (k0, k1)) == tuple(words(expected))


@given(st.lists(st.tuples(st.integers(0, LARGEST), st.integers(0, LARGEST)), min_size=1, max_size=20))
def test_a_number_depends_on_its_seed_and_index_alone(pairs: list[tuple[int, int]]) -> None:
    seeds, indices = zip(*pairs, strict=True)
    together = uniforms(seeds, indices)
    assert together.tolist() == [uniforms([seed], [index])[0] for seed, index in pairs]
    assert ((together >= 0) & (together < 1)).all()


@pytest.mark.parametrize("seed", [0, 1, 2**32, LARGEST])
def test_the_numbers_of_a_seed_are_uniform(seed: int) -> None:
    counts, _ = np.histogram(uniforms([seed] * 64_000, range(64_000)), bins=64, range=(0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < CHI_SQUARE_63


def test_the_first_numbers_of_many_seeds_are_uniform() -> None:
    counts, _ = np.histogram(uniforms(range(64_000), [0] * 64_000), bins=64, range=(0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < CHI_SQUARE_63


@pytest.mark.parametrize(("other_seed", "other_index"), [(8, 0), (7, 1), (7, 2**32), (7 + 2**32, 0)])
def test_neighbouring_seeds_and_indices_are_independent(other_seed: int, other_index: int) -> None:
    ours = uniforms([7] * PAIRS, range(PAIRS))
    theirs = uniforms([other_seed] * PAIRS, range(other_index, other_index + PAIRS))
    assert abs(np.corrcoef(ours, theirs)[0, 1]) < CORRELATION


def test_seed_and_index_are_not_interchangeable() -> None:
    assert uniforms([3], [5]) != uniforms([5], [3])


def test_numbers_have_more_than_32_random_bits() -> None:
    scaled = uniforms([1] * 1000, range(1000)) * 2**32
    assert (scaled != np.floor(scaled)).all()
