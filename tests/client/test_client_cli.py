"""The `textserve` command: what it prints, and how it ends."""

import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from client import Message, __version__
from client._wire.request import generate_request
from client.cli.main import main
from tests.client.scripted_server import (
    STARTED,
    Event,
    Request,
    ScriptedServer,
    delta,
    failing,
    hanging,
)
from textserve.v1 import model_pb2

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def address(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTSERVE_ADDRESS", server.address)


def test_generate_prints_the_text(server: ScriptedServer, capsys: Capture) -> None:
    assert main(["generate", "A list of colors: red, blue"]) == 0
    assert capsys.readouterr() == (", green\n", "")
    assert server.requests[0].text == "A list of colors: red, blue"


def test_a_streamed_text_is_the_same(server: ScriptedServer, capsys: Capture) -> None:
    assert main(["generate", "hi", "--stream"]) == 0
    assert capsys.readouterr() == (", green\n", "")
    assert server.calls == ["GenerationService/StreamGenerate"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--chat"], [("user", "hi")]),
        (["--system", "Be brief."], [("system", "Be brief."), ("user", "hi")]),
        (["--system", "", "--chat"], [("system", ""), ("user", "hi")]),
    ],
)
def test_chat_sends_messages(flags: list[str], expected: list[tuple[str, str]], server: ScriptedServer) -> None:
    assert main(["generate", "hi", *flags]) == 0
    assert [(each.role, each.text) for each in server.requests[0].chat.messages] == expected


def test_a_whole_conversation_with_tools_and_arguments_can_be_sent(server: ScriptedServer) -> None:
    messages = '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "He"}]'
    tools = '[{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]'
    flags = ["--tools", tools, "--template-argument", "enable_thinking=false", "--template-argument", "n=3"]
    assert main(["generate", messages, "--messages", *flags, "--continue-last-message"]) == 0
    chat = server.requests[0].chat
    assert [(each.role, each.text) for each in chat.messages] == [("user", "hi"), ("assistant", "He")]
    assert dict(chat.template_arguments) == {"enable_thinking": False, "n": 3.0}
    assert chat.tools[0].function.name == "add"
    assert chat.continue_last_message


