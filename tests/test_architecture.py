"""The rules of the architecture: who may know whom, and what may be loaded where."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPONENTS = ("client", "gateway", "worker")
HEAVY = {"torch", "transformers", "bitsandbytes", "accelerate"}
PURE = (
    "gateway/scheduling/queue.py",
    "gateway/scheduling/placement.py",
    "gateway/request/validation.py",
    "gateway/request/defaults.py",
    "gateway/domain/sequence.py",
    "gateway/text/stopping.py",
    "gateway/domain/generation.py",
    "gateway/domain/ranking.py",
    "gateway/request/seeds.py",
    "gateway/text/output_text.py",
    "gateway/request/config_limits.py",
    "gateway/request/contradictions.py",
    "gateway/request/sequence_ids.py",
    "gateway/domain/logprobs.py",
    "gateway/domain/worker_words.py",
    "gateway/scheduling/scheduler.py",
    "gateway/scheduling/quarantine.py",
    "gateway/domain/tenancy.py",
    "gateway/scheduling/fair_share.py",
    "gateway/api/message_limits.py",
    "gateway/api/wire.py",
    "gateway/scheduling/admission_control.py",
    "gateway/api/load_report.py",
    "gateway/scheduling/outliers.py",
    "gateway/api/recent_answers.py",
    "gateway/request/resumption.py",
    "gateway/workers/pool/backoff.py",
    "gateway/workers/pool/placement.py",
    "worker/scheduling/scheduler.py",
    "worker/domain/sequence.py",
    "worker/domain/plan.py",
    "worker/scheduling/reading.py",
    "worker/domain/views.py",
    "worker/scheduling/chunk_budget.py",
    "worker/scheduling/chunk_cost.py",
    "worker/runners/cuda/capture/buckets.py",
    "worker/scheduling/precedence.py",
    "worker/scheduling/pressure.py",
    "worker/service/credits.py",
    "worker/engine/pace.py",
)
IMPURE = {"torch", "grpc", "asyncio", "time", "threading", "_thread", "concurrent", "multiprocessing"}


def modules(component: str) -> list[Path]:
    return sorted((ROOT / component).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (level, dotted name) of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield node.level, module
            yield from ((node.level, f"{module}.{alias.name}".lstrip(".")) for alias in node.names)


def imported_project_files(path: Path) -> set[Path]:
    """Returns the files of the same component that a file imports relatively."""
    found = set()
    for level, name in imports(path):
        if level:
            base = path.parents[level - 1].joinpath(*name.split("."))
            found |= {file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()}
    return found


def closure(path: Path) -> set[Path]:
    """Returns a file and everything of its component that it imports, directly or not."""
    seen: set[Path] = set()
    waiting = {path}
    while waiting:
        seen |= waiting
        waiting = {file for each in waiting for file in imported_project_files(each)} - seen
    return seen


@pytest.mark.parametrize("component", COMPONENTS)
def test_components_import_their_siblings_relatively_and_no_other_component(component: str) -> None:
    forbidden = {name for other in COMPONENTS for name in (other, f"textserve.{other}")}
    for path in modules(component):
        for level, name in imports(path):
            outside = level > len(path.relative_to(ROOT).parts) - 1
            absolute = level == 0 and any(name == f or name.startswith(f + ".") for f in forbidden)
            assert not outside, f"{path} reaches out of its component"
            assert not absolute, f"{path} imports {name}"


@pytest.mark.parametrize("component", COMPONENTS)
def test_no_component_has_a_module_for_everything(component: str) -> None:
    assert not {path.stem for path in modules(component)} & {"utils", "util", "common", "helpers", "misc", "manager"}


@pytest.mark.parametrize("component", ["client", "gateway"])
def test_client_and_gateway_never_name_a_heavy_package(component: str) -> None:
    for path in modules(component):
        assert not {name.split(".")[0] for level, name in imports(path) if level == 0} & HEAVY


@pytest.mark.parametrize(
    "module", ["client", "client.cli.main", "gateway.cli", "gateway.server", "gateway.workers.pool.embedded"]
)
def test_what_callers_and_gateways_load_is_free_of_torch(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in answer.stdout.split()}
    assert module.split(".", maxsplit=1)[0] in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_nothing_impure_themselves_or_through_others(name: str) -> None:
    for path in closure(ROOT / name):
        used = {imported.split(".")[0] for level, imported in imports(path) if level == 0}
        assert not used & IMPURE, f"{name} gets {used & IMPURE} from {path.relative_to(ROOT)}"


@pytest.mark.parametrize("component", [*COMPONENTS, "protos/textserve/v1", "protos/textserve/internal/v1"])
def test_every_part_is_typed_for_its_users(component: str) -> None:
    assert (ROOT / component / "py.typed").is_file()


def test_the_checks_would_notice_a_forbidden_import(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text("import torch.nn\nfrom textserve.worker import engine\nfrom .time_source import now\n")
    assert {(0, "torch.nn"), (0, "textserve.worker"), (1, "time_source.now")} <= set(imports(path))
