"""Quantizes to 4 bit on a CPU as bitsandbytes does, to the last bit of finite weights, in a fraction of its time.

bitsandbytes looks number after number up in a sorted table, and holds some 20 bytes for each number of a weight
meanwhile. Here a weight is taken in pieces that stay in the cache, and a whole piece is compared with one bound between
two codes after the other. `register` makes it what bitsandbytes calls for tensors on a CPU.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...domain.refusal import Refusal
from .bitsandbytes_offline import bnb

_OPERATION = "bitsandbytes::quantize_4bit"
_PIECE = 1 << 14
"""Numbers in a piece: a multiple of every block size; from 32,768 on torch takes several threads."""
_LEAST_DIVISOR = 1e-38
"""As in bitsandbytes: what a block of zeros is divided by."""


_CHECKED_ROWS, _CHECKED_SHAPE = (1, 8, 64), (256, 512)
_TOLERANCES = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}


def check_product(device: torch.device, kind: str, dtype: torch.dtype) -> None:
    """Raises Refusal if bitsandbytes' 4-bit product on a device is not that with the dequantized weights.

    A fused kernel was once shipped that was silently wrong on one kind of card.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(_CHECKED_SHAPE, generator=generator)
    packed, state = bnb.functional.quantize_4bit(weight.to(device, dtype), quant_type=kind)
    codes = packed.view(-1).cpu().long()
    values = bnb.functional.get_4bit_type(kind, device="cpu")[torch.stack((codes >> 4, codes & 15), 1)]
    exact = (values.view(-1, state.blocksize) * state.absmax.float().cpu()[:, None]).view(_CHECKED_SHAPE)
    for rows in _CHECKED_ROWS:
        given = torch.randn(rows, _CHECKED_SHAPE[1], generator=generator).to(dtype)
        ours = bnb.matmul_4bit(given.to(device), packed.t(), quant_state=state).float().cpu()
        wanted = given.float() @ exact.T
        error = float((ours - wanted).norm() / wanted.norm())
        if not error <= _TOLERANCES[dtype]:
            raise Refusal(
                f"bitsandbytes {bnb.__version__} multiplies {rows} rows with 4-bit weights wrongly on {device}, by "
                f"{error:.2g} of the result: install another version of it, or give --quantization int8 or none"
            )


def register() -> None:
    """Lets bitsandbytes quantize tensors on a CPU by this module; not if it has code of its own for CPUs."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key(_OPERATION, "CPU"):  # noqa: SLF001 - there is no public way
        torch.library.register_kernel(_OPERATION, "cpu", quantize_4bit)


def quantize_4bit(
    weights: Tensor, blocksize: int, quant_type: str, quant_storage: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Returns the codes of a weight, two to a byte, and the greatest magnitude of each block.

    Args:
        weights: float16, bfloat16 or float32, of any shape; blocks are cut from it row by row.
        blocksize: numbers in a block, a power of 2 from 32 to 4096; the last one may have fewer.
        quant_type: "nf4" or "fp4".
        quant_storage: the type that the bytes are returned as, [_, 1]; magnitudes are float32.
    """
    flat = weights.detach().reshape(-1)
    whole = flat.numel() - flat.numel() % blocksize
    packed = torch.empty((flat.numel() + 1) // 2, dtype=torch.uint8)
    magnitudes = torch.empty(-(-flat.numel() // blocksize))

    def quantize(begin: int) -> None:
        end = min(begin + _PIECE, whole)
        blocks = flat[begin:end].float().view(-1, blocksize)
        greatest = magnitudes[begin // blocksize : end // blocksize]
        torch.amax(blocks.abs(), dim=1, out=greatest)
        scaled = blocks * (1.0 / greatest.clamp(min=_LEAST_DIVISOR)).unsqueeze(1)
        packed[begin // 2 : end // 2] = _packed(scaled, quant_type)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(quantize, range(0, whole, _PIECE)))
    if whole < flat.numel():
        rest = flat[whole:].float()
        magnitudes[-1] = rest.abs().max().clamp(min=_LEAST_DIVISOR)
        packed[whole // 2 :] = _packed(torch.nn.functional.pad(rest / magnitudes[-1], (0, len(rest) % 2)), quant_type)
    return packed.view(quant_storage).unsqueeze(1), magnitudes


def _packed(scaled: Tensor, quant_type: str) -> Tensor:
    """Returns the codes of numbers from -1 to 1, as many bytes as there are pairs of numbers."""
    bounds, codes = _table(quant_type)
    numbers = scaled.view(-1).numpy()
    place = np.full(numbers.shape, len(bounds), np.uint8)
    is_below = np.empty(numbers.shape, np.bool_)
    for bound in bounds:
        # Counted from above, so that what is not a number gets the place that bitsandbytes' search ends at.
        np.less_equal(numbers, bound, out=is_below)
        np.subtract(place, is_below.view(np.uint8), out=place)
    pairs = (place if quant_type == "nf4" else codes[place]).view("<u2")
    return torch.from_numpy(((pairs << 4) | (pairs >> 8)).astype(np.uint8))


@cache
def _table(quant_type: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Returns the 15 bounds between neighbouring codes' values, ascending, and the 16 codes in that order."""
    values: Tensor = bnb.functional.get_4bit_type(quant_type, device="cpu")
    codes = torch.argsort(values)
    ascending = values[codes]
    return ((ascending[:-1] + ascending[1:]) / 2).numpy(), codes.to(torch.uint8).numpy()
