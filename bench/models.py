"""What the sections of the engine's bench share."""

from dataclasses import dataclass

from bench.random_model import random_llama
from bench.step_floor import StepFloor
from worker.domain.config import Config
from worker.loading.loading import LoadedModel
from worker.runners.native.assembly import native_code


@dataclass(frozen=True)
class Models:
    """Two equal models, and the floor of their steps."""

    ours: LoadedModel
    """The engine's."""
    baseline: LoadedModel
    """For `generate()`; no engine has touched it."""
    floor: StepFloor

    @classmethod
    def load(cls) -> "Models":
        """Makes them."""
        baseline = random_llama()
        return cls(random_llama(native_code(Config())), baseline, StepFloor.of(baseline.model))
