"""What the pages name exists, and what exists is in `docs/parameters.md`; `docs/errors.md` has the service config."""

import argparse
import dataclasses
import json
import re
from pathlib import Path

import pytest
from google.protobuf.message import Message

from client._channel import SERVICE_CONFIG
from client.cli.flags import add_option_flags
from gateway.config import Config as GatewayConfig
from textserve.v1 import generation_pb2
from worker.domain.config import Config

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in [*ROOT.glob("*.md"), *DOCS.glob("*.md")] if path.name != "CHANGELOG.md")
PARAMETERS = (DOCS / "parameters.md").read_text()


def test_every_test_that_the_readme_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "README.md").read_text())
    assert len(named) > 10
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    links = [page.parent / link.partition("#")[0] for link in re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", text)]
    folders = "client|gateway|worker|protos|tests|bench|examples|tutor|docs|scripts"
    named = [ROOT / name for name in re.findall(rf"`((?:{folders})/[\w./]*\w/?)`", text)]
    assert [str(path.relative_to(ROOT)) for path in links + named if not path.exists()] == []


def fields(*messages: type[Message]) -> list[str]:
    return [field.name for message in messages for field in message.DESCRIPTOR.fields]


def section(title: str) -> str:
    """What stands below a heading of the second level."""
    return PARAMETERS.split(f"\n## {title}\n")[1].split("\n## ")[0]


def table_names(text: str) -> list[str]:
    """The names in the first column of all tables."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def option_flags() -> dict[str, str]:
    """The flags of `textserve generate` that are options, each with the option's name."""
    command = argparse.ArgumentParser(add_help=False)
    add_option_flags(command)
    return {flag: action.dest for action in command._actions for flag in action.option_strings}


def test_every_field_of_a_request_is_in_one_table() -> None:
    messages = (generation_pb2.GenerateRequest, generation_pb2.GenerationConfig, generation_pb2.OutputOptions)
    asked = [*fields(*messages), *fields(generation_pb2.ChatPrompt)]
    asked.remove("messages")  # told of in words
    assert sorted(table_names(PARAMETERS.split("\n### ")[0])) == sorted(asked)


def test_every_field_of_a_log_probability_is_in_its_table() -> None:
    assert sorted(table_names(PARAMETERS.split("\n### ")[1])) == sorted(fields(generation_pb2.TokenLogprob))


def test_the_order_names_what_works_on_logits_each_once() -> None:
    steps = [line for line in section("Order").splitlines() if re.match(r"\d+\. ", line)]
    numbers = [int(line.split(".")[0]) for line in steps]
    assert numbers == list(range(1, len(steps) + 1))
    names = [name for line in steps for name in re.findall(r"`(\w+)`", line)]
    tables = "\n".join(map(section, ("Sampling", "Repetition", "Which tokens may come up")))
    of_the_end = ["min_new_tokens", "exponential_decay_length_penalty"]
    assert sorted(names) == sorted({*table_names(tables), *of_the_end} - {"do_sample", "seed"})


def test_every_flag_that_is_named_exists() -> None:
    named = set(re.findall(r"`(--?[a-z][\w-]*)", PARAMETERS))
    of_workers = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Config)}
    assert {"--top-p", "-n", "--max-rows"} <= named <= option_flags().keys() | of_workers


@pytest.mark.parametrize("config", [GatewayConfig, Config], ids=["gateway", "worker"])
def test_every_flag_is_explained_to_whoever_operates_it(config: type) -> None:
    behind_dashes = {"worker_args"}
    names = {field.name.replace("_", "-") for field in dataclasses.fields(config) if field.name not in behind_dashes}
    text = (DOCS / "operating.md").read_text()
    assert sorted(name for name in names if not re.search(rf"--(no-)?{name}\b", text)) == []


def test_the_service_config_for_other_languages_is_the_clients() -> None:
    printed = (DOCS / "errors.md").read_text().split("```json\n")[1].split("```")[0]
    assert json.loads(printed) == SERVICE_CONFIG
