"""What several of the worker's tests share: one tiny model on disk."""

from pathlib import Path

import pytest

from tests.worker.tiny_models import save_tiny_llama


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved, unquantized tiny Llama, not to be written to."""
    return save_tiny_llama(tmp_path_factory.mktemp("llama") / "tiny-llama")
