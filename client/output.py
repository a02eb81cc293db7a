"""What the `textserve` command prints, as strings."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .errors import TextserveError, UnavailableError
from .values import Generation, GenerationConfig, Model


def generation_json(generation: Generation) -> str:
    """The answer as one line of JSON; times in seconds."""
    return json.dumps(
        {
            "text": generation.text,
            "finish_reason": generation.finish_reason,
            "stop_sequence": generation.stop_sequence,
            "usage": asdict(generation.usage),
            "seed": generation.seed,
            "timing": asdict(generation.timing),
            "model": generation.model,
            "fingerprint": generation.fingerprint,
            "config": _config(generation.config),
            "worker": generation.worker,
        }
    )


def models_json(models: Sequence[Model]) -> str:
    """The models as one line of JSON."""
    return json.dumps(
        {
            "models": [
                asdict(each) | {"default_generation_config": _config(each.default_generation_config)} for each in models
            ]
        }
    )


def models_table(models: Sequence[Model]) -> str:
    """The models as a table with one line for each."""
    rows = [("NAME", "ARCHITECTURE", "CONTEXT", "QUANTIZATION", "CHAT", "READY WORKERS")]
    rows += [
        (
            each.name,
            each.architecture,
            str(each.context_length),
            each.quantization,
            "yes" if each.has_chat_template else "no",
            str(each.ready_worker_count),
        )
        for each in models
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def error_line(error: TextserveError, address: str) -> str:
    """The error in one line."""
    no_answer = isinstance(error, UnavailableError) and not error.reason
    text = f"no answer from {address}: {error}" if no_answer else str(error)
    return " ".join(text.split())


def _config(config: GenerationConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if value is not None}
