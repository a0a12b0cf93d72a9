# SPDX-License-Identifier: MIT
"""The words of the command: one table, from which both the parser and the tab completion are made."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import ON_BUSY

EXITS = """\
exit status:
  0    done, or nothing to do
  1    refused or failed, and everything is as it was
  2    the call could not be read
  3    the switch failed, and the last good mode serves again
  4    the switch failed, and so did the way back: the last good mode does not serve
  5    it needs root
  130  called off (Ctrl-C): everything is as it was, or the last good mode serves again
"""


@dataclass(frozen=True)
class Option:
    """A word that begins with two dashes. Without ``value`` it is said or not said."""

    flag: str
    help: str
    value: str = ""
    choices: tuple[str, ...] = ()
    default: str | float | None = None


@dataclass(frozen=True)
class Command:
    """One or two words, what follows them, and whether it takes root to do it."""

    help: str
    options: tuple[Option, ...] = ()
    mode: bool = False
    root: bool = True
    #: Left out of the help: for programs, not for people.
    hidden: bool = False
    words: tuple[str, ...] = field(default=())


JSON = Option("--json", "print one JSON document")
COMMANDS: Mapping[str, Command] = {
    "mode status": Command("which mode it is, its budget, who is at work", (JSON,)),
    "mode switch": Command(
        "make this mode the one that holds the card",
        (
            Option("--on-busy", "what to do when someone is at work (fail)", "|".join(ON_BUSY), ON_BUSY, "fail"),
            Option("--drain", "how long work may go on behind a shut door (what each tenant declares)", "SECONDS"),
            Option("--wait", "how long to wait for another switch to end (0)", "SECONDS", default=0.0),
            Option("--no-rollback", "do not go back to the last good mode when it fails"),
            Option("--check", "only say what would be done"),
            Option("--steps", "one JSON document per step, the result last; closing standard input calls it off"),
            JSON,
        ),
        mode=True,
    ),
    "mode history": Command(
        "the switches that came to an end",
        (Option("--last", "how many of them (20)", "N", default=20.0), JSON),
        root=False,
    ),
    "mode names": Command("the names of the modes", root=False),
    "gpu": Command("the card: memory, processes, power, heat, and what slows it down", (JSON,)),
    "queue": Command("requests that wait: list, show, cancel, drain", words=("list", "show", "cancel", "drain")),
    "pick": Command("choose a mode in the terminal"),
    "desktop": Command("choose a mode in a window", root=False),
    "complete": Command("words that may come next", root=False, hidden=True),
}


def seconds(text: str) -> float:
    """A time. Raises argparse.ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to 86400")
    return value


def count(text: str) -> float:
    """A number of lines. Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return float(text)


_TYPES: Mapping[str, Callable[[str], float]] = {"SECONDS": seconds, "N": count}


def parser() -> argparse.ArgumentParser:
    """Reads a call; ``command`` is the key of COMMANDS."""
    made = argparse.ArgumentParser(
        prog="sovereignctl",
        description="The machine's GPU modes: which one it is, how to change it, what the card does.",
        epilog=EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    tops = made.add_subparsers(metavar="COMMAND", required=True)
    groups: dict[str, argparse._SubParsersAction[argparse.ArgumentParser]] = {}
    for name, command in COMMANDS.items():
        first, _space, second = name.partition(" ")
        if second:
            if first not in groups:
                group = tops.add_parser(first, help="the GPU modes", allow_abbrev=False)
                groups[first] = group.add_subparsers(metavar="COMMAND", required=True)
            one = groups[first].add_parser(second, help=command.help, description=command.help, allow_abbrev=False)
        elif command.hidden:
            one = tops.add_parser(first, allow_abbrev=False)
        else:
            one = tops.add_parser(first, help=command.help, description=command.help, allow_abbrev=False)
        one.set_defaults(command=name)
        if command.mode:
            one.add_argument("name", metavar="NAME", help="the mode")
        for option in command.options:
            if not option.value:
                one.add_argument(option.flag, action="store_true", help=option.help)
            else:
                one.add_argument(
                    option.flag,
                    metavar=option.value,
                    help=option.help,
                    choices=option.choices or None,
                    default=option.default,
                    type=_TYPES.get(option.value, str),
                )
    return made


def complete(words: Sequence[str], modes: Callable[[], Sequence[str]]) -> list[str]:
    """What the last word may become. ``words``: all that were typed, the last one perhaps in part or empty."""
    before, last = list(words[:-1]), words[-1] if words else ""
    return sorted(word for word in _next(before, last, modes) if word.startswith(last))


def _next(before: list[str], last: str, modes: Callable[[], Sequence[str]]) -> Sequence[str]:
    plain = [name for name, command in COMMANDS.items() if not command.hidden]
    if not before:
        return list({name.split()[0] for name in plain})
    name = next((name for name in plain if before[: len(name.split())] == name.split()), None)
    if name is None:
        return [rest for each in plain for first, _space, rest in [each.partition(" ")] if rest and before == [first]]
    command, said = COMMANDS[name], before[len(name.split()) :]
    asked = next((option for option in command.options if option.value and said[-1:] == [option.flag]), None)
    if asked:
        return asked.choices
    if last.startswith("-"):
        return [option.flag for option in command.options if option.flag not in said]
    valued = {option.flag for option in command.options if option.value}
    free = [word for at, word in enumerate(said) if not word.startswith("-") and not (at and said[at - 1] in valued)]
    if command.mode and not free:
        return modes()
    return command.words if not said else []
