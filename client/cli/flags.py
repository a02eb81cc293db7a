"""The flags of `textserve generate`: every option of `generate` has one. What is not given is not in the namespace."""

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from ..types.generation_config import EarlyStopping
from ..types.options import GenerateOptions, TokenizeOptions

_Add = Callable[..., object]

_Switch = argparse.BooleanOptionalAction

_EARLY_STOPPING: dict[str, EarlyStopping] = {"true": True, "false": False, "never": "never"}


def add_option_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags, in groups. Every destination is the name of an option."""
    add = partial(command.add_argument, default=argparse.SUPPRESS)
    add("--model", metavar="M", help=_MODEL)
    add("--truncate-prompt", type=int, metavar="N", help="keep the last N tokens of the prompt only")
    add("--request-id", metavar="ID", help="name of the request: asked for again, it gives the same answer for a while")
    add(
        "--resume-from",
        action="append",
        type=_held,
        metavar="[CANDIDATE:]ID,...",
        help="token ids that came before the call was lost, of candidate 0 or another, with its --seed: prints what"
        " follows; once for each candidate",
    )
    add(
        "--ignored-defaults",
        action="extend",
        type=lambda text: text.split(","),
        metavar="NAME,...",
        help="options, as --help names them with _, for which the model's own default does not apply; * is all",
    )
    _add_chat(_group(command, _CHAT))
    _add_length(_group(command, "length and end"))
    _add_sampling(_group(command, "sampling"))
    _add_processors(_group(command, "repetition and choice of tokens, for greedy decoding, too"))
    _add_candidates(_group(command, "several candidates"))
    _add_output(_group(command, "what is printed"))


def add_tokenize_flags(command: argparse.ArgumentParser) -> None:
    """Adds those of `textserve tokenize`."""
    add = partial(command.add_argument, default=argparse.SUPPRESS)
    add("--model", metavar="M", help=_MODEL)
    _add_chat(_group(command, _CHAT))


_MODEL = "name of the model (default: the one served)"
_CHAT = "chat, with --chat, --system or --messages"


def tokenize_options_from(arguments: argparse.Namespace) -> TokenizeOptions:
    """The options among the parsed arguments of `textserve tokenize`."""
    return cast("TokenizeOptions", _given(arguments, TokenizeOptions))


def options_from(arguments: argparse.Namespace) -> GenerateOptions:
    """The options among the parsed arguments."""
    return cast("GenerateOptions", _given(arguments, GenerateOptions))


def _given(arguments: argparse.Namespace, options: type) -> dict[str, Any]:
    given = {name: value for name, value in vars(arguments).items() if name in options.__annotations__}
    if "resume_from" in given:
        given["resume_from"] = dict(given["resume_from"])
    if "template_arguments" in given:
        given["template_arguments"] = dict(given["template_arguments"])
    return given


def _group(command: argparse.ArgumentParser, title: str) -> _Add:
    return partial(command.add_argument_group(title).add_argument, default=argparse.SUPPRESS)


def _add_chat(add: _Add) -> None:
    add("--tools", type=_json_list, metavar="JSON", help="list of functions that the model may call")
    add("--tool-choice", choices=("auto", "none"), help="whether the model is told of them")
    add(
        "--template-arguments",
        "--template-argument",
        action="append",
        type=_argument,
        metavar="NAME=JSON",
        help="variable of the model's chat template; may be repeated",
    )
    add("--continue-last-message", action="store_true", help="go on with the last message, the assistant's")


def _add_length(add: _Add) -> None:
    add("--max-new-tokens", type=int, metavar="N", help="most tokens to generate, at least 1")
    add("--min-new-tokens", type=int, metavar="N", help="least tokens to generate")
    add("--stop", action="append", metavar="S", help="text that ends the generation; may be repeated")
    add(
        "--stop-token-ids",
        "--stop-token-id",
        action="extend",
        type=_token_ids,
        metavar="ID,...",
        help="tokens each of which ends the generation; may be repeated",
    )
    add("--include-stop-sequence", action="store_true", help="print the stop text, or stop token, that ended it")
    add("--ignore-eos", action=_Switch, help="go on after the model's end-of-sequence tokens, or do not")
    add(
        "--exponential-decay-length-penalty",
        type=_decay,
        metavar="START,BASE",
        help="makes the end ever likelier, from START output tokens on, by powers of BASE",
    )
    add("--max-time", type=float, metavar="SECONDS", help="end with what there is when so much time has passed")
    add("--partial-on-deadline", action="store_true", help="end with what there is shortly before the timeout")


def _add_sampling(add: _Add) -> None:
    add("--do-sample", action=_Switch, help="sample, or take the likeliest token (default: what the others imply)")
    add("--temperature", type=float, metavar="T", help="divides the logits, 0 to 100; 0 is greedy")
    add("--top-k", type=int, metavar="K", help="sample among the K likeliest tokens; 0 is off")
    add("--top-p", type=float, metavar="P", help="sample among the likeliest tokens with probability P together")
    add("--min-p", type=float, metavar="P", help="sample among tokens at least P times as likely as the likeliest")
    add("--typical-p", type=float, metavar="P", help="sample among the most typical tokens with probability P together")
    add("--epsilon-cutoff", type=float, metavar="P", help="sample among tokens with at least probability P")
    add("--seed", type=int, metavar="S", help="seed of the random numbers, to repeat a result")


def _add_processors(add: _Add) -> None:
    add("--repetition-penalty", type=float, metavar="R", help="makes tokens less likely that are there already")
    add("--presence-penalty", type=float, metavar="X", help="subtracted from logits of tokens that the output has")
    add("--frequency-penalty", type=float, metavar="X", help="the same, once for each time that the output has it")
    add("--no-repeat-ngram-size", type=int, metavar="N", help="no N tokens in a row come twice")
    add(
        "--logit-bias",
        action="append",
        type=_bias,
        metavar="ID=VALUE",
        help="added to the logit of a token; may be repeated",
    )
    add(
        "--bad-words-ids",
        action="append",
        type=_token_ids,
        metavar="ID,...",
        help="tokens that must not come up in a row; may be repeated",
    )
    for flag, text in (
        ("--allowed-token-ids", "only these tokens, and those that end a sequence, may come up"),
        ("--suppress-tokens", "tokens that must not come up"),
        ("--begin-suppress-tokens", "tokens that must not come up first"),
    ):
        add(flag, action="extend", type=_token_ids, metavar="ID,...", help=f"{text}; may be repeated")
    add("--forced-bos-token-id", type=int, metavar="ID", help="token that follows a prompt of a single token")
    add("--forced-eos-token-id", type=int, metavar="ID", help="token to end with when --max-new-tokens are reached")


def _add_candidates(add: _Add) -> None:
    add(
        "-n",
        "--num-return-sequences",
        type=int,
        metavar="N",
        help="how many candidates to print, each below a line with its number: [0], [1] and so on",
    )
    add("--best-of", type=int, metavar="N", help="sample N candidates, and print the likeliest first")
    add("--num-beams", type=int, metavar="N", help="beam search with N beams")
    add("--length-penalty", type=float, metavar="X", help="with beams: above 0 favours long texts")
    add(
        "--early-stopping",
        type=_early_stopping,
        metavar="WHEN",
        help="when beam search ends: true (at once), false or never, as in transformers",
    )


def _add_output(add: _Add) -> None:
    add("--echo", action="store_true", help="print the prompt before the text")
    add("--skip-special-tokens", action=_Switch, help="leave special tokens out of the text (default: yes)")
    add("--token-ids", action="store_true", help="with --json: the token ids, special ones included")
    add("--logprobs", action="store_true", help="with --json: log-probability, rank and offset of each token")
    add("--top-logprobs", type=int, metavar="N", help="with --json: the N likeliest tokens beside each")
    add("--prompt-logprobs", action="store_true", help="with --json: the same for the tokens of the prompt")


def _json_list(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is no JSON: {error}") from None
    if not isinstance(value, list):
        raise argparse.ArgumentTypeError("is no JSON list")
    return value


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        return name, json.loads(value if equals else "none")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=JSON") from None


def _bias(text: str) -> tuple[int, float]:
    token_id, _, value = text.partition("=")
    try:
        return int(token_id), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form ID=VALUE") from None


def _token_ids(text: str) -> list[int]:
    try:
        return [int(token_id) for token_id in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form ID,ID,...") from None


def _decay(text: str) -> tuple[int, float]:
    start, _, base = text.partition(",")
    try:
        return int(start), float(base)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form START,BASE") from None


def _held(text: str) -> tuple[int, list[int]]:
    candidate, colon, ids = text.rpartition(":")
    try:
        return int(candidate) if colon else 0, _token_ids(ids)
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form [CANDIDATE:]ID,ID,...") from None


def _early_stopping(text: str) -> EarlyStopping:
    if text not in _EARLY_STOPPING:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(_EARLY_STOPPING)}")
    return _EARLY_STOPPING[text]
