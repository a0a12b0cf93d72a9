# SPDX-License-Identifier: MIT
"""The locks on what comes in from outside, and how a test takes them away and puts them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from conftest import Lab
from test_guard import TABLE
from test_plane import restore_guard

IPTABLES = ("iptables", "ip6tables")


def guard_off(lab: Lab) -> None:
    """The doors' chains are empty; the rest of the guard stays."""
    for chain in ("doors_input", "doors_forward"):
        lab.hub.run("nft", "flush", "chain", *TABLE, chain)


def docker_user_off(lab: Lab) -> None:
    """As Docker makes it: whatever comes is passed on."""
    for tables in IPTABLES:
        lab.hub.run(tables, "-F", "DOCKER-USER", check=False)
        lab.hub.run(tables, "-A", "DOCKER-USER", "-j", "RETURN", check=False)


def ufw_off(lab: Lab) -> None:
    """UFW takes its rules away."""
    lab.hub.run("ufw", "--force", "disable")


LOCKS: dict[str, Callable[[Lab], None]] = {"guard": guard_off, "DOCKER-USER": docker_user_off, "UFW": ufw_off}


@contextmanager
def without(lab: Lab, *locks: str) -> Iterator[None]:
    """Some locks off; all on again at the end. The standing evidence mends nothing meanwhile: an audit is under way."""
    lab.hub.run("systemctl", "stop", "mushishi-evidence.timer", check=False)
    try:
        for lock in locks:
            LOCKS[lock](lab)
        yield
    finally:
        put_back(lab)


def put_back(lab: Lab) -> None:
    """Every lock as it was."""
    restore_guard(lab)
    lab.hub.run("ufw", "--force", "enable")
    lab.hub.run("systemctl", "restart", "mushishi-docker-user.service")
    lab.hub.run("systemctl", "start", "mushishi-evidence.timer", check=False)
