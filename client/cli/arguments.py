"""The arguments of the `textserve` command."""

import argparse
from collections.abc import Mapping, Sequence
from typing import get_args

from .. import __version__
from .._channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT
from ..types.options import Priority, seconds
from .flags import add_option_flags, add_tokenize_flags
from .parser import Parser

ADDRESS_VARIABLE = "TEXTSERVE_ADDRESS"


def parse(argv: Sequence[str] | None, environment: Mapping[str, str]) -> argparse.Namespace:
    """Parses a command line, by default the process's own. SystemExit(2) if it cannot be understood."""
    root = parser(environment)
    arguments = root.parse_args(argv)
    if arguments.command == "generate" and _mixes_candidates(arguments):
        root.error("--stream prints one candidate as it is made: for several leave it out, or add --json")
    if arguments.command in {"generate", "estimate"} and _resumes_twice(arguments):
        root.error("--resume-from is given twice for one candidate")
    return arguments


def parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser of the whole command line; the environment may name the address."""
    address = environment.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    root = Parser(
        prog="textserve",
        description="Generates text with the models that a textserve gateway serves.",
        epilog="Exit status: 0 done, 1 the call failed, 2 wrong usage, 130 interrupted, 141 nobody read the output.",
    )
    root.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    generate = commands.add_parser("generate", help="continue a prompt", description="Continues a prompt.")
    _add_prompt(generate)
    add_option_flags(generate)
    _add_form(generate)
    _add_connection(generate, address)
    estimate = commands.add_parser(
        "estimate",
        help="tell what a prompt would take",
        description="Tells how many tokens a prompt has, and how long its continuation would take now, as far as the"
        " gateway knows. Nothing is generated.",
    )
    _add_prompt(estimate)
    add_option_flags(estimate)
    estimate.add_argument("--json", action="store_true", help="print one JSON object, times in seconds")
    _add_connection(estimate, address)
    tokenize = commands.add_parser(
        "tokenize",
        help="show a prompt's tokens",
        description="Shows the tokens of a prompt, one in a line: its place in bytes, its id and its bytes.",
    )
    _add_prompt(tokenize)
    add_tokenize_flags(tokenize)
    tokenize.add_argument(
        "--json", action="store_true", help="print one JSON object with token_ids, pieces and the rendered prompt"
    )
    _add_connection(tokenize, address)
    models = commands.add_parser("models", help="list what is served", description="Lists the models that are served.")
    models.add_argument("--json", action="store_true", help="print one JSON object with the list `models`")
    _add_connection(models, address)
    return root


def _mixes_candidates(arguments: argparse.Namespace) -> bool:
    return arguments.stream and not arguments.json and getattr(arguments, "num_return_sequences", 1) > 1


def _resumes_twice(arguments: argparse.Namespace) -> bool:
    candidates = [candidate for candidate, _ in getattr(arguments, "resume_from", ())]
    return len(set(candidates)) < len(candidates)


def _add_prompt(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "prompt",
        metavar="PROMPT",
        help="the text; - reads it from standard input, less one newline, and one"
        " that begins with a dash goes behind --",
    )
    command.add_argument("--chat", action="store_true", help="send it as a user's message, with the chat template")
    command.add_argument("--system", metavar="TEXT", help="a system message to put before it; implies --chat")
    command.add_argument(
        "--messages",
        action="store_true",
        help='PROMPT is a conversation, as JSON: [{"role": "user", "content": "..."}, ...]',
    )


def _add_form(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--stream", action="store_true", help="print the text as it is made; of several candidates only with --json"
    )
    command.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object with text, finish_reason, usage, seed, timing, all candidates and more; with"
        " --stream, too, it is one object, printed at the end",
    )


def _add_connection(command: argparse.ArgumentParser, address: str) -> None:
    command.add_argument(
        "--timeout",
        type=_timeout,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="how long the whole call may take (default: %(default)s)",
    )
    command.add_argument("--tenant", metavar="T", help="whose call it is, for gateways that trust this")
    command.add_argument(
        "--priority", choices=get_args(Priority), help="how urgent it is, for gateways that trust this"
    )
    command.add_argument(
        "--address",
        default=address,
        metavar="A",
        help="where the gateway listens, host:port, [::1]:port or unix:/path"
        f" (default: {ADDRESS_VARIABLE}, here %(default)s)",
    )


def _timeout(text: str) -> float:
    try:
        return seconds(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
