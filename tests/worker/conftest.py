"""What several of the worker's tests share: one tiny model on disk, and what is compiled."""

import os
from pathlib import Path

import pytest

from tests.worker.tiny_models import save_tiny_llama


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved, unquantized tiny Llama, not to be written to."""
    return save_tiny_llama(tmp_path_factory.mktemp("llama") / "tiny-llama")


@pytest.fixture(scope="session")
def compiled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled code is kept, for all processes of a test run: each level is compiled once."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "compiled"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