def test_an_estimate_is_printed(server: ScriptedServer, capsys: Capture) -> None:
    assert main(["estimate", "hi", "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "prompt tokens: 2",
        "most new tokens: 5",
        "queue: 1.500 s",
        "time to first token: unknown",
        "total: 0.000 s",
    ]
    assert main(["estimate", "hi", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt_token_count"] == 2
    assert server.calls == ["GenerationService/EstimateGenerate"] * 2


def test_tokens_are_printed_each_in_a_line(server: ScriptedServer, capsys: Capture) -> None:
    assert main(["tokenize", "h\u00e9"]) == 0
    assert capsys.readouterr().out == "0-1\t104\t'h'\n0-1\t233\t'\\xc3\\xa9'\n"
    assert main(["tokenize", "hi", "--chat", "--json", "--template-argument", "n=1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["token_count"], told["token_ids"], told["rendered_prompt"]) == (2, [104, 105], "hi")
    assert [each["piece"] for each in told["pieces"]] == ["h", "i"]
    assert server.calls == ["TokenizationService/Tokenize"] * 2


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("hi", "PROMPT is no JSON"),
        ('{"role": "user"}', "no JSON list of messages"),
        ('[{"role": "user"}]', "'content'"),
    ],
)
def test_what_is_no_conversation_is_wrong_usage(
    prompt: str, told: str, server: ScriptedServer, capsys: Capture
) -> None:
    assert main(["generate", prompt, "--messages"]) == 2
    assert told in capsys.readouterr().err
    assert not server.calls


def test_tenant_and_priority_go_with_the_call(server: ScriptedServer) -> None:
    assert main(["generate", "hi", "--tenant", "acme", "--priority", "batch"]) == 0
    (metadata,) = server.metadata
    assert (metadata["textserve-tenant"], metadata["textserve-priority"]) == ("acme", "batch")


def test_a_tenant_that_no_call_can_name_is_wrong_usage(server: ScriptedServer, capsys: Capture) -> None:
    assert main(["generate", "hi", "--tenant", "caf\u00e9"]) == 2
    assert "printable ASCII" in capsys.readouterr().err
    assert not server.calls


def test_a_dash_reads_the_prompt_from_standard_input(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n\n"))
    assert main(["generate", "-"]) == 0
    assert server.requests[0].text == "one\ntwo\n"


@pytest.mark.parametrize("flags", [["--json"], ["--json", "--stream"]])
def test_json_is_one_object(flags: list[str], capsys: Capture) -> None:
    assert main(["generate", "hi", *flags]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "text": ", green",
        "finish_reason": "end_of_sequence",
        "stop_sequence": "",
        "stop_token_id": None,
        "usage": {"prompt_token_count": 3, "output_token_count": 2},
        "seed": 7,
        "timing": {"queue": 0.0, "prefill": 0.0, "decode": 0.0, "time_to_first_token": 0.0},
        "model": "tutor",
        "fingerprint": "f00d",
        "config": {"max_new_tokens": 256, "temperature": 0.0},
        "worker": "worker-0",
        "attempt_count": 1,
        "resumed": False,
        "server_request_id": "00c0ffee00c0ffee",
        "stop_sequences": [],
        "candidates": [
            {
                "text": ", green",
                "finish_reason": "end_of_sequence",
                "stop_sequence": "",
                "stop_token_id": None,
                "token_ids": [],
                "seed": 7,
                "logprobs": [],
                "score": None,
            }
        ],
        "prompt_token_ids": [],
        "prompt_logprobs": [],
    }


def test_models_are_a_table(server: ScriptedServer, capsys: Capture) -> None:
    server.models = model_pb2.ListModelsResponse(
        models=[
            model_pb2.Model(
                name="tutor",
                architecture="LlamaForCausalLM",
                context_length=512,
                quantization="nf4",
                capabilities=[model_pb2.MODEL_CAPABILITY_CHAT],
                ready_worker_count=2,
            ),
            model_pb2.Model(name="x", architecture="GPT2LMHeadModel", context_length=1024, quantization="none"),
        ]
    )
    assert main(["models"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "NAME   ARCHITECTURE      CONTEXT  QUANTIZATION  CHAT  READY WORKERS",
        "tutor  LlamaForCausalLM  512      nf4           yes   2",
        "x      GPT2LMHeadModel   1024     none          no    0",
    ]


def test_models_as_json_are_one_object(capsys: Capture) -> None:
    assert main(["models", "--json"]) == 0
    models: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["models"]
    assert [(each["name"], each["context_length"], each["default_generation_config"]) for each in models] == [
        ("tutor", 512, {})
    ]


def test_a_failed_call_is_one_line_on_standard_error(server: ScriptedServer, capsys: Capture) -> None:
    server.answer = failing(grpc.StatusCode.NOT_FOUND, "no model\nof that name")
    assert main(["generate", "hi"]) == 1
    assert capsys.readouterr() == ("", "textserve: NOT_FOUND: no model of that name\n")


def test_a_stream_that_fails_keeps_what_it_printed(server: ScriptedServer, capsys: Capture) -> None:
    def script(request: Request, context: grpc.ServicerContext) -> Iterator[Event]:
        yield from (STARTED, delta("some"))
        context.abort(grpc.StatusCode.UNAVAILABLE, "lost")

    server.script = script
    assert main(["generate", "hi", "--stream"]) == 1
    out, error = capsys.readouterr()
    assert out == "some\n"
    assert error.endswith("UNAVAILABLE: lost\n")


def test_a_stream_that_is_refused_prints_no_text(server: ScriptedServer, capsys: Capture) -> None:
    server.script = failing(grpc.StatusCode.INVALID_ARGUMENT, "bad")
    assert main(["generate", "hi", "--stream"]) == 1
    assert capsys.readouterr() == ("", "textserve: INVALID_ARGUMENT: bad\n")


def test_nobody_at_the_address_says_which_address(capsys: Capture) -> None:
    assert main(["models", "--address", "127.0.0.1:1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("textserve: no answer from 127.0.0.1:1: UNAVAILABLE: ")
    assert error.count("\n") == 1


def test_the_timeout_ends_the_call(server: ScriptedServer, capsys: Capture) -> None:
    server.script = hanging(threading.Event(), STARTED)
    assert main(["generate", "hi", "--stream", "--timeout", "0.2"]) == 1
    assert capsys.readouterr().err.startswith("textserve: DEADLINE_EXCEEDED")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "generate",
        "generate hi --temperature warm",
        "generate hi --logit-bias 5",
        "generate hi --logit-bias five=1",
        "generate hi --bad-words-ids one,two",
        "generate hi --early-stopping soon",
        "generate hi --exponential-decay-length-penalty 5",
        "generate hi --resume-from 0:",
        "generate hi --resume-from x:5",
        "generate hi --resume-from 5 --resume-from 0:6",
        "models --timeout 0",
        "serve",
    ],
)
def test_wrong_usage_ends_with_2(line: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: textserve")


@pytest.mark.parametrize("arguments", [["hi", "--seed", str(2**70)], ["\udc80"]])
def test_what_no_request_can_hold_is_wrong_usage(arguments: list[str], server: ScriptedServer, capsys: Capture) -> None:
    assert main(["generate", *arguments]) == 2
    assert capsys.readouterr().err.startswith("textserve: ")
    assert not server.requests


def test_help_says_what_stream_and_json_do_together(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["generate", "--help"])
    assert caught.value.code == 0
    assert "one object, printed at the end" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (["--stop=--"], Request(text="-x", stop_sequences=["--"])),
        (["--stop", "-y"], Request(text="-x", stop_sequences=["-y"])),
        (["--presence-penalty", "-1e-1"], generate_request("-x", presence_penalty=-0.1)),
        (["--system=--"], generate_request([Message("system", "--"), Message("user", "-x")])),
    ],
)
def test_values_that_begin_with_a_dash_are_sent(words: list[str], sent: Request, server: ScriptedServer) -> None:
    assert main(["generate", *words, "--", "-x"]) == 0
    assert server.requests == [sent]


def test_an_address_of_the_environment_is_checked_too(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("TEXTSERVE_ADDRESS", "localhost")
    assert main(["models"]) == 2
    assert "address must be HOST:PORT" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"textserve {__version__}\n"
