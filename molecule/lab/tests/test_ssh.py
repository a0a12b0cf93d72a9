# SPDX-License-Identifier: MIT
"""sshd on the whole machine: by key, from the tailnet, never as root, each lock by itself, by service and by socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import HUB, SETTINGS, Lab, Machine, play, recap, site
from locks import LOCKS, without
from logins import administrator
from test_doors import scan_from

UNITS = ("ssh.service", "ssh.socket")
BATCH = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "StrictHostKeyChecking=no")


@pytest.fixture(scope="module")
def admin(raw_lab: Lab) -> Iterator[Lab]:
    """An administrator whose key the client of the tailnet and the stranger of the LAN have."""
    raw_lab.everything_up()
    with administrator(raw_lab, raw_lab.client, raw_lab.stranger):
        yield raw_lab


def login(machine: Machine, user: str, address: str, *command: str, options: tuple[str, ...] = ()) -> tuple[bool, str]:
    """Whether a login works, and what the command said."""
    script = " ".join(("ssh", *BATCH, *options, f"{user}@{address}", *(f"'{word}'" for word in command or ("true",))))
    out = machine.run("sh", "-c", f"{script} 2>&1; echo status $?")
    said, _, status = out.rpartition("status ")
    return status.strip() == "0", said


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_key_from_the_tailnet_gets_in(admin: Lab, family: str) -> None:
    """Controls: root with the same key, and a user with a password, do not."""
    address = HUB["tailnet"][family]
    ok, said = login(admin.client, "admin", address, "id", "-un")
    assert ok and said.split()[-1] == "admin", said
    ok, said = login(admin.client, "root", address)
    assert not ok and "Permission denied (publickey)" in said, said
    ok, said = login(admin.client, "admin", address, options=("-o", "PubkeyAuthentication=no"))
    assert not ok and "Permission denied (publickey)" in said, said


def test_a_login_is_free_of_the_filter_that_sshd_has(admin: Lab) -> None:
    """What an administrator starts may go where the machine goes; sshd itself may not."""
    stranger = SETTINGS["lab_stranger"]["v4"]
    ok, said = login(admin.client, "admin", HUB["tailnet"]["v4"], "cat", "/proc/self/cgroup")
    assert ok and "ssh.service" not in said, said
    ok, said = login(admin.client, "admin", HUB["tailnet"]["v4"], f'bash -c "exec 3<>/dev/tcp/{stranger}/22"')
    assert ok, said


@contextmanager
def without_its_own(lab: Lab) -> Iterator[None]:
    """sshd's units without their filter of addresses."""
    try:
        for unit in UNITS:
            lab.hub.run("systemctl", "set-property", "--runtime", unit, "IPAddressAllow=any", check=False)
        yield
    finally:
        for unit in UNITS:
            lab.hub.run("rm", "-rf", f"/run/systemd/system.control/{unit}.d")
        lab.hub.run("systemctl", "daemon-reload")


@pytest.mark.nightly
@pytest.mark.parametrize("by", ["service", "socket"])
def test_each_lock_keeps_the_lan_from_sshd(admin: Lab, by: str) -> None:
    """Guard, UFW and sshd's own filter, each alone. Control: with all of them away the LAN gets in."""
    hub = admin.hub
    if by == "socket":
        hub.run("systemctl", "disable", "--now", "ssh.service")
        hub.run("systemctl", "enable", "--now", "ssh.socket")
    try:
        assert recap(site("--tags", "ssh"))["failed"] == 0
        assert recap(site("--tags", "ssh"))["changed"] == 0
        for family in ("v4", "v6"):
            lan, tailnet = HUB["lan"][family], HUB["tailnet"][family]
            with without_its_own(admin):
                for alone in ("guard", "UFW"):
                    with without(admin, *(name for name in LOCKS if name != alone)):
                        assert scan_from(admin.stranger, lan, "22") == set(), (alone, family)
                with without(admin, *LOCKS):
                    assert scan_from(admin.stranger, lan, "22") == {22}, f"control ({family})"
            with without(admin, *LOCKS):
                assert scan_from(admin.stranger, lan, "22") == set(), ("its own", family)
            assert login(admin.client, "admin", tailnet)[0], family
    finally:
        if by == "socket":
            hub.run("systemctl", "disable", "--now", "ssh.socket")
            hub.run("systemctl", "enable", "--now", "ssh.service")
            site("--tags", "ssh")


@pytest.mark.nightly
def test_a_file_that_wins_is_named_before_sshd_is_restarted(admin: Lab) -> None:
    path = "/etc/ssh/sshd_config.d/00-a-other.conf"
    admin.hub.run("sh", "-c", f"echo 'PasswordAuthentication yes' > {path}")
    began = admin.hub.run("systemctl", "show", "ssh.service", "--property=ActiveEnterTimestampMonotonic")
    try:
        done = play("site", "--tags", "ssh")
    finally:
        admin.hub.run("rm", path)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0 and "passwordauthentication no" in said and "Another file wins" in said, said[-3000:]
    assert admin.hub.run("systemctl", "show", "ssh.service", "--property=ActiveEnterTimestampMonotonic") == began


@pytest.mark.nightly
def test_a_match_block_that_lets_root_in_is_refused(admin: Lab) -> None:
    """It comes after ours, and beats it. Control: one that is stricter is left alone."""
    path = "/etc/ssh/sshd_config.d/99-matched.conf"
    try:
        for line, refused in (("PermitRootLogin yes", True), ("X11Forwarding no", False)):
            admin.hub.run("sh", "-c", f"printf 'Match Address 10.77.0.0/24\\n  {line}\\n' > {path}")
            done = play("site", "--tags", "ssh")
            said = " ".join((done.stdout + done.stderr).split())
            assert (done.returncode != 0) is refused and recap(done.stdout)["changed"] == 0, said[-3000:]
            assert ("Match Address 10.77.0.0/24: permitrootlogin yes" in said) is refused, said[-3000:]
    finally:
        admin.hub.run("rm", path)


@pytest.mark.nightly
def test_sshd_does_not_move_behind_a_shut_door(admin: Lab) -> None:
    done = play("site", "--tags", "ssh", "-e", "ssh_port=2222")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0 and recap(done.stdout)["changed"] == 0, said[-3000:]
    assert "guard and UFW would keep every new login out" in said, said[-3000:]
