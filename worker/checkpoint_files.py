"""Has transformers read weights from a checkpoint's files where it would map the files into memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from safetensors import safe_open
from transformers import modeling_utils


@contextmanager
def read_not_mapped() -> Iterator[None]:
    """Within this, each weight is read when it is wanted, and its 16 bits are gone as soon as it is quantized.

    A mapped checkpoint stays in the process's memory as a whole for as long as a single weight of it is used unchanged:
    the embeddings, for good. It is read page by page besides, and a file that is written to changes a running model.
    Not for models that stay in 16 bit: mapped, workers of one machine share the weights, and none needs to be copied.
    """
    modeling_utils.safe_open = _read  # type: ignore[assignment,attr-defined]
    try:
        yield
    finally:
        modeling_utils.safe_open = safe_open  # type: ignore[attr-defined]


def _read(file: Any, **settings: Any) -> safe_open:  # noqa: ANN401 - as safe_open
    return safe_open(file, **(settings | {"backend": "pread"}))
