"""An argument parser that takes any value for a flag, also one that begins with a dash."""

import argparse
import sys
from collections.abc import Iterable
from typing import Any


class Parser(argparse.ArgumentParser):
    """Takes the word behind a flag as its value, whatever it begins with, as getopt does.

    By itself argparse takes the value in "--stop -x", or in "--presence-penalty -1e-1", for a flag, and drops the one
    in "--stop=--". Flags cannot be abbreviated: what abbreviates one today is ambiguous with the next one added.
    """

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride] - one signature for argparse's three
        self,
        args: Iterable[str] | None = None,
        namespace: Any = None,  # noqa: ANN401 - as argparse's
    ) -> tuple[Any, list[str]]:
        """As argparse's, with each flag and its value in one word."""
        return super().parse_known_args(self._joined(sys.argv[1:] if args is None else args), namespace)

    def _joined(self, words: Iterable[str]) -> list[str]:
        joined: list[str] = []
        rest = iter(words)
        for word in rest:
            if word == "--":
                return [*joined, word, *rest]
            value = next(rest, None) if self._takes_value(word) else None
            # A flag of one letter has no "=" before its value.
            joined.append(word if value is None else f"{word}={value}" if word.startswith("--") else word + value)
        return joined

    def _takes_value(self, word: str) -> bool:
        action = self._option_string_actions.get(word)
        return action is not None and action.nargs is None

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:  # noqa: ANN401 - as argparse's
        if action.option_strings and arg_strings == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value
        return super()._get_values(action, arg_strings)
