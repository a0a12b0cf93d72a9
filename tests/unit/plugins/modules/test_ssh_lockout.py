# SPDX-License-Identifier: MIT
"""ssh_lockout: the login above the task, and why it would not work afterwards."""

from __future__ import annotations

import base64
import os
import pwd
import struct
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils._login import Login
from ansible_collections.mushishi.sovereign.plugins.module_utils.tailnet import lockout
from ansible_collections.mushishi.sovereign.plugins.module_utils.tailnet.lockout import Rules
from ansible_collections.mushishi.sovereign.plugins.modules import ssh_lockout

TAILNET = ("100.64.0.0/10", "fd7a:115c:a1e0::/48")
RULES = Rules(TAILNET, (), ())


def rsa(bits: int) -> str:
    """An RSA public key's blob of a length; nobody has its other half."""
    fields = (b"ssh-rsa", b"\x01\x00\x01", b"\x00" + (1 << (bits - 1)).to_bytes(bits // 8, "big"))
    return base64.b64encode(b"".join(struct.pack(">I", len(each)) + each for each in fields)).decode()


ED25519 = "AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (f"ssh-ed25519 {ED25519} me@laptop\n", 1),
        (f'from="100.64.0.0/10",no-pty ssh-ed25519 {ED25519}\n# a comment\n\n', 1),
        (f"ssh-rsa {rsa(4096)} old\nssh-rsa {rsa(3072)}\n", 2),
        (f"ssh-rsa {rsa(2048)} too short\n", 0),
        (f"ssh-dss {ED25519}\n", 0),
        (f"#ssh-ed25519 {ED25519}\n", 0),
        (f"cert-authority ssh-ed25519 {ED25519}\n", 0),
        ("ssh-ed25519\n", 0),
        ("ssh-ed25519 not*base64\n", 0),
        ("", 0),
    ],
)
def test_keys_that_count(text: str, count: int) -> None:
    assert lockout.usable_keys(text) == count


def test_where_keys_lie() -> None:
    files = lockout.key_files(".ssh/authorized_keys /etc/ssh/keys/%u %h/x%%%U none", "me", "/home/me", 1000)
    assert files == ["/home/me/.ssh/authorized_keys", "/etc/ssh/keys/me", "/home/me/x%1000"]


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("100.64.0.3", True),
        ("fd7a:115c:a1e0::3", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:100.100.1.1", True),
        ("192.168.1.20", False),
        ("::ffff:192.168.1.20", False),
        ("fe80::1%eth0", False),
        ("fd7a:115c:a1e1::3", False),
    ],
)
def test_addresses(address: str, allowed: bool) -> None:
    assert lockout.allowed_from(address, TAILNET) is allowed


@pytest.fixture
def me(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user `me` with a key and a group; returns the file with the key."""
    keys = tmp_path / ".ssh/authorized_keys"
    keys.parent.mkdir()
    keys.write_text(f"ssh-ed25519 {ED25519}\n")
    account = pwd.struct_passwd(("me", "x", 1000, 1000, "", str(tmp_path), "/bin/bash"))

    def getpwnam(name: str) -> pwd.struct_passwd:
        if name not in ("me", "root"):
            raise KeyError(name)
        return account

    monkeypatch.setattr(lockout.pwd, "getpwnam", getpwnam)
    monkeypatch.setattr(lockout.os, "getgrouplist", lambda _user, _gid: [0])
    return keys


LOGIN = Login("me", "100.64.7.7", 22)


def test_a_good_login_has_no_reason(me: Path) -> None:
    assert lockout.reasons(LOGIN, RULES, {}) == []
    assert lockout.reasons(LOGIN, Rules(TAILNET, ("me",), ("root",)), {}) == []


@pytest.mark.parametrize(
    ("login", "rules", "words"),
    [
        (Login("root", "100.64.7.7", 22), RULES, "root does not log in"),
        (Login("me", "192.168.1.20", 22), RULES, "comes from 192.168.1.20"),
        (LOGIN, Rules(TAILNET, ("you",), ()), "not in ssh_allow_users"),
        (LOGIN, Rules(TAILNET, (), ("people",)), "in none of ssh_allow_groups"),
        (Login("gone", "100.64.7.7", 22), RULES, "no user 'gone'"),
    ],
)
def test_reasons(me: Path, login: Login, rules: Rules, words: str) -> None:
    (reason,) = lockout.reasons(login, rules, {})
    assert words in reason


def test_no_key(me: Path) -> None:
    me.write_text("")
    (reason,) = lockout.reasons(LOGIN, RULES, {})
    assert "me has no key that would be accepted" in reason and str(me) in reason
    # Another program answers for the keys: nobody can tell, so it is no reason.
    assert lockout.reasons(LOGIN, RULES, {"authorizedkeyscommand": "/usr/bin/sss_ssh_authorizedkeys"}) == []
    assert lockout.reasons(LOGIN, RULES, {"authorizedkeyscommand": "none", "trustedusercakeys": "none"}) != []


def test_without_a_login_there_is_no_reason() -> None:
    assert lockout.reasons(None, RULES, {}) == []


def test_all_reasons_at_once(me: Path) -> None:
    me.unlink()
    assert len(lockout.reasons(Login("root", "10.0.0.1", 22), Rules(TAILNET, ("you",), ("people",)), {})) == 5


def module_with(run: Any, monkeypatch: pytest.MonkeyPatch, login: Login | None, **options: Any) -> dict[str, Any]:
    monkeypatch.setattr(ssh_lockout, "find_login", lambda: login)
    return dict(run(ssh_lockout, networks=list(TAILNET), sshd="/not/there/sshd", **options))


def test_refuses_and_can_be_told_not_to(run: Any, monkeypatch: pytest.MonkeyPatch, me: Path) -> None:
    good = module_with(run, monkeypatch, LOGIN)
    assert not good["failed"] and not good["changed"] and good["address"] == "100.64.7.7"
    bad = module_with(run, monkeypatch, Login("me", "192.168.1.20", 22))
    assert bad["failed"] and "ssh_lockout_accepted=true" in bad["msg"] and "192.168.1.20" in bad["msg"]
    accepted = module_with(run, monkeypatch, Login("me", "192.168.1.20", 22), accepted=True)
    assert not accepted["failed"] and len(accepted["reasons"]) == 1


def test_without_a_login_there_is_none_to_lose(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = module_with(run, monkeypatch, None, allow_users=["nobody"])
    assert not result["failed"] and result["user"] == "" and result["reasons"] == []


def test_a_network_that_is_none(run: Any, monkeypatch: pytest.MonkeyPatch, me: Path) -> None:
    monkeypatch.setattr(ssh_lockout, "find_login", lambda: LOGIN)
    result = run(ssh_lockout, networks=["100.64.0.0/99"])
    assert result["failed"] and "100.64.0.0/99" in result["msg"]


def test_sshd_says_where_keys_lie(run: Any, monkeypatch: pytest.MonkeyPatch, me: Path, tmp_path: Path) -> None:
    other = tmp_path / "keys-of-me"
    me.rename(other)
    program = tmp_path / "sshd"
    said = f"authorizedkeysfile {tmp_path}/keys-of-%u\nauthorizedkeyscommand none"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(ssh_lockout, "find_login", lambda: LOGIN)
    assert not run(ssh_lockout, networks=list(TAILNET), sshd=str(program))["failed"]
    os.unlink(other)
    assert run(ssh_lockout, networks=list(TAILNET), sshd=str(program))["failed"]
