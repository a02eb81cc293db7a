"""What the package offers and what it loads."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import client
import textserve.v1
from client import AsyncClient, AsyncStream, Client, GenerateOptions, Stream
from tests.client.callers import Caller
from tests.client.processes import environment
from tests.client.scripted_server import ScriptedServer


def public_methods(kind: type) -> dict[str, Callable[..., Any]]:
    return {name: each for name, each in inspect.getmembers(kind, callable) if not name.startswith("_")}


def rpcs_of_the_protocol() -> set[str]:
    modules = [
        importlib.import_module(f"textserve.v1.{each.name}")
        for each in pkgutil.iter_modules(textserve.v1.__path__)
        if each.name.endswith("_pb2")
    ]
    return {
        f"/{service.full_name}/{method.name}"
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def test_every_rpc_of_the_protocol_is_reached_by_a_method_of_the_client(server: ScriptedServer, caller: Caller) -> None:
    caller.generate("hi")
    caller.read("hi")
    caller.models()
    caller.model("tutor")
    caller.estimate("hi")
    caller.tokenize("hi")
    caller.detokenize([104, 105])
    assert {f"/textserve.v1.{each}" for each in server.calls} == rpcs_of_the_protocol()


@pytest.mark.parametrize(("blocking", "asynchronous"), [(Client, AsyncClient), (Stream, AsyncStream)])
def test_both_clients_have_the_same_methods_with_the_same_parameters(blocking: type, asynchronous: type) -> None:
    ours, theirs = public_methods(blocking), public_methods(asynchronous)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert inspect.signature(ours[name]).parameters == inspect.signature(theirs[name]).parameters, name
    assert inspect.signature(blocking).parameters.keys() == inspect.signature(asynchronous).parameters.keys()


def test_both_constructors_have_the_same_defaults() -> None:
    assert inspect.signature(Client).parameters == inspect.signature(AsyncClient).parameters


def test_the_docstring_of_generate_names_every_option() -> None:
    words = set((inspect.getdoc(Client.generate) or "").translate(str.maketrans(",.;", "   ")).split())
    assert set(inspect.get_annotations(GenerateOptions)) <= words


def test_every_option_has_a_docstring_of_its_own() -> None:
    # The interpreter keeps none for fields: they are read from the source.
    (definition,) = ast.parse(inspect.getsource(GenerateOptions)).body
    assert isinstance(definition, ast.ClassDef)
    _, *body = definition.body
    fields, docs = body[::2], body[1::2]
    assert [ast.unparse(each).split(":")[0] for each in fields] == list(GenerateOptions.__annotations__)
    assert all(isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) for each in docs)


def test_everything_that_is_exported_exists_and_is_documented() -> None:
    for name in client.__all__:
        value = getattr(client, name)
        assert not inspect.isclass(value) or inspect.getdoc(value), name


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert client.__version__ == project["version"]


LOADED = """
import sys
import {module}
third_party = [each for each in sys.modules.values() if "site-packages" in (getattr(each, "__file__", None) or "")]
print(*{{each.__name__.partition(".")[0] for each in third_party}})
print(*sys.modules)
"""


def loaded_by_import(module: str) -> tuple[set[str], set[str]]:
    """Third-party packages, and all modules, that a fresh interpreter has loaded after the import."""
    command = [sys.executable, "-c", LOADED.format(module=module)]
    lines = subprocess.run(command, env=environment(), check=True, capture_output=True, text=True).stdout.splitlines()
    return set(lines[0].split()), set(lines[1].split())


@pytest.mark.parametrize("module", ["client", "client.cli.main"])
def test_importing_the_client_loads_grpc_and_protobuf_and_nothing_else(module: str) -> None:
    # gRPC itself loads its tools where they are installed.
    of_grpc, _ = loaded_by_import("grpc")
    packages, _ = loaded_by_import(module)
    assert packages - of_grpc <= {"google"}


def test_importing_the_client_loads_no_other_part_of_the_project_and_no_command() -> None:
    _, modules = loaded_by_import("client")
    assert not {"gateway", "worker", "torch", "transformers", "argparse", "client.cli.main"} & modules
    assert not {each for each in modules if each.startswith("textserve.internal")}
