# SPDX-License-Identifier: MIT
"""service_users: no home, no shell, no password; and nothing done when that is so."""

from __future__ import annotations

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils import _accounts
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

PASSWD = "root:x:0:0:root:/root:/bin/bash\nmushishi-a:x:990:990:service:/nonexistent:/usr/sbin/nologin\n"
GROUP = "root:x:0:\nmushishi-a:x:990:\nusers:x:100:\n"
USERADD = (
    "useradd --system --gid mushishi-b --comment service --home-dir /nonexistent --no-create-home "
    "--shell /usr/sbin/nologin -- mushishi-b"
)
SHADOW = "root:$y$secret:20000:0:99999:7:::\nmushishi-a:!:20000::::::\n"


def reader(**changed: str) -> _accounts.Reader:
    files = {"passwd": PASSWD, "group": GROUP, "shadow": SHADOW, **changed}
    return lambda name: files[name]


def test_nothing_is_done_when_all_is_right() -> None:
    commands, differences = _accounts.commands(["mushishi-a"], "service", reader())
    assert commands == [] and not differences.changed


def test_makes_a_group_and_a_user() -> None:
    commands, differences = _accounts.commands(["mushishi-a", "mushishi-b"], "service", reader())
    assert commands == [
        ["groupadd", "--system", "--", "mushishi-b"],
        USERADD.split(),
    ]
    assert differences.names == ["group mushishi-b", "user mushishi-b"]


def test_a_run_killed_after_the_group_goes_on_with_the_user() -> None:
    commands, _differences = _accounts.commands(["mushishi-b"], "service", reader(group=GROUP + "mushishi-b:x:991:\n"))
    assert [command[0] for command in commands] == ["useradd"]


@pytest.mark.parametrize(
    ("changed", "options"),
    [
        ({"passwd": PASSWD.replace("/usr/sbin/nologin", "/bin/sh")}, ["--shell", "/usr/sbin/nologin"]),
        ({"passwd": PASSWD.replace("/nonexistent", "/home/a")}, ["--home", "/nonexistent"]),
        ({"passwd": PASSWD.replace("990:990", "990:100")}, ["--gid", "mushishi-a"]),
        ({"passwd": PASSWD.replace(":service:", ":other:")}, ["--comment", "service"]),
        ({"shadow": SHADOW.replace("mushishi-a:!:", "mushishi-a:$y$x:")}, ["--lock"]),
        ({"shadow": SHADOW.replace("mushishi-a:!:", "mushishi-a::")}, ["--lock"]),
    ],
)
def test_what_differs_is_put_right(changed: dict[str, str], options: list[str]) -> None:
    commands, differences = _accounts.commands(["mushishi-a"], "service", reader(**changed))
    assert commands == [["usermod", *options, "--", "mushishi-a"]] and len(differences.names) == 1


@pytest.mark.parametrize("word", ["!", "!*", "*", "!$y$x"])
def test_a_locked_password_is_locked(word: str) -> None:
    commands, _differences = _accounts.commands(
        ["mushishi-a"], "service", reader(shadow=SHADOW.replace("mushishi-a:!:", f"mushishi-a:{word}:"))
    )
    assert commands == []


@pytest.mark.parametrize("name", ["", "-x", "Upper", "a b", "a" * 33])
def test_refuses_what_is_no_name(name: str) -> None:
    with pytest.raises(SovereignError, match="no name of a user"):
        _accounts.commands([name], "service", reader())
