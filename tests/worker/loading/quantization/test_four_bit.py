"""Codes and magnitudes of 4-bit weights are bitsandbytes', to the last bit."""

import psutil
import pytest
import torch
from torch import Tensor

from worker.domain.refusal import Refusal
from worker.loading.load_report import peak_bytes
from worker.loading.quantization import four_bit
from worker.loading.quantization.bitsandbytes_offline import bnb
from worker.loading.quantization.four_bit import check_product

OPERATION = "bitsandbytes::quantize_4bit"
four_bit.register()


def bitsandbytes_own(*arguments: object) -> tuple[Tensor, Tensor]:
    """Calls what bitsandbytes gives to a kind of device that it has no kernel for, and gave to the CPU before us."""
    kernel = torch.library.get_kernel(OPERATION, "XLA")
    result: tuple[Tensor, Tensor] = kernel.call_boxed(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *arguments)
    return result


def agree(weights: Tensor, blocksize: int = 64, kind: str = "nf4", storage: torch.dtype = torch.uint8) -> bool:
    ours = torch.ops.bitsandbytes.quantize_4bit(weights, blocksize, kind, storage)
    theirs = bitsandbytes_own(weights, blocksize, kind, storage)
    assert [(each.dtype, each.shape) for each in ours] == [(each.dtype, each.shape) for each in theirs]
    same = [torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(ours, theirs, strict=True)]
    return all(same)


def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(shape).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("blocksize", [32, 64, 4096])
def test_weights_of_several_pieces_have_the_same_codes(dtype: torch.dtype, kind: str, blocksize: int) -> None:
    weights = random(100, 1024, dtype=dtype)
    assert weights.numel() > 3 * four_bit._PIECE
    assert agree(weights, blocksize, kind)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 13), (33, 65), (512, 172), (2, 32)])
def test_so_have_weights_that_are_no_whole_number_of_blocks(shape: tuple[int, int]) -> None:
    assert agree(random(*shape))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_so_have_the_bounds_between_codes_and_their_neighbours(kind: str) -> None:
    bounds = torch.tensor(four_bit._table(kind)[0])
    ends = torch.tensor([-1.0, 1.0, 0.0, -0.0])
    near = [bounds, bounds.nextafter(ends[0]), bounds.nextafter(ends[1]), ends.repeat(5)[:19]]
    assert agree(torch.cat(near), kind=kind)


def test_so_have_zeros_and_what_is_tiny_infinite_or_not_a_number() -> None:
    weights = random(8, 64, dtype=torch.float32)
    weights[0] = 0
    weights[1] *= 1e-42
    weights[2, 5] = torch.inf
    weights[3, 5] = -torch.inf
    weights[4, 5] = torch.nan
    assert agree(weights)


def test_several_threads_give_what_one_gives() -> None:
    weights, threads = random(300, 1024), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert agree(weights)
    finally:
        torch.set_num_threads(threads)


def test_bytes_may_be_stored_as_another_type() -> None:
    assert agree(random(64, 64), storage=torch.bfloat16)


def test_a_transposed_weight_is_read_by_its_own_rows() -> None:
    assert agree(random(128, 64).T)


def test_little_memory_is_taken_beside_the_weight() -> None:
    weights = random(4096, 2048)
    torch.ops.bitsandbytes.quantize_4bit(weights[:64], 64, "nf4", torch.uint8)
    # Whatever this process held at its peak, it holds now: more would show.
    held = bytearray(b"1") * (peak_bytes() - psutil.Process().memory_info().rss)
    before = peak_bytes()
    torch.ops.bitsandbytes.quantize_4bit(weights, 64, "nf4", torch.uint8)
    assert peak_bytes() - before < weights.nbytes
    del held


def test_another_kernel_for_cpus_is_left_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as this one, once it is there, or one that a later bitsandbytes brings."""

    def refused(*_: object) -> None:
        raise AssertionError("registered a second time")

    monkeypatch.setattr(torch.library, "register_kernel", refused)
    four_bit.register()


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bitsandbytes_product_is_found_right(kind: str, dtype: torch.dtype) -> None:
    check_product(torch.device("cpu"), kind, dtype)


@pytest.mark.parametrize("rows", [1, 8, 64])
def test_a_product_that_is_wrong_for_some_rows_is_a_refusal(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    right = bnb.matmul_4bit

    def wrong(given: Tensor, *arguments: object, **settings: object) -> Tensor:
        product: Tensor = right(given, *arguments, **settings)
        return product.roll(1, dims=-1) if len(given) == rows else product

    monkeypatch.setattr(bnb, "matmul_4bit", wrong)
    with pytest.raises(Refusal, match=f"multiplies {rows} rows with 4-bit weights wrongly on cpu"):
        check_product(torch.device("cpu"), "nf4", torch.bfloat16)
