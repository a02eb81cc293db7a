"""The rules of the house: who may know whom, what may be loaded where, and how large a folder gets."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPONENTS = ("client", "gateway", "worker")
HEAVY = {"torch", "transformers", "bitsandbytes", "accelerate"}
PROTOS = {"google", "textserve"}
IMPURE = {*HEAVY, *PROTOS, "grpc", "asyncio", "time", "threading", "_thread", "concurrent", "multiprocessing", "socket"}
MAX_MODULES = 12

ORDER = {
    "client": ("__main__", "cli", "", "_wire", "errors", "types"),
    "gateway": ("", "api", "request", "dispatch", "workers", "workers/pool", "scheduling", "text", "domain"),
    "worker": (
        "",
        "service",
        "engine",
        "runners/cuda",
        "runners/cuda/capture",
        "runners/cuda/llama",
        "runners/cuda/kernels",
        "runners/native",
        "runners",
        "scheduling",
        "sampling/native",
        "sampling",
        "loading",
        "loading/checkpoint",
        "loading/quantization",
        "memory",
        "domain",
    ),
}
"""Each component's folders, "" being its own: imports go down this list only."""

MUST_NOT_KNOW = {
    "client/cli": PROTOS,
    "client/types": {*PROTOS, "grpc"},
    "gateway/dispatch": {*PROTOS, "grpc"},
    "gateway/domain": IMPURE,
    "gateway/request": {*PROTOS, "grpc"},
    "gateway/scheduling": IMPURE,
    "gateway/text": {*PROTOS, "grpc", "asyncio"},
    "worker/domain": IMPURE,
    "worker/engine": {*PROTOS, "grpc", "asyncio", "transformers", "bitsandbytes"},
    "worker/loading": {*PROTOS, "grpc", "asyncio"},
    "worker/memory": {*PROTOS, "grpc", "asyncio", "bitsandbytes"},
    "worker/runners": {*PROTOS, "grpc", "asyncio"},
    "worker/sampling": {*PROTOS, "grpc", "asyncio", "transformers", "bitsandbytes"},
    "worker/scheduling": IMPURE,
    "worker/service": {"transformers", "bitsandbytes", "accelerate"},
}
"""Packages that no module of a folder may import; of what is pure, nor anything that it imports in its turn."""


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def folders(root: Path, component: str) -> list[Path]:
    """The component's folders of modules, itself included."""
    return sorted({path.parent for path in modules(root / component)})


def imports(path: Path) -> frozenset[tuple[int, str]]:
    """Returns (level, dotted name) of everything that a file imports, wherever in it and if for types alone."""
    return _imports_of(path.read_text())


