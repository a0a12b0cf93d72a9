# SPDX-License-Identifier: MIT
"""The words of the command: what is read, what is refused, what the tab key offers."""

from __future__ import annotations

import argparse

import pytest
from sovereignctl import words


@pytest.mark.parametrize("name", list(words.COMMANDS))
def test_every_command_is_read_and_does_something(name: str) -> None:
    from sovereignctl.cli import _COMMANDS

    more = ["forensic"] if words.COMMANDS[name].mode else []
    assert words.parser().parse_args([*name.split(), *more]).command == name
    # These two are taken before the parser: what follows them is not ours to read.
    assert name in _COMMANDS or name in ("queue", "complete")


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("mode switch forensic --on-busy never", "invalid choice: 'never'"),
        ("mode switch forensic --drain soon", "'soon' is no number of seconds from 0 to 86400"),
        ("mode switch forensic --drain nan", "'nan' is no number"),
        ("mode switch forensic --wait -1", "'-1' is no number"),
        ("mode history --last 0", "'0' is no number from 1 on"),
        ("mode switch", "required: NAME"),
        ("mode", "required: COMMAND"),
        ("mode switch forensic --roll", "unrecognized arguments: --roll"),
        ("engine", "invalid choice: 'engine'"),
    ],
)
def test_what_cannot_be_read_ends_with_2(said: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        words.parser().parse_args(said.replace("-1", "=-1").replace(" =", "=").split())
    assert ended.value.code == 2 and complaint in capsys.readouterr().err


def test_the_exit_statuses_are_said_in_the_help() -> None:
    from sovereignctl import attempt

    shown = words.parser().format_help()
    for name in ("DONE", "REFUSED", "USAGE", "ROLLED_BACK", "BROKEN", "NOT_ALLOWED", "CANCELLED"):
        assert f"\n  {getattr(attempt, name):<4} " in shown, name


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", ["desktop", "gpu", "mode", "pick", "queue"]),
        ("m", ["mode"]),
        ("mode ", ["history", "names", "status", "switch"]),
        ("mode s", ["status", "switch"]),
        ("mode switch ", ["agent", "forensic", "off"]),
        ("mode switch f", ["forensic"]),
        ("mode switch --drain 5 f", ["forensic"]),
        ("mode switch --drain ", []),
        ("mode switch forensic ", []),
        ("mode switch forensic --on-busy ", ["fail", "force", "wait"]),
        ("mode switch --on-busy w", ["wait"]),
        ("mode switch --check --c", []),
        ("mode switch --c", ["--check"]),
        ("mode history -", ["--json", "--last"]),
        ("queue ", ["cancel", "drain", "list", "show"]),
        ("queue show ", []),
        ("complete ", []),
        ("nonsense ", []),
    ],
)
def test_what_the_tab_key_offers(typed: str, offered: list[str]) -> None:
    assert words.complete(typed.split(" "), lambda: ["forensic", "agent", "off"]) == offered


def test_the_modes_are_asked_only_where_one_may_stand() -> None:
    def never() -> list[str]:
        raise AssertionError("the registry was read")

    assert words.complete(["mode", ""], never) and words.complete(["mode", "switch", "--"], never)


def test_types_by_themselves() -> None:
    assert words.seconds("2.5") == 2.5 and words.count("20") == 20
    with pytest.raises(argparse.ArgumentTypeError):
        words.seconds("86401")
