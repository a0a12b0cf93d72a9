# SPDX-License-Identifier: MIT
"""Whether the client's settings would shut the door by which the login came in: UFW's files, sshd, and both answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._login import Login
from ansible_collections.mushishi.sovereign.plugins.module_utils.tailnet import lockout, way_in

V4 = way_in.Packet("100.64.0.9", 22, "tailscale0")
V6 = way_in.Packet("fd7a:115c:a1e0::9", 22, "tailscale0")
ME = Login("me", "100.64.0.9", 22)
#: As ufw 0.36 writes them, with the lines that follow each.
TUPLE = "### tuple ### {}\n-A ufw-user-input -j RETURN\n\n"


def ufw(
    rules4: str = "", rules6: str = "", *, enabled: bool = True, policy: str = "DROP", ipv6: str = "yes"
) -> way_in.Ufw:
    settings = {"DEFAULT_INPUT_POLICY": policy, "IPV6": ipv6}
    made = {4: "".join(TUPLE.format(each) for each in rules4.split("|") if each)}
    made[6] = "".join(TUPLE.format(each) for each in rules6.split("|") if each)
    return way_in.Ufw(enabled, settings, made)


@pytest.mark.parametrize(
    ("rules", "admitted"),
    [
        ("", False),
        ("allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", True),
        ("allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in_tailscale0 comment=6d75", True),
        ("limit tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", True),
        ("allow any any 0.0.0.0/0 any 0.0.0.0/0 in_tailscale0", True),
        ("allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 OpenSSH - in", True),
        ("allow_log tcp 20:30,443 0.0.0.0/0 any 0.0.0.0/0 in", True),
        ("allow tcp 22 0.0.0.0/0 any 100.64.0.0/10 in", True),
        ("allow tcp 22 0.0.0.0/0 any 192.168.1.0/24 in", False),
        ("allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in_eth0", False),
        ("allow tcp 2222 0.0.0.0/0 any 0.0.0.0/0 in", False),
        ("allow udp 22 0.0.0.0/0 any 0.0.0.0/0 in", False),
        ("allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 out", False),
        ("route:allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in_tailscale0", False),
        ("deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in|allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", False),
        ("allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in|deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", True),
        ("allow", False),
    ],
)
def test_the_first_rule_that_fits_decides(rules: str, admitted: bool) -> None:
    assert ufw(rules).admits(V4) is admitted
    assert (
        ufw("", rules.replace("0.0.0.0/0", "::/0").replace("100.64.0.0/10", "fd7a:115c:a1e0::/48")).admits(V6)
        is admitted
    )


def test_without_a_rule_the_policy_decides() -> None:
    assert ufw(policy="ACCEPT").admits(V4) and not ufw(policy="REJECT").admits(V4)
    assert ufw(enabled=False).admits(V4) and ufw(enabled=False, ipv6="no").admits(V6)
    # UFW that does not do IPv6 drops all of it.
    assert not ufw("", "allow tcp 22 ::/0 any ::/0 in", ipv6="no").admits(V6)


def test_ufw_is_read_from_its_files(tmp_path: Path) -> None:
    assert way_in.read_ufw(str(tmp_path)).admits(V4), "no UFW"
    for name, text in {
        "ufw/ufw.conf": "# comment\nENABLED=yes\nLOGLEVEL=low\n",
        "default/ufw": 'IPV6=yes\nDEFAULT_INPUT_POLICY="DROP"\n# DEFAULT_INPUT_POLICY="ACCEPT"\n',
        "ufw/user.rules": TUPLE.format("allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in_tailscale0"),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = way_in.read_ufw(str(tmp_path))
    assert found.enabled and found.admits(V4) and not found.admits(V6)


@pytest.mark.parametrize(
    ("prefs", "mode", "shields", "expected"),
    [
        ({"NetfilterMode": 2}, "off", False, (True, False, False)),
        ({"NetfilterMode": 2}, "nodivert", False, (True, False, False)),
        ({"NetfilterMode": 2}, "on", False, (False, False, False)),
        ({"NetfilterMode": 0}, "off", False, (False, False, False)),
        ({"NetfilterMode": 0, "RunSSH": True}, "off", False, (False, True, False)),
        ({"NetfilterMode": 0, "ShieldsUp": True}, "off", True, (False, False, False)),
        ({"NetfilterMode": 0, "ShieldsUp": False}, "off", True, (False, False, True)),
        ({}, "off", False, (False, False, False)),
    ],
)
def test_what_a_login_could_lose(
    prefs: dict[str, Any], mode: str, shields: bool, expected: tuple[bool, bool, bool]
) -> None:
    made = way_in.change(prefs, mode, shields)
    assert (made.chain, made.server, made.shields) == expected and made.matters is any(expected)


def change(**given: bool) -> way_in.Change:
    return way_in.Change(**{"chain": False, "server": False, "shields": False, "filtered": True, **given})


def test_the_chain_goes_and_ufw_decides() -> None:
    (reason,) = way_in.reasons(change(chain=True), V4, ufw(), list)
    assert "Tailscale's own rules let it in now" in reason
    assert "ufw allow in on tailscale0 to any port 22 proto tcp" in reason
    assert way_in.reasons(change(chain=True), V4, ufw("allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in"), list) == []
    assert way_in.reasons(change(chain=True, filtered=False), V4, ufw(), list) == []


def test_tailscales_ssh_goes_and_sshd_answers() -> None:
    """Its port passed by UFW; another port was never its own."""
    found = way_in.reasons(change(server=True), V4, ufw(), lambda: ["it has no key"])
    assert len(found) == 2 and "past UFW" in found[0] and found[1].endswith("then sshd does, and it has no key")
    assert way_in.reasons(change(server=True), V4, ufw(enabled=False), list) == []
    other = way_in.Packet("100.64.0.9", 2222, "tailscale0")
    assert way_in.reasons(change(server=True), other, ufw(), lambda: ["it has no key"]) == []


def test_shields_up_shuts_everything() -> None:
    (reason,) = way_in.reasons(change(shields=True), V4, ufw(enabled=False), list)
    assert "refuse every connection" in reason


def tcp(*rows: str) -> str:
    head = "  sl  local_address rem_address   st\n"
    return head + "".join(f"   {at}: {row} 00000000:0000 0A 0 0\n" for at, row in enumerate(rows))


@pytest.mark.parametrize(
    ("four", "six", "there"),
    [
        ("00000000:0016", "", True),
        ("", "00000000000000000000000000000000:0016", True),
        ("0100007F:0016", "00000000000000000000000001000000:0016", False),
        ("00000000:0017", "", False),
        ("", "", False),
    ],
)
def test_who_listens(tmp_path: Path, four: str, six: str, there: bool) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(tcp(*filter(None, [four])))
    (tmp_path / "net/tcp6").write_text(tcp(*filter(None, [six])))
    assert way_in.listens(22, str(tmp_path)) is there
    # A connection that stands is no listener.
    (tmp_path / "net/tcp").write_text(tcp("00000000:0016").replace(" 0A ", " 01 "))
    (tmp_path / "net/tcp6").write_text("")
    assert not way_in.listens(22, str(tmp_path)) and not way_in.listens(22, str(tmp_path / "none"))


def runner(device: str = "tailscale0", sshd: str = "") -> Any:
    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        if argv[0] == "ip":
            return (0, json.dumps([{"dst": argv[-1], "dev": device}]), "") if device else (2, "", "no route")
        return (0, sshd, "") if sshd else (127, "", "not there")

    return run


def test_sshd_is_asked_whether_it_would_let_him_in(monkeypatch: pytest.MonkeyPatch) -> None:
    reason: list[str] = []
    monkeypatch.setattr(way_in, "listens", lambda port, proc: port == 22)
    monkeypatch.setattr(lockout, "key_reason", lambda login, settings: "".join(reason))
    assert way_in.without_tailscales_ssh(ME, runner(sshd="permitrootlogin no\n")) == []
    root = Login("root", "100.64.0.9", 22)
    assert way_in.without_tailscales_ssh(root, runner(sshd="permitrootlogin no\n")) == ["it does not let root in"]
    assert way_in.without_tailscales_ssh(root, runner(sshd="permitrootlogin without-password\n")) == []
    reason.append("me has no key that would be accepted")
    assert way_in.without_tailscales_ssh(ME, runner(sshd="permitrootlogin no\n")) == reason
    monkeypatch.setattr(way_in, "listens", lambda port, proc: False)
    (nobody,) = way_in.without_tailscales_ssh(ME, runner())
    assert nobody == "no program listens at port 22 (systemctl enable --now ssh)"


def test_it_ends_before_anybody_is_locked_out(tmp_path: Path) -> None:
    (tmp_path / "ufw").mkdir()
    (tmp_path / "ufw/ufw.conf").write_text("ENABLED=yes\n")

    def refuse(
        login: Login | None = ME, accepted: bool = False, device: str = "tailscale0", **given: bool
    ) -> list[str]:
        made = change(**(given or {"chain": True}))
        return way_in.refuse(login, "tailscale0", made, runner(device), accepted=accepted, etc=str(tmp_path))

    with pytest.raises(SovereignError, match=r"login of me from 100\.64\.0\.9.*Nothing was changed") as error:
        refuse()
    assert "tailscale_lockout_accepted=true" in error.value.remedy
    (warning,) = refuse(accepted=True)
    assert "would not work afterwards" in warning and "Nothing was changed" not in warning
    # Controls: nobody is logged in, he came by another interface or by none, nothing is lost, UFW is off.
    assert refuse(None) == refuse(device="eth0") == refuse(device="") == refuse(chain=False) == []
    # A link-local address says by itself by which interface it came.
    assert refuse(Login("me", "fe80::1", 22, "eth0")) == []
    with pytest.raises(SovereignError):
        refuse(Login("me", "fe80::1", 22, "tailscale0"), device="eth0")
    (tmp_path / "ufw/ufw.conf").write_text("ENABLED=no\n")
    assert refuse() == []
