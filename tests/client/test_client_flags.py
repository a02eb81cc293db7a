"""The flags of `textserve generate` are the options of `generate`."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import GenerateOptions, Message
from client._wire.request import generate_request
from client.cli.arguments import parse
from client.cli.flags import add_option_flags
from client.cli.main import main
from client.cli.parser import Parser
from tests.client.scripted_server import Request, ScriptedServer


@pytest.fixture(autouse=True)
def address(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTSERVE_ADDRESS", server.address)


FLAGS: list[tuple[str, GenerateOptions]] = [
    ("--model m", {"model": "m"}),
    ("--truncate-prompt 9", {"truncate_prompt": 9}),
    ("--max-new-tokens 9", {"max_new_tokens": 9}),
    ("--min-new-tokens 0", {"min_new_tokens": 0}),
    ("--stop END --stop STOP", {"stop": ["END", "STOP"]}),
    ("--stop-token-id 0 --stop-token-id 9", {"stop_token_ids": [0, 9]}),
    ("--stop-token-ids 0,9 --stop-token-ids 3", {"stop_token_ids": [0, 9, 3]}),
    ("--request-id r1", {"request_id": "r1"}),
    ("--resume-from 5,6 --resume-from 2:7", {"resume_from": {0: [5, 6], 2: [7]}}),
    ("--include-stop-sequence", {"include_stop_sequence": True}),
    ("--ignore-eos", {"ignore_eos": True}),
    ("--no-ignore-eos", {"ignore_eos": False}),
    ("--exponential-decay-length-penalty 5,1.5", {"exponential_decay_length_penalty": (5, 1.5)}),
    ("--max-time 0.5", {"max_time": 0.5}),
    ("--partial-on-deadline", {"partial_on_deadline": True}),
    ("--do-sample", {"do_sample": True}),
    ("--no-do-sample", {"do_sample": False}),
    ("--temperature 0", {"temperature": 0}),
    ("--top-k 0", {"top_k": 0}),
    ("--top-p 0.5", {"top_p": 0.5}),
    ("--min-p 0", {"min_p": 0}),
    ("--typical-p 0.5", {"typical_p": 0.5}),
    ("--epsilon-cutoff 0", {"epsilon_cutoff": 0}),
    ("--seed 0", {"seed": 0}),
    ("--repetition-penalty 1.5", {"repetition_penalty": 1.5}),
    ("--presence-penalty -1e-1", {"presence_penalty": -0.1}),
    ("--frequency-penalty 0.5", {"frequency_penalty": 0.5}),
    ("--no-repeat-ngram-size 3", {"no_repeat_ngram_size": 3}),
    ("--logit-bias 5=-1.5 --logit-bias 0=2", {"logit_bias": {5: -1.5, 0: 2}}),
    ("--bad-words-ids 1,2 --bad-words-ids 3", {"bad_words_ids": [[1, 2], [3]]}),
    ("--allowed-token-ids 1,2 --allowed-token-ids 3", {"allowed_token_ids": [1, 2, 3]}),
    ("--suppress-tokens 1,2", {"suppress_tokens": [1, 2]}),
    ("--begin-suppress-tokens 1,2", {"begin_suppress_tokens": [1, 2]}),
    ("--forced-bos-token-id 0", {"forced_bos_token_id": 0}),
    ("--forced-eos-token-id 0", {"forced_eos_token_id": 0}),
    ("-n 3", {"num_return_sequences": 3}),
    ("--num-return-sequences 3", {"num_return_sequences": 3}),
    ("--best-of 3", {"best_of": 3}),
    ("--num-beams 2", {"num_beams": 2}),
    ("--length-penalty 0", {"length_penalty": 0}),
    ("--early-stopping true", {"early_stopping": True}),
    ("--early-stopping false", {"early_stopping": False}),
    ("--early-stopping never", {"early_stopping": "never"}),
    ("--ignored-defaults stop,top_k --ignored-defaults *", {"ignored_defaults": ["stop", "top_k", "*"]}),
    ("--echo", {"echo": True}),
    ("--skip-special-tokens", {"skip_special_tokens": True}),
    ("--no-skip-special-tokens", {"skip_special_tokens": False}),
    ("--token-ids", {"token_ids": True}),
    ("--logprobs", {"logprobs": True}),
    ("--top-logprobs 5", {"top_logprobs": 5}),
    ("--prompt-logprobs", {"prompt_logprobs": True}),
]


CHAT_FLAGS: list[tuple[str, GenerateOptions]] = [
    ("--tools []", {"tools": []}),
    ("--tool-choice none", {"tool_choice": "none"}),
    ('--template-arguments n=3 --template-argument x="y"', {"template_arguments": {"n": 3, "x": "y"}}),
    ("--continue-last-message", {"continue_last_message": True}),
]


@pytest.mark.parametrize(("flags", "options"), CHAT_FLAGS)
def test_a_flag_of_a_chat_is_the_option_of_its_name(
    flags: str, options: GenerateOptions, server: ScriptedServer
) -> None:
    assert main(["generate", "hi", "--chat", *flags.split()]) == 0
    assert server.requests == [generate_request([Message("user", "hi")], **options)]


@pytest.mark.parametrize(("flags", "options"), FLAGS)
def test_a_flag_is_the_option_of_its_name(flags: str, options: GenerateOptions, server: ScriptedServer) -> None:
    assert main(["generate", "hi", *flags.split()]) == 0
    assert server.requests == [generate_request("hi", **options)]


def test_no_flag_of_an_option_is_untested() -> None:
    flags = {flag for action in option_flags()._actions for flag in action.option_strings}
    assert flags == {word for line, _ in FLAGS + CHAT_FLAGS for word in line.split() if word.startswith(("--", "-n"))}


def option_flags() -> argparse.ArgumentParser:
    command = Parser(add_help=False)
    add_option_flags(command)
    return command


def test_every_option_has_a_flag_of_its_name() -> None:
    flags = {action.dest: action.option_strings for action in option_flags()._actions}
    assert flags.keys() == GenerateOptions.__annotations__.keys()
    for name, spellings in flags.items():
        assert f"--{name.replace('_', '-')}" in spellings


AWKWARD = [
    "-",
    "--",
    "---",
    "-x",
    "-1e-1",
    "--stop",
    "--json",
    "-n",
    "--help",
    "--stop=x",
    "=",
    "-=",
    "a b",
    "-- x",
    "",
]


@pytest.mark.parametrize("text", AWKWARD)
@pytest.mark.parametrize("flag", ["--stop", "--system", "--model", "--request-id"])
def test_a_flag_takes_any_value_in_one_word_and_in_two(flag: str, text: str) -> None:
    option = flag[2:].replace("-", "_")
    expected = [text] if option == "stop" else text
    for words in ([flag, text], [f"{flag}={text}"]):
        for line in (["hi", *words], [*words, "hi"], [*words, "--", "hi"]):
            arguments = parse(["generate", *line], {})
            assert (getattr(arguments, option), arguments.prompt, arguments.json) == (expected, "hi", False)


@given(
    st.lists(st.tuples(st.sampled_from(["--stop", "--model", "--tenant"]), st.text(), st.booleans()), max_size=4),
    st.text(),
)
def test_any_words_come_through_the_command_line(given: list[tuple[str, str, bool]], prompt: str) -> None:
    line = [word for flag, text, in_one in given for word in ([f"{flag}={text}"] if in_one else [flag, text])]
    arguments = parse(["generate", *line, "--", prompt], {})
    assert arguments.prompt == prompt
    for flag in ("--model", "--tenant"):
        texts = [text for other, text, _ in given if other == flag]
        assert getattr(arguments, flag[2:], None) == (texts[-1] if texts else None)
    assert getattr(arguments, "stop", []) == [text for flag, text, _ in given if flag == "--stop"]


@pytest.mark.parametrize(
    "flag", [action.option_strings[0] for action in option_flags()._actions if action.type is float]
)
@pytest.mark.parametrize("number", ["-1e-1", "-.5", "-1E+2", "-inf", "-0", "-1_0.5"])
def test_a_number_may_have_any_sign_and_exponent(flag: str, number: str) -> None:
    arguments = parse(["generate", "hi", flag, number], {})
    assert getattr(arguments, flag[2:].replace("-", "_")) == float(number)


@pytest.mark.parametrize("prompt", AWKWARD)
def test_any_prompt_goes_behind_two_dashes(prompt: str) -> None:
    assert parse(["generate", "--json", "--", prompt], {}).prompt == prompt


@pytest.mark.parametrize("line", ["--temp 1", "--max-new 5", "--stop", "-n", "-x", "hi -- there"])
def test_what_is_no_flag_or_lacks_its_value_is_wrong_usage(line: str) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["generate", "hi", *line.split()], {})
    assert caught.value.code == 2


def test_without_flags_nothing_is_set(server: ScriptedServer) -> None:
    assert main(["generate", "hi"]) == 0
    assert server.requests == [Request(text="hi")]
