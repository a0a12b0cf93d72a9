# SPDX-License-Identifier: MIT
"""An administrator on the machine, whose key some of the lab's machines have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from conftest import Lab, Machine

USER = "admin"
_KEY = "/root/.ssh/id_ed25519"


@contextmanager
def administrator(lab: Lab, *machines: Machine) -> Iterator[None]:
    """``admin`` may do everything by sudo, has a password nobody should get in with, and root has the same keys."""
    hub, keys = lab.hub, ""
    for machine in machines:
        machine.run("sh", "-c", f"test -e {_KEY} || ssh-keygen -q -t ed25519 -N '' -f {_KEY}")
        keys += machine.run("cat", f"{_KEY}.pub")
    hub.run("sh", "-c", f"id {USER} >/dev/null 2>&1 || useradd --create-home --shell /bin/sh {USER}")
    hub.run("chpasswd", stdin=f"{USER}:word\n")
    hub.run("sh", "-c", f"cat > /etc/sudoers.d/{USER}", stdin=f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
    for user, home in ((USER, f"/home/{USER}"), ("root", "/root")):
        hub.run("install", "-d", "-o", user, "-g", user, "-m", "700", f"{home}/.ssh")
        path = f"{home}/.ssh/authorized_keys"
        hub.run("sh", "-c", f"cat > {path} && chown {user}: {path}", stdin=keys)
    try:
        yield
    finally:
        hub.run("rm", "-f", "/root/.ssh/authorized_keys", f"/etc/sudoers.d/{USER}")
        hub.run("userdel", "--remove", "--force", USER, check=False)
