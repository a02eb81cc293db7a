"""A checkpoint's files, opened so that each weight is known by its file and key, and is looked at when it is read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import modeling_utils


class Weight:
    """A weight in a file, which is read when it is indexed. Its shape and type are known from the file's header."""

    def __init__(self, piece: Any, file: str, key: str) -> None:  # noqa: ANN401 - safetensors ships no type for a slice
        """Stands for one key of a file; `piece` is safetensors' own slice of it."""
        self._piece = piece
        self._place = f"{file}: {key}"
        self.is_packed = False
        """Whether its numbers are codes, whatever their type says: bitsandbytes' storage may be of any type."""

    def __str__(self) -> str:
        """Returns the names of file and key."""
        return self._place

    def get_shape(self) -> list[int]:
        """Returns the shape, as the header has it."""
        shape: list[int] = self._piece.get_shape()
        return shape

    def get_dtype(self) -> str:
        """Returns safetensors' name of the type, such as "BF16"."""
        dtype: str = self._piece.get_dtype()
        return dtype

    def __getitem__(self, index: Any) -> Tensor:  # noqa: ANN401 - whatever tensors take
        """Reads the weight. Raises ValueError if it is not finite everywhere."""
        tensor: Tensor = self._piece[index]
        if not self.is_packed and not _is_finite(tensor):
            raise ValueError(f"{self} holds NaN or an infinity")
        return tensor


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.itemsize < 2 or not tensor.numel():
        return True
    # NaN comes through; `isfinite` takes thirty times as long.
    least, greatest = torch.aminmax(tensor)
    return bool(least.isfinite() & greatest.isfinite())


class _File:
    """What `safe_open` returns, but for the weights."""

    def __init__(self, path: Any, **settings: Any) -> None:  # noqa: ANN401 - as safe_open
        self._name = Path(path).name
        self._file: Any  # safetensors ships no types
        try:
            self._file = safe_open(path, **settings)
        except SafetensorError as error:
            raise SafetensorError(f"{self._name}: {error}") from error

    def __enter__(self) -> "_File":
        self._file.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.__exit__(*exception)

    def get_slice(self, key: str) -> Weight:
        return Weight(self._file.get_slice(key), self._name, key)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the rest is safetensors' own
        return getattr(self._file, name)


@contextmanager
def files_opened(*, mapped: bool) -> Iterator[None]:
    """Within this, what transformers opens gives it weights of the kind above.

    Not mapped, each weight is read when it is wanted, and its 16 bits are gone as soon as it is quantized. A mapped
    checkpoint stays in the process's memory as a whole for as long as a single weight of it is used unchanged: the
    embeddings, for good. It is read page by page besides, and a file that is written to changes a running model. But
    for models that stay in 16 bit: mapped, workers of one machine share the weights, and none needs to be copied.
    """
    backend: Mapping[str, str] = {} if mapped else {"backend": "pread"}

    def opened(path: Any, **settings: Any) -> _File:  # noqa: ANN401 - as safe_open
        return _File(path, **{**settings, **backend})

    modeling_utils.safe_open = opened  # type: ignore[assignment,attr-defined]
    try:
        yield
    finally:
        modeling_utils.safe_open = safe_open  # type: ignore[attr-defined]
