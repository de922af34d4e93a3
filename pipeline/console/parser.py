"""The parser of the command line: wrong use is one message as of any wrong input, with what may have been meant."""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from calib.errors import InputError
from pipeline.console.exit_status import WRONG_INPUT, say
from pipeline.console.json_document import error_entry
from pipeline.parts.nearest import did_you_mean, nearest

_NUMBER = re.compile(r"-\d*\.?\d+")  # no option, though it begins as one


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that names a wrong command or option, what is near it and what there is, and ends with status 2.

    argparse's own messages come with the whole usage; those of its errors that have no message of ours come without.
    """

    _words: Sequence[str] = ()  # what this parser was given to parse

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """Parse; nothing may be left over. A command's parser says so itself, as it knows its options."""
        self._words = list(sys.argv[1:] if args is None else args)
        options, rest = super().parse_known_args(args, namespace)
        if rest:
            positional = any(not action.option_strings for action in self._actions)
            self._refuse(InputError(
                "an argument is left over", got=shlex.join(rest),
                allowed="arguments side by side, options before or after them" if positional else "options alone",
                next_step=f"{self.prog} --help",
            ))  # fmt: skip
        return options, rest

    def error(self, message: str) -> NoReturn:
        """Say what argparse says, without the usage."""
        commands = self._commands()
        self._refuse(
            InputError(message, allowed=", ".join(commands) if commands else None, next_step=f"{self.prog} --help")
        )

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """What argparse asks for each value that has choices, commands among them."""
        choices = list(action.choices or ())
        if not choices or value in choices:
            return
        near = nearest(str(value), choices)
        self._refuse(InputError(
            "there is no such command" if choices == list(self._commands()) else f"there is no such {action.dest}",
            got=f"{value}{did_you_mean(near)}", allowed=", ".join(choices),
            next_step=self._again(value, near),
        ))  # fmt: skip

    def _refuse(self, error: InputError) -> NoReturn:
        """Say it, in the JSON document too, and end. An unknown option is said first: what else is wrong follows from it."""
        error = self._unknown_option() or error
        if self.get_default("one_document") and "--json" in self._words:
            document = {"command": self.prog.split()[-1], "exit_status": WRONG_INPUT, "error": error_entry(error)}
            print(json.dumps(document, indent=1, ensure_ascii=False))
        self.exit(say(f"error: {error}", WRONG_INPUT))

    def _unknown_option(self) -> InputError | None:
        """The message for the first word that is an option, but none of ours nor the beginning of one."""
        options = self._option_string_actions
        for word in self._words:
            if word == "--" or (self._commands() and not word.startswith("-")):
                return None  # values follow, or a command with options of its own
            name, equals, value = word.partition("=")
            if not _is_option(word) or word[:2] in options or any(option.startswith(name) for option in options):
                continue
            long = [option for option in options if option.startswith("--")]
            near = nearest(name, long)
            before = ", and those of a command behind its name" if self._commands() else ""
            return InputError(
                f"{self.prog} has no such option", got=f"{name}{did_you_mean(near)}",
                allowed=f"{', '.join(long)}{before}",
                next_step=self._again(word, [f"{option}{equals}{value}" for option in near]),
            )  # fmt: skip
        return None

    def _again(self, wrong: str, near: Sequence[str]) -> str:
        """The command with the word that is wrong put right; the help where nothing is near, or where a URL has a password."""
        words = list(self._words)
        if not near or wrong not in words or any(re.search("//[^/]*@", word) for word in words):
            return f"{self.prog} --help"
        words[words.index(wrong)] = near[0]
        return f"{self.prog} {shlex.join(words)}"

    def _commands(self) -> Collection[str]:
        """The names of the commands that this parser has; none in the parser of a command."""
        return [name for action in self._actions if action.nargs == argparse.PARSER for name in action.choices or ()]


def _is_option(word: str) -> bool:
    """As argparse tells options from values."""
    return len(word) > 1 and word.startswith("-") and " " not in word and not _NUMBER.fullmatch(word)
