"""What the `textserve` command prints, as strings."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..errors import TextserveError, UnavailableError
from ..types.generation_config import GenerationConfig
from ..types.values import Generation, Model, ModelCapability


def generation_text(generation: Generation) -> str:
    """The text; each of several below a line with its number in brackets."""
    if len(generation.candidates) == 1:
        return generation.text
    return "\n".join(f"[{index}]\n{each.text}" for index, each in enumerate(generation.candidates))


def generation_json(generation: Generation) -> str:
    """The answer as one line of JSON; times in seconds. Text, reason and stop are those of the first candidate."""
    return json.dumps(
        {
            "text": generation.text,
            "finish_reason": generation.finish_reason,
            "stop_sequence": generation.stop_sequence,
            "stop_token_id": generation.candidates[0].stop_token_id,
            "usage": asdict(generation.usage),
            "seed": generation.seed,
            "timing": asdict(generation.timing),
            "model": generation.model,
            "fingerprint": generation.fingerprint,
            "config": _config(generation.config),
            "worker": generation.worker,
            "attempt_count": generation.attempt_count,
            "resumed": generation.resumed,
            "stop_sequences": list(generation.stop_sequences),
            "candidates": [asdict(each) for each in generation.candidates],
            "prompt_token_ids": generation.prompt_token_ids,
            "prompt_logprobs": [asdict(each) for each in generation.prompt_logprobs],
            "server_request_id": generation.server_request_id,
        }
    )


def models_json(models: Sequence[Model]) -> str:
    """The models as one line of JSON."""
    return json.dumps(
        {
            "models": [
                asdict(each)
                | {
                    "default_generation_config": _config(each.default_generation_config),
                    "capabilities": sorted(each.capabilities),
                }
                for each in models
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
            "yes" if ModelCapability.CHAT in each.capabilities else "no",
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
    """What the server has named."""
    return {name: value for name, value in asdict(config).items() if value not in (None, ())}
