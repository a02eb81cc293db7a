"""Why a model is not served: one sentence for the operator, whatever library it was that gave up.

What is known to go wrong is checked, and raises `Refusal` with a sentence of ours. The rest is what transformers,
tokenizers, safetensors, bitsandbytes or torch raise, of any type: `doing` notes what was being done meanwhile.
"""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 600
"""Characters: transformers' errors run over many lines, and some list every model that there is."""


class Refusal(ValueError):  # noqa: N818 - it is no error of ours
    """The model is not served; the message is the sentence that says why, and what to do."""


class UnsupportedModelError(Exception):
    """The model cannot be served; the message says why, in one sentence."""


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
