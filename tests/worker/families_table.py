"""What the worker makes of each family, as a table: `python -m tests.worker.families_table [--write]`."""

import sys
from pathlib import Path
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils import logging

from tests.worker.families import FAMILIES, Family, tiny_model
from tests.worker.parity import LOGITS_TOLERANCE
from worker.domain.refusal import UnsupportedModelError
from worker.loading.probe import layer_layouts
from worker.loading.quantization.quantization import layers_read_directly
from worker.memory.layout import Layout, prefills_whole

PAGE = Path(__file__).parents[2] / "docs/models.md"
BEGIN_MARK, END_MARK = "<!-- families -->", "<!-- /families -->"


def table() -> str:
    """Returns what the worker makes of each family, in Markdown."""
    head = (
        "| family | model class | positions | memory | prefill | quantized | exact |",
        "|---|---|---|---|---|---|---|",
    )
    return "\n".join((*head, *(_row(each) for each in FAMILIES)))


def _row(each: Family) -> str:
    model = tiny_model(each)
    begin = f"| {each.name} | `{type(model).__name__}` | {each.positions} |"
    try:
        layouts = layer_layouts(model)
    except UnsupportedModelError as error:
        return f"{begin} | | | refused: {error} |"
    prefill = "whole" if prefills_whole(layouts) else "in chunks"
    share = f"{100 * quantized_share(model):.0f} %"
    return f"{begin} {_memory(layouts)} | {prefill} | {share} | tokens; logits within {LOGITS_TOLERANCE:g} |"


def quantized_share(model: Any) -> float:
    """Returns the share of the layers' weights that bitsandbytes is given, of all but embeddings and head, 0 to 1."""
    kept = [*get_keys_to_not_convert(model), *layers_read_directly(model), *(model._keep_in_fp32_modules or ())]
    ends = [model.get_output_embeddings(), *(each for each in model.modules() if isinstance(each, nn.Embedding))]
    beside = {id(parameter) for module in ends if module is not None for parameter in module.parameters()}
    given = [
        module.weight
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, kept)
    ]
    total = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in beside)
    share: float = sum(weight.numel() for weight in given) / total
    return share


def _memory(layouts: list[Layout]) -> str:
    has_tokens = any(layout.tokens for layout in layouts)
    if not any(layout.states for layout in layouts):
        return "keys and values"
    return "both" if has_tokens else "recurrent state"


def main() -> None:
    """Prints the table and, if told so, writes it down."""
    logging.set_verbosity_error()
    made = table()
    sys.stdout.write(made + "\n")
    if "--write" in sys.argv:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN_MARK)
        after = rest.split(END_MARK)[1]
        PAGE.write_text(f"{before}{BEGIN_MARK}\n\n{made}\n\n{END_MARK}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