@cache
def _imports_of(text: str) -> frozenset[tuple[int, str]]:
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {(0, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found.add((node.level, module))
            found |= {(node.level, f"{module}.{alias.name}".lstrip(".")) for alias in node.names}
    return frozenset(found)


def foreign_packages(path: Path) -> set[str]:
    return {name.split(".")[0] for level, name in imports(path) if level == 0}


def project_files(path: Path) -> set[Path]:
    """The files of the same component that a file imports relatively."""
    found = set()
    for level, name in imports(path):
        if level:
            base = path.parents[level - 1].joinpath(*name.split("."))
            found |= {file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()}
    return found


def closure(path: Path) -> set[Path]:
    """A file and everything of its component that it imports, directly or not."""
    seen: set[Path] = set()
    waiting = {path}
    while waiting:
        seen |= waiting
        waiting = {file for each in waiting for file in project_files(each)} - seen
    return seen


def floor_of(component: Path, path: Path) -> int:
    """Where a file stands in its component's order, the top being 0; a file may have a floor of its own."""
    inside = path.relative_to(component)
    order = ORDER[component.name]
    own = str(inside.with_suffix(""))
    folder = "" if str(inside.parent) == "." else str(inside.parent)
    return order.index(own if own in order else folder)


def folders_without_a_floor(root: Path) -> Iterator[str]:
    for component in COMPONENTS:
        known = {root / component / folder for folder in ORDER[component]}
        yield from (f"{folder} is in no order" for folder in folders(root, component) if folder not in known)


def imports_upwards(root: Path) -> Iterator[str]:
    for component in COMPONENTS:
        top = root / component
        for path in modules(top):
            for imported in sorted(project_files(path)):
                # The version and the like stand in a component's own __init__, which imports for its users alone.
                if imported != top / "__init__.py" and floor_of(top, imported) < floor_of(top, path):
                    yield f"{path} imports {imported}"


def forbidden_knowledge(root: Path) -> Iterator[str]:
    for folder, forbidden in MUST_NOT_KNOW.items():
        for path in modules(root / folder):
            known = closure(path) if forbidden is IMPURE else {path}
            yield from (
                f"{path} knows {package}, by {each}"
                for each in sorted(known)
                for package in sorted(foreign_packages(each) & forbidden)
            )


def large_folders(root: Path) -> Iterator[str]:
    for component in COMPONENTS:
        for folder in folders(root, component):
            count = len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
            if count > MAX_MODULES:
                yield f"{folder} has {count} modules"


def silent_folders(root: Path) -> Iterator[str]:
    for component in COMPONENTS:
        for folder in folders(root, component):
            path = folder / "__init__.py"
            text = ast.get_docstring(ast.parse(path.read_text())) if path.is_file() else None
            if not text or "must not" not in text:
                yield f"{folder} does not say what it is for and what it must not know"


RULES = (folders_without_a_floor, imports_upwards, forbidden_knowledge, large_folders, silent_folders)
Rule = Callable[[Path], Iterator[str]]


@pytest.mark.parametrize("rule", RULES)
def test_the_house_is_in_order(rule: Rule) -> None:
    assert not list(rule(ROOT))


def a_new_folder(root: Path) -> None:
    (root / "gateway/extras").mkdir()
    (root / "gateway/extras/__init__.py").write_text('"""It must not be here."""')


def an_import_upwards(root: Path) -> None:
    with (root / "gateway/domain/errors.py").open("a") as file:
        file.write("\nfrom ..api import health\n")


def an_import_upwards_for_types_within_a_function(root: Path) -> None:
    with (root / "worker/memory/slab.py").open("a") as file:
        file.write("\ndef f() -> None:\n    from ..engine.engine import Engine\n")


def torch_in_a_pure_folder(root: Path) -> None:
    with (root / "worker/scheduling/scheduler.py").open("a") as file:
        file.write("\nimport torch.nn\n")


def a_clock_below_a_pure_folder(root: Path) -> None:
    with (root / "gateway/domain/errors.py").open("a") as file:
        file.write("\nfrom time import monotonic\n")


def protobuf_in_dispatch(root: Path) -> None:
    with (root / "gateway/dispatch/dispatcher.py").open("a") as file:
        file.write("\nfrom textserve.v1 import generation_pb2\n")


def a_13th_file(root: Path) -> None:
    folder = root / "gateway/text"
    for number in range(MAX_MODULES + 1 - len([*folder.glob("[!_]*.py")])):
        (folder / f"more_{number}.py").touch()


def a_folder_that_says_nothing(root: Path) -> None:
    (root / "worker/engine/__init__.py").write_text('"""The engine."""\n')


@pytest.mark.parametrize(
    ("mistake", "rule"),
    [
        (a_new_folder, folders_without_a_floor),
        (an_import_upwards, imports_upwards),
        (an_import_upwards_for_types_within_a_function, imports_upwards),
        (torch_in_a_pure_folder, forbidden_knowledge),
        (a_clock_below_a_pure_folder, forbidden_knowledge),
        (protobuf_in_dispatch, forbidden_knowledge),
        (a_13th_file, large_folders),
        (a_folder_that_says_nothing, silent_folders),
    ],
)
def test_a_planted_mistake_is_found(mistake: Callable[[Path], None], rule: Rule, tmp_path: Path) -> None:
    for component in COMPONENTS:
        shutil.copytree(
            ROOT / component, tmp_path / component, ignore=shutil.ignore_patterns("__pycache__", "models", "*.[ch]")
        )
    assert not list(rule(tmp_path))
    mistake(tmp_path)
    assert list(rule(tmp_path))


@pytest.mark.parametrize("component", COMPONENTS)
def test_components_import_their_siblings_relatively_and_no_other_component(component: str) -> None:
    forbidden = {name for other in COMPONENTS for name in (other, f"textserve.{other}")}
    for path in modules(ROOT / component):
        for level, name in imports(path):
            outside = level > len(path.relative_to(ROOT).parts) - 1
            absolute = level == 0 and any(name == f or name.startswith(f + ".") for f in forbidden)
            assert not outside, f"{path} reaches out of its component"
            assert not absolute, f"{path} imports {name}"


@pytest.mark.parametrize("component", COMPONENTS)
def test_no_component_has_a_module_for_everything(component: str) -> None:
    names = {path.stem for path in modules(ROOT / component)}
    assert not names & {"utils", "util", "common", "helpers", "misc", "manager"}


@pytest.mark.parametrize("component", ["client", "gateway"])
def test_client_and_gateway_never_name_a_heavy_package(component: str) -> None:
    for path in modules(ROOT / component):
        assert not foreign_packages(path) & HEAVY


@pytest.mark.parametrize(
    "module", ["client", "client.cli.main", "gateway.cli", "gateway.server", "gateway.workers.pool.embedded"]
)
def test_what_callers_and_gateways_load_is_free_of_torch(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in answer.stdout.split()}
    assert module.split(".", maxsplit=1)[0] in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("component", [*COMPONENTS, "protos/textserve/v1", "protos/textserve/internal/v1"])
def test_every_part_is_typed_for_its_users(component: str) -> None:
    assert (ROOT / component / "py.typed").is_file()


def test_the_checks_would_notice_a_forbidden_import(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text("import torch.nn\nfrom textserve.worker import engine\nfrom .time_source import now\n")
    assert {(0, "torch.nn"), (0, "textserve.worker"), (1, "time_source.now")} <= imports(path)
