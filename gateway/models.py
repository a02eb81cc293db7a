"""The model that the workers of the pool serve: what they all say about it, and its tokenizer."""

from dataclasses import dataclass, fields

from .request import ModelFacts
from .tokenizer import Tokenizer


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
            if getattr(facts, field.name) != getattr(served, field.name)
        ]
        if differing:
            raise ModelMismatchError("it does not hold the pool's model: " + ", ".join(differing))

    def adopt(self, model: ServedModel) -> None:
        """Serves the model from now on, if none is served yet. Raises ModelMismatchError as `check`."""
        self.check(model.facts)
        self.current = self.current or model
