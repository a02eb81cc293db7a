"""What is installed is what the checkout has, and what it needs is what it imports."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
FOLDERS = {name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()}
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
NOT_DECLARED = {
    "_typeshed": "type checkers alone know it",
    "triton": "torch brings it where it runs",
    "huggingface_hub": "transformers brings the version that it needs",
}
OF_GOOGLE = {"google.protobuf": "protobuf", "google.rpc": "googleapis-common-protos"}
"""Distributions that share a package."""


def packages() -> set[str]:
    """The names of all folders of the components that are packages, and those of the protos."""
    found = set()
    for name, folder in FOLDERS.items():
        of_protos = folder.is_relative_to(ROOT / "protos")
        for init in [folder / "py.typed"] if of_protos else folder.rglob("__init__.py"):
            found.add(".".join((name, *init.parent.relative_to(folder).parts)))
    return found


def test_every_package_is_listed_once_and_nothing_else() -> None:
    assert len(SETUPTOOLS["packages"]) == len(set(SETUPTOOLS["packages"]))
    assert set(SETUPTOOLS["packages"]) == packages()


@pytest.mark.parametrize("component", ["client", "gateway", "worker"])
def test_every_folder_with_a_module_is_a_package(component: str) -> None:
    folders = {path.parent for path in (ROOT / component).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def imported(folder: Path) -> set[str]:
    """The distributions of everything that the modules below a folder import, wherever in them."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    known = packages_distributions()
    tops = {name.partition(".")[0] for name in found} - {"google", "textserve", *NOT_DECLARED} - sys.stdlib_module_names
    return {
        *(name for package, name in OF_GOOGLE.items() if any(f"{each}.".startswith(f"{package}.") for each in found)),
        *(distribution.lower() for top in tops for distribution in known.get(top, [top])),
    }


def declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower() for requirement in requirements}


@pytest.mark.parametrize("component", ["client", "gateway", "worker"])
def test_a_component_needs_what_it_imports_and_nothing_else(component: str) -> None:
    base = declared(PYPROJECT["project"]["dependencies"])
    own = declared(EXTRAS.get(component, []))
    assert imported(ROOT / component) - base == own
    assert component != "client" or imported(ROOT / component) == base


def test_the_wheel_has_every_file_of_the_components(tmp_path: Path) -> None:
    """Built from a copy: setuptools leaves its work in the folder."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("client", "gateway", "worker", "protos"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("textserve/") and not name.endswith("/")}
        archive.extractall(installed := tmp_path / "installed")
    expected = {
        str(PurePosixPath(*name.split("."), path.relative_to(folder)))
        for name, folder in FOLDERS.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == expected
    suffixes = {PurePosixPath(name).suffix for name in inside}
    assert {".py", ".pyi", ".proto", ".c", ".h", ".json", ".safetensors", ".typed"} <= suffixes
    # Without `site`, which would find the checkout that is installed as editable.
    program = "import textserve.client, textserve.gateway.config; print(textserve.client.__file__)"
    path = os.pathsep.join((str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert loaded.startswith(str(installed))
