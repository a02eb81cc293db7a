"""Why a model is not served: one sentence for the operator, whatever library it was that gave up.

What is known to go wrong is checked, and raises `Refusal` with a sentence of ours. The rest is what transformers,
tokenizers, safetensors, bitsandbytes or torch raise, of any type: `doing` notes what was being done meanwhile.
"""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..engine.allocation import is_out_of_memory
from ..memory.budget import UnsupportedModelError

_LONGEST = 600
"""Characters: transformers' errors run over many lines, and some list every model that there is."""

_LASTING_DEVICE_ERRORS = ("device-side assert", "no kernel image is available")
"""What a device says of a model that it will never run, in errors that are otherwise those of a lost device."""


class Refusal(ValueError):  # noqa: N818 - it is no error of ours
    """The model is not served; the message is the sentence that says why, and what to do."""


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Notes in whatever is raised within that this was being done, such as "reading config.json"."""
    try:
        yield
    except Exception as error:
        error.add_note(what)
        raise


def sentence(error: Exception) -> str:
    """Returns one line that says what went wrong; what was being done stands before words that are not our own."""
    text = textwrap.shorten(str(error), _LONGEST, placeholder=" ...")
    if isinstance(error, Refusal | UnsupportedModelError):
        return text
    if not isinstance(error, OSError | ValueError) or not text:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    stages = getattr(error, "__notes__", [])
    return f"{stages[0]}: {text}" if stages else text


def may_pass(error: BaseException) -> bool:
    """Returns whether a new process may do better: the error, or what caused it, is of memory or of a lost device."""
    seen: BaseException | None = error
    while isinstance(seen, Exception):
        if is_out_of_memory(seen) or _is_lost_device(seen):
            return True
        seen = seen.__cause__
    return False


def _is_lost_device(error: Exception) -> bool:
    text = str(error)
    is_of_device = isinstance(error, torch.AcceleratorError) or text.startswith("CUDA error")
    return is_of_device and not any(lasting in text for lasting in _LASTING_DEVICE_ERRORS)
