"""The three commands read their words alike: each has a parser of its own, because they share the protos alone."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from client.cli.arguments import parse as parse_client
from gateway.cli import parse as parse_gateway
from worker.cli import parser as worker_parser


class Command(NamedTuple):
    """A command, with a flag of each kind; --model is one that takes a text in all of them."""

    parse: Callable[[Sequence[str]], dict[str, Any]]
    number: str
    switch: str


def of_client(words: Sequence[str]) -> dict[str, Any]:
    return vars(parse_client(["generate", "a prompt", *words], {}))


def of_gateway(words: Sequence[str]) -> dict[str, Any]:
    config = parse_gateway(words, {})
    return {name: getattr(config, name) for name in ("model", "grace", "reflection")}


def of_worker(words: Sequence[str]) -> dict[str, Any]:
    return vars(worker_parser().parse_args(words))


COMMANDS = {
    "textserve": Command(of_client, "timeout", "skip_special_tokens"),
    "textserve-gateway": Command(of_gateway, "grace", "reflection"),
    "textserve-worker": Command(of_worker, "drain_s", "cuda_graphs"),
}
commands = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@commands
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--model", "m"], "m"),
        (["--model=m"], "m"),
        (["--model", "two words"], "two words"),
        (["--model", ""], ""),
        (["--model="], ""),
        (["--model=a=b"], "a=b"),
        (["--model", "-x"], "-x"),
        (["--model=-x"], "-x"),
        (["--model", "--model"], "--model"),
        (["--model", "--no-such-flag"], "--no-such-flag"),
        (["--model", "-1e-1"], "-1e-1"),
        (["--model", "--"], "--"),
        (["--model=--"], "--"),
        (["--model", "@file"], "@file"),
        (["--model", "a", "--model", "b"], "b"),
    ],
    ids=str,
)
def test_the_word_behind_a_flag_is_its_value_whatever_it_begins_with(
    command: Command, words: list[str], text: str
) -> None:
    assert command.parse(words)["model"] == text


@commands
@pytest.mark.parametrize("form", ["{0}=5e-1", "{0} 5e-1", "{0} 0.5", "{0} 7 {0} 0.5"])
def test_a_number_has_the_forms_of_python_and_the_last_one_counts(command: Command, form: str) -> None:
    assert command.parse(form.format(flag(command.number)).split())[command.number] == 0.5


@commands
@pytest.mark.parametrize(("prefix", "value"), [("--", True), ("--no-", False)])
def test_a_switch_has_a_form_for_no(command: Command, prefix: str, value: bool) -> None:  # noqa: FBT001
    name = command.switch
    assert command.parse([flag(name).replace("--", prefix, 1)])[name] is value


@commands
def test_a_switch_does_not_take_the_word_behind_it(command: Command) -> None:
    values = command.parse([flag(command.switch), "--model", "m"])
    assert (values[command.switch], values["model"]) == (True, "m")


def complaint(command: Command, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ending:
        command.parse(words)
    assert ending.value.code
    return capsys.readouterr().err


@commands
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--mode", "m"], "--mode"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--no-such-flag=1"], "--no-such-flag"),
        (["--model"], "--model"),
        (["-x"], "-x"),
        (["a surplus word"], "a surplus word"),
    ],
    ids=str,
)
def test_flags_are_not_abbreviated_and_what_is_not_understood_is_named(
    command: Command, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in complaint(command, words, capsys)


@commands
@pytest.mark.parametrize("value", ["soon", "-x", "--", "", "1,5", "0x10"])
def test_what_is_no_number_is_named_with_its_flag(
    command: Command, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = complaint(command, [flag(command.number), value], capsys)
    assert flag(command.number) in told
    assert repr(value) in told


@commands
def test_a_switch_takes_no_value(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert flag(command.switch) in complaint(command, [flag(command.switch) + "=yes"], capsys)


@commands
def test_the_help_names_every_flag_and_ends_well(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        command.parse(["--help"])
    assert not ending.value.code
    assert {"--model", flag(command.number), flag(command.switch)} <= set(
        capsys.readouterr().out.replace(",", " ").split()
    )
