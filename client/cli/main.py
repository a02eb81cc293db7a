"""The `textserve` command."""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence

from ..errors import TextserveError
from ..sync_client import Client
from ..types.options import GenerateOptions
from ..types.values import Generation, Message, Prompt
from .arguments import parse
from .flags import options_from, tokenize_options_from
from .output import (
    error_line,
    estimate_json,
    estimate_text,
    generation_json,
    generation_text,
    models_json,
    models_table,
    tokenization_json,
    tokenization_text,
)

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command, and returns its exit status; SystemExit(2) for arguments that cannot be understood."""
    arguments = parse(argv, os.environ)
    _show_any_character()
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes standard output once more when it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def _run(arguments: argparse.Namespace) -> int:
    commands = {"generate": _generate, "estimate": _estimate, "tokenize": _tokenize, "models": _models}
    command = commands[arguments.command]
    try:
        with _client(arguments) as client:
            command(client, arguments)
        sys.stdout.flush()
    except TextserveError as error:
        return _fail(error_line(error, arguments.address), EXIT_FAILED)
    except (TypeError, ValueError) as error:  # what no request can hold
        return _fail(str(error), EXIT_USAGE)
    return 0


def _client(arguments: argparse.Namespace) -> Client:
    return Client(arguments.address, timeout=arguments.timeout, tenant=arguments.tenant, priority=arguments.priority)


def _generate(client: Client, arguments: argparse.Namespace) -> None:
    prompt = _prompt(arguments)
    options = options_from(arguments)
    if arguments.stream:
        generation = _stream(client, prompt, options, quiet=arguments.json)
    else:
        generation = client.generate(prompt, **options)
    if arguments.json:
        print(generation_json(generation))
    elif not arguments.stream:
        print(generation_text(generation))


def _stream(client: Client, prompt: Prompt, options: GenerateOptions, *, quiet: bool) -> Generation:
    with client.stream(prompt, **options) as stream:
        try:
            for delta in stream:
                if not quiet:
                    print(delta.text, end="", flush=True)
        finally:
            if not quiet:
                print(flush=True)
        return stream.result


def _estimate(client: Client, arguments: argparse.Namespace) -> None:
    estimate = client.estimate(_prompt(arguments), **options_from(arguments))
    print(estimate_json(estimate) if arguments.json else estimate_text(estimate))


def _tokenize(client: Client, arguments: argparse.Namespace) -> None:
    prompt, options = _prompt(arguments), tokenize_options_from(arguments)
    tokenization = client.tokenize(prompt, pieces=True, rendered_prompt=arguments.json, **options)
    print(tokenization_json(tokenization) if arguments.json else tokenization_text(tokenization))


def _models(client: Client, arguments: argparse.Namespace) -> None:
    models = client.models()
    print(models_json(models) if arguments.json else models_table(models))


def _prompt(arguments: argparse.Namespace) -> Prompt:
    text: str = sys.stdin.read().removesuffix("\n") if arguments.prompt == "-" else arguments.prompt
    if arguments.messages:
        return _messages(text)
    if arguments.system is not None:
        return [Message("system", arguments.system), Message("user", text)]
    return [Message("user", text)] if arguments.chat else text


def _messages(text: str) -> Prompt:
    try:
        messages = json.loads(text)
    except ValueError as error:
        raise ValueError(f"PROMPT is no JSON: {error}") from None
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        raise ValueError("PROMPT is no JSON list of messages")
    return messages


def _show_any_character() -> None:
    """Keeps a terminal that lacks a character from ending the output."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _fail(line: str, status: int) -> int:
    print(f"textserve: {line}", file=sys.stderr)
    return status
