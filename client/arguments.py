"""The arguments of the `textserve` command."""

import argparse
from collections.abc import Mapping

from .channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT
from .options import seconds

ADDRESS_VARIABLE = "TEXTSERVE_ADDRESS"


def parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser of the whole command line; the environment may name the address."""
    address = environment.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    root = argparse.ArgumentParser(
        prog="textserve",
        description="Generates text with the models that a textserve gateway serves.",
        epilog="Exit status: 0 done, 1 the call failed, 2 wrong usage, 130 interrupted, 141 nobody read the output.",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    generate = commands.add_parser("generate", help="continue a prompt", description="Continues a prompt.")
    _add_prompt(generate)
    _add_sampling(generate)
    generate.add_argument("--stream", action="store_true", help="print the text as it is made")
    generate.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object with text, finish_reason, usage, seed, timing and more; with --stream, too, it is"
        " one object, printed at the end",
    )
    _add_connection(generate, address)
    models = commands.add_parser("models", help="list what is served", description="Lists the models that are served.")
    models.add_argument("--json", action="store_true", help="print one JSON object with the list `models`")
    _add_connection(models, address)
    return root


def _add_prompt(command: argparse.ArgumentParser) -> None:
    command.add_argument("prompt", metavar="PROMPT", help="the text; - reads it from standard input, less one newline")
    command.add_argument("--chat", action="store_true", help="send it as a user's message, with the chat template")
    command.add_argument("--system", metavar="TEXT", help="a system message to put before it; implies --chat")
    command.add_argument("--model", metavar="M", default="", help="name of the model (default: the one served)")


def _add_sampling(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--max-new-tokens", type=int, metavar="N", help="most tokens to generate, at least 1")
    add("--temperature", type=float, metavar="T", help="divides the logits, 0 to 100; 0 is greedy")
    add("--top-k", type=int, metavar="K", help="sample among the K likeliest tokens; 0 is off")
    add("--top-p", type=float, metavar="P", help="sample among the likeliest tokens with probability P together")
    add("--min-p", type=float, metavar="P", help="sample among tokens at least P times as likely as the likeliest")
    add("--repetition-penalty", type=float, metavar="R", help="makes tokens less likely that are there already")
    add("--seed", type=int, metavar="S", help="seed of the random numbers, to repeat a result")
    add("--stop", action="append", default=[], metavar="S", help="text that ends the generation; may be repeated")
    add("--echo", action="store_true", help="print the prompt before the text")


def _add_connection(command: argparse.ArgumentParser, address: str) -> None:
    command.add_argument(
        "--timeout",
        type=_timeout,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="how long the whole call may take (default: %(default)s)",
    )
    command.add_argument(
        "--address",
        default=address,
        metavar="A",
        help=f"where the gateway listens, host:port or unix:/path (default: {ADDRESS_VARIABLE}, here %(default)s)",
    )


def _timeout(text: str) -> float:
    try:
        return seconds(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
