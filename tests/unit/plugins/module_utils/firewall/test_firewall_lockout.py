# SPDX-License-Identifier: MIT
"""From where an SSH connection comes, found among the ancestors of a process, and what would cut it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall import lockout
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.doors import Door
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.lockout import Session

SSH = Door("tcp", 22, "ssh", "ssh")


@pytest.mark.parametrize(
    ("text", "session"),
    [
        ("100.64.0.9 50000 100.64.0.1 22", Session("100.64.0.9", 22)),
        ("fd7a::9 50000 fd7a::1 2222", Session("fd7a::9", 2222)),
        ("::ffff:192.0.2.9 1 ::ffff:192.0.2.1 22", Session("192.0.2.9", 22)),
        ("fe80::1%eth0 1 fe80::2%eth0 22", Session("fe80::1", 22)),
        ("", None),
        ("UNKNOWN 65535 UNKNOWN 65535", None),
        ("1.2.3.4 1 2.3.4.5", None),
    ],
)
def test_reading(text: str, session: Session | None) -> None:
    assert lockout.session_from(text) == session


def process(proc: Path, pid: int, parent: int, **environment: str) -> None:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "environ").write_bytes(b"\0".join(f"{name}={value}".encode() for name, value in environment.items()))
    (folder / "stat").write_text(f"{pid} (a ) b) S {parent} 1 1\n")


def test_sudo_has_taken_it_away_and_its_parent_has_it(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, SSH_CONNECTION="100.64.0.9 1 100.64.0.1 22")
    process(tmp_path, 11, 10, SSH_CONNECTION="nonsense")
    process(tmp_path, 12, 11, HOME="/root")
    process(tmp_path, 1, 0)
    assert lockout.session_of(12, str(tmp_path)) == Session("100.64.0.9", 22)
    assert lockout.session_of(1, str(tmp_path)) is None and lockout.session_of(99, str(tmp_path)) is None


OWN = ("100.64.0.1",)


def judge(session: Session | None, device: str | None, *, ssh: bool = True, tailnet: Sequence[str] = OWN) -> str:
    found = lockout.problems(
        session=session,
        over_ssh=ssh,
        device=device,
        interface="tailscale0",
        addresses=list(tailnet),
        doors=[SSH, Door("udp", 2222, "x", "x")],
        inside=["lo", "br-*"],
    )
    return "; ".join(found)


@pytest.mark.parametrize(
    ("session", "device", "words"),
    [
        (Session("100.64.0.9", 22), "tailscale0", ""),
        (Session("127.0.0.1", 2222), "lo", ""),
        (Session("10.90.0.5", 2222), "br-0a1b", ""),
        (Session("192.0.2.9", 22), "eth0", "by eth0, and tailscale0 will be the only way in"),
        (Session("100.64.0.9", 2222), "tailscale0", "port 2222, which is no door"),
        (Session("192.0.2.9", 22), None, "no route leads back"),
        (None, None, "cannot be found out"),
    ],
)
def test_who_would_be_cut_off(session: Session | None, device: str | None, words: str) -> None:
    said = judge(session, device)
    assert words in said and bool(said) == bool(words)


def test_a_console_has_nothing_to_lose_and_still_needs_a_tailnet() -> None:
    assert judge(None, None, ssh=False) == ""
    assert "has no address" in judge(None, None, ssh=False, tailnet=())


def test_refused_unless_accepted() -> None:
    with pytest.raises(SovereignError, match="firewall_lockout_accepted: true"):
        lockout.refuse(["a"], accepted=False)
    lockout.refuse(["a"], accepted=True)
    lockout.refuse([], accepted=False)


def answering(answers: dict[str, object]) -> lockout.Runner:
    def run(argv: Sequence[str], text: str) -> tuple[int, str, str]:
        del text
        found = next((value for words, value in answers.items() if words in " ".join(argv)), None)
        return (0, json.dumps(found), "") if found is not None else (2, "", "no")

    return run


def test_asking_the_machine() -> None:
    shown = [{"addr_info": [{"local": "100.64.0.1", "scope": "global"}, {"local": "fe80::1", "scope": "link"}]}]
    run = answering({"route get 100.64.0.9": [{"dev": "tailscale0"}], "address show dev tailscale0": shown})
    assert lockout.device_to("100.64.0.9", run) == "tailscale0" and lockout.device_to("192.0.2.1", run) is None
    assert lockout.addresses_of("tailscale0", run) == ["100.64.0.1"] and lockout.addresses_of("wg0", run) == []


def test_a_bridge_of_the_lan_that_is_called_as_docker_s(tmp_path: Path) -> None:
    for bridge, member, card in (("br-lan", "enp3s0", True), ("br-0a1b", "veth1", False), ("lan", "enp4s0", True)):
        (tmp_path / bridge / "brif" / member).mkdir(parents=True)
        (tmp_path / member / ("device" if card else "x")).mkdir(parents=True)
    nothing = answering({"route show default": []})
    assert lockout.fenced_in(nothing, ["lo", "br-*"], str(tmp_path)) == ["br-lan"]
    routed = answering({"-4 route show default": [{"dev": "br-home"}], "-6 route show default": [{"dev": "eth0"}]})
    assert lockout.fenced_in(routed, ["lo", "br-*"], str(tmp_path / "none")) == ["br-home"]
