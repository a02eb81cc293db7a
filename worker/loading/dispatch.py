"""A model that accelerate has dispatched over several devices: where it computes, and what is kept elsewhere.

Weights that are offloaded, to disk or from a GPU to the CPU, lie on torch's "meta" device, without data; a hook on
their module brings them to the device that computes, for one forward pass.
"""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, SequentialHook
from torch import Tensor, nn
from transformers.integrations.accelerate import load_offloaded_parameter

_META = torch.device("meta")


def execution_devices(model: nn.Module) -> tuple[torch.device, ...]:
    """Returns the devices that compute, sorted by name."""
    hooks = (hook for module in model.modules() for hook in _hooks(module))
    computing = {torch.device(hook.execution_device) for hook in hooks if hook.execution_device is not None}
    holding = {parameter.device for parameter in model.parameters()}
    return tuple(sorted((computing | holding) - {_META}, key=str))


def input_device(model: Any) -> torch.device:  # noqa: ANN401 - transformers models share no useful static type
    """Returns where token ids go: where the embeddings are looked up."""
    embeddings = model.get_input_embeddings()
    device: torch.device = embeddings.weight.device
    return execution_devices(embeddings)[0] if device == _META else device


def _hooks(module: nn.Module) -> Iterator[AlignDevicesHook]:
    hook = getattr(module, "_hf_hook", None)
    each = hook.hooks if isinstance(hook, SequentialHook) else [hook]
    return (hook for hook in each if isinstance(hook, AlignDevicesHook))


def offload_places(model: nn.Module) -> tuple[str, ...]:
    """Returns where the offloaded weights are kept: "cpu", "disk", both, or nothing if all are where they are used."""
    if not offloaded_bytes(model):
        return ()
    device_map: dict[str, object] = getattr(model, "hf_device_map", None) or {}
    places = {"cpu", "disk"} & {str(device) for device in device_map.values()}
    return tuple(sorted(places - {str(device) for device in execution_devices(model)}))


def offloaded_bytes(model: nn.Module) -> int:
    """Returns the size of the offloaded weights."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.device == _META)


def tensors(model: Any) -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401 - as above
    """Yields the tensors of a model by name; offloaded ones are read from where they are."""
    # Not the parameters alone: the scales of quantized weights are among the rest.
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            yield name, load_offloaded_parameter(model, name) if tensor.device == _META else tensor
