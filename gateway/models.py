"""The model that the workers of the pool serve: what they all say about it, and its tokenizer."""

from dataclasses import dataclass, fields, replace

from .request import ModelFacts
from .tokenizer import Tokenizer

# Workers of one model may have memories of different sizes.
_ROOM = ("max_rows", "prompt_logprobs_limit", "pool_tokens")


class ModelMismatchError(Exception):
    """A worker holds another model than the pool."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model with everything that the gateway needs to know of it."""

    facts: ModelFacts
    tokenizer: Tokenizer


class Models:
    """Holds the model that is served: the one of the first worker. One pool serves one model."""

    def __init__(self) -> None:
        self.current: ServedModel | None = None

    def check(self, facts: ModelFacts) -> None:
        """Raises ModelMismatchError if a worker's model is not the one that is served."""
        if self.current is None:
            return
        served = self.current.facts
        differing = [
            f"{field.name} {getattr(facts, field.name)!r} instead of {getattr(served, field.name)!r}"
            for field in fields(facts)
            if field.name not in _ROOM and getattr(facts, field.name) != getattr(served, field.name)
        ]
        if differing:
            raise ModelMismatchError("it does not hold the pool's model: " + ", ".join(differing))

    def adopt(self, model: ServedModel) -> None:
        """Serves the model from now on, if none is served yet. Raises ModelMismatchError as `check`."""
        self.check(model.facts)
        self.current = self.current or model

    def narrow(self, facts: ModelFacts) -> None:
        """Takes in the room of another worker: what is admitted must fit on every worker that may have to go on."""
        if self.current is None:
            return
        served = self.current.facts
        narrowed = replace(
            served,
            max_rows=min(served.max_rows, facts.max_rows),
            prompt_logprobs_limit=min(served.prompt_logprobs_limit, facts.prompt_logprobs_limit),
            pool_tokens=min(served.pool_tokens, facts.pool_tokens),
        )
        self.current = replace(self.current, facts=narrowed)
