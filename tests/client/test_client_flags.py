"""The flags of `textserve generate` are the options of `generate`."""

import argparse

import pytest

from client import GenerateOptions
from client.cli import main
from client.flags import add_option_flags
from client.request import generate_request
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
    ("--include-stop-sequence", {"include_stop_sequence": True}),
    ("--ignore-eos", {"ignore_eos": True}),
    ("--max-time 0.5", {"max_time": 0.5}),
    ("--partial-on-deadline", {"partial_on_deadline": True}),
    ("--temperature 0", {"temperature": 0}),
    ("--top-k 0", {"top_k": 0}),
    ("--top-p 0.5", {"top_p": 0.5}),
    ("--min-p 0", {"min_p": 0}),
    ("--typical-p 0.5", {"typical_p": 0.5}),
    ("--epsilon-cutoff 0", {"epsilon_cutoff": 0}),
    ("--seed 0", {"seed": 0}),
    ("--repetition-penalty 1.5", {"repetition_penalty": 1.5}),
    ("--presence-penalty -1", {"presence_penalty": -1}),
    ("--frequency-penalty 0.5", {"frequency_penalty": 0.5}),
    ("--no-repeat-ngram-size 3", {"no_repeat_ngram_size": 3}),
    ("--logit-bias 5=-1.5 --logit-bias 0=2", {"logit_bias": {5: -1.5, 0: 2}}),
    ("--bad-words-ids 1,2 --bad-words-ids 3", {"bad_words_ids": [[1, 2], [3]]}),
    ("-n 3", {"num_return_sequences": 3}),
    ("--num-return-sequences 3", {"num_return_sequences": 3}),
    ("--best-of 3", {"best_of": 3}),
    ("--num-beams 2", {"num_beams": 2}),
    ("--length-penalty 0", {"length_penalty": 0}),
    ("--early-stopping true", {"early_stopping": True}),
    ("--early-stopping false", {"early_stopping": False}),
    ("--early-stopping never", {"early_stopping": "never"}),
    ("--echo", {"echo": True}),
    ("--logprobs", {"logprobs": True}),
    ("--top-logprobs 5", {"top_logprobs": 5}),
    ("--prompt-logprobs", {"prompt_logprobs": True}),
]


@pytest.mark.parametrize(("flags", "options"), FLAGS)
def test_a_flag_is_the_option_of_its_name(flags: str, options: GenerateOptions, server: ScriptedServer) -> None:
    assert main(["generate", "hi", *flags.split()]) == 0
    assert server.requests == [generate_request("hi", **options)]


def test_no_flag_of_an_option_is_untested() -> None:
    command = argparse.ArgumentParser()
    add_option_flags(command)
    flags = {flag for action in command._actions for flag in action.option_strings} - {"-h", "--help"}
    assert flags == {word for line, _ in FLAGS for word in line.split() if word.startswith(("--", "-n"))}


def test_without_flags_nothing_is_set(server: ScriptedServer) -> None:
    assert main(["generate", "hi"]) == 0
    assert server.requests == [Request(text="hi")]
