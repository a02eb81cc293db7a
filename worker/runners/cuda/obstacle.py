"""Why the decode steps of a model cannot be captured, as far as that shows before one is run."""

from typing import Any

from ...loading.bitsandbytes_offline import bnb
from ...loading.dispatch import execution_devices, offloaded_bytes

_MOVING_ROPES = {"dynamic", "longrope"}


def obstacle(model: Any) -> str:  # noqa: ANN401 - transformers models share no useful static type
    """Returns why no step of a model on a GPU can be captured; empty if nothing is known to be in the way."""
    if len(execution_devices(model)) != 1 or offloaded_bytes(model):
        return "the model is not on one GPU alone"
    return next(filter(None, map(_obstacle_in, model.modules())), "")


def _obstacle_in(module: Any) -> str:  # noqa: ANN401 - bitsandbytes ships no types
    """Returns why a module waits for the device in each step, which no captured one may."""
    if isinstance(module, bnb.nn.Linear8bitLt) and module.state.threshold > 0:
        return "LLM.int8 looks for outliers in what each layer is given; --int8-threshold 0 spares that"
    if _MOVING_ROPES & _rotary_kinds(module):
        return "its rotary frequencies depend on the longest row"
    return ""


def _rotary_kinds(module: Any) -> set[object]:  # noqa: ANN401 - each family has its own rotary embedding
    kinds = getattr(module, "rope_type", None)
    return set(kinds.values()) if isinstance(kinds, dict) else {kinds}
