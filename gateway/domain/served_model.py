"""The model that the workers of the pool serve: what they all say about it, and its tokenizer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Protocol

from .errors import model_not_found, no_worker
from .request import ChatPrompt, ModelFacts, TemplateFacts

# Workers of one model may have memories of different sizes.
_ROOM = ("max_rows", "prompt_logprobs_limit", "pool_tokens")


class ModelMismatchError(Exception):
    """A worker holds another model than the pool."""


class Piece(Protocol):
    """What one token stands for; `text.pieces` says more."""

    @property
    def data(self) -> bytes: ...
    @property
    def begin(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def is_special(self) -> bool: ...


class Tokenizer(Protocol):
    """What the gateway asks of a model's tokenizer; `text.tokenizer` says what each of it is."""

    special_ids: frozenset[int]
    dependent_ids: frozenset[int]
    replacements: tuple[tuple[str, str], ...]
    name_of: Callable[[int], str | None]
    id_count: int
    takes_tools: bool

    @property
    def has_chat_template(self) -> bool: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def render(self, chat: ChatPrompt) -> str: ...

    def pieces(self, text: str, *, add_special_tokens: bool = True) -> Iterable[Piece]: ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...

    def encode_chat(self, chat: ChatPrompt) -> list[int]: ...

    def join(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model with everything that the gateway needs to know of it."""

    facts: ModelFacts
    tokenizer: Tokenizer

    @property
    def template(self) -> TemplateFacts:
        """What is known of its chat template."""
        return TemplateFacts(self.tokenizer.has_chat_template, takes_tools=self.tokenizer.takes_tools)


class Models:
    """Holds the model that is served: that of the workers that are connected. One pool serves one model.

    Another one takes its place once no worker of it is connected and nothing is left that only such a worker could do.

    Args:
        is_awaited: Whether requests run or wait here that were made for the model that is served.
    """

    def __init__(self, is_awaited: Callable[[], bool] = lambda: False) -> None:
        self.current: ServedModel | None = None
        """With the least room of the workers that are connected: what is admitted must fit on every one that may have
        to go on. While none is, that of the last one."""
        self._is_awaited = is_awaited
        self._connected: list[ModelFacts] = []

    def named(self, name: str) -> ServedModel:
        """The model of that name; with an empty one, the model that is served.

        Raises ServiceError: NO_WORKER before any worker has been ready, MODEL_NOT_FOUND.
        """
        if self.current is None:
            raise no_worker()
        if name not in {"", self.current.facts.name}:
            raise model_not_found(name, self.current.facts.name)
        return self.current

    def knows(self, facts: ModelFacts) -> bool:
        """Whether a worker's model is the one that is served."""
        return self.current is not None and not _differing(facts, self.current.facts)

    def serves(self, model: ServedModel) -> bool:
        """Whether it is still the one that is served, in whatever room."""
        return self.current is not None and model.tokenizer is self.current.tokenizer

    def check(self, facts: ModelFacts) -> None:
        """Raises ModelMismatchError if a worker's model is not the one that is served, and can't take its place now."""
        if self.current is None or not (self._connected or self._is_awaited()):
            return
        served = self.current.facts
        if differing := _differing(facts, served):
            told = (f"{name} {getattr(facts, name)!r} instead of {getattr(served, name)!r}" for name in differing)
            raise ModelMismatchError("it does not hold the pool's model: " + ", ".join(told))

    def set_model(self, model: ServedModel) -> None:
        """Serves the model from now on, unless it is served already. Raises ModelMismatchError as `check`."""
        self.check(model.facts)
        if not self.knows(model.facts):
            self.current = model

    @contextmanager
    def connected(self, facts: ModelFacts) -> Iterator[None]:
        """Counts a worker of the served model among those that are connected."""
        self._connected.append(facts)
        self._lower_limits()
        try:
            yield
        finally:
            self._connected.remove(facts)
            self._lower_limits()

    def _lower_limits(self) -> None:
        if self.current is None or not self._connected:
            return
        room = {name: min(getattr(facts, name) for facts in self._connected) for name in _ROOM}
        self.current = replace(self.current, facts=replace(self.current.facts, **room))


def _differing(facts: ModelFacts, served: ModelFacts) -> list[str]:
    """Names of the facts in which they are not of one model."""
    names = (field.name for field in fields(ModelFacts) if field.name not in _ROOM)
    return [name for name in names if getattr(facts, name) != getattr(served, name)]
