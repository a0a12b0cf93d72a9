# SPDX-License-Identifier: MIT
"""What would cut an SSH connection."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._login import Login
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall import lockout
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.doors import Door

SSH = Door("tcp", 22, "ssh", "ssh")


OWN = ("100.64.0.1",)


def judge(login: Login | None, device: str | None, *, ssh: bool = True, tailnet: Sequence[str] = OWN) -> str:
    found = lockout.problems(
        login=login,
        over_ssh=ssh,
        device=device,
        interface="tailscale0",
        addresses=list(tailnet),
        doors=[SSH, Door("udp", 2222, "x", "x")],
        inside=["lo", "br-*"],
    )
    return "; ".join(found)


@pytest.mark.parametrize(
    ("login", "device", "words"),
    [
        (Login("me", "100.64.0.9", 22), "tailscale0", ""),
        (Login("me", "127.0.0.1", 2222), "lo", ""),
        (Login("me", "10.90.0.5", 2222), "br-0a1b", ""),
        (Login("me", "192.0.2.9", 22), "eth0", "by eth0, and tailscale0 will be the only way in"),
        (Login("me", "100.64.0.9", 2222), "tailscale0", "port 2222, which is no door"),
        (Login("me", "192.0.2.9", 22), None, "no route leads back"),
        (None, None, "cannot be found out"),
    ],
)
def test_who_would_be_cut_off(login: Login | None, device: str | None, words: str) -> None:
    said = judge(login, device)
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


def test_what_stands_on_what_as_the_kernel_says_it() -> None:
    """Control of the name in the test below: a real bridge, in a namespace of its own."""
    made = "ip link add br-x type bridge; ip link add v0 type veth peer name v1; ip link set v1 master br-x; "
    made += "mount -t sysfs sysfs /sys; ls /sys/class/net/br-x; test ! -e /sys/class/net/v1/device"
    argv = ["unshare", "--net", "--mount", "sh", "-c", made]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "lower_v1" in done.stdout.split(), "and what Docker hangs into its bridges is no card"


def test_a_bridge_of_the_lan_that_is_called_as_docker_s(tmp_path: Path) -> None:
    for bridge, member, card in (("br-lan", "enp3s0", True), ("br-0a1b", "veth1", False), ("lan", "enp4s0", True)):
        (tmp_path / bridge / f"lower_{member}").mkdir(parents=True)
        (tmp_path / member / ("device" if card else "x")).mkdir(parents=True)
    nothing = answering({"route show default": []})
    assert lockout.fenced_in(nothing, ["lo", "br-*"], str(tmp_path)) == ["br-lan"]
    # A VLAN of a bond of two cards; a VLAN of nothing; and a ring, which the kernel does not make.
    for upper, lower in (
        *(("br-vlan", "bond0.7"), ("bond0.7", "bond0"), ("bond0", "enp4s0"), ("bond0", "enp5s0")),
        *(("br-none", "dummy0.7"), ("dummy0.7", "dummy0"), ("br-ring", "a"), ("a", "br-ring")),
    ):
        (tmp_path / upper / f"lower_{lower}").mkdir(parents=True)
    (tmp_path / "br-card" / "device").mkdir(parents=True)
    assert lockout.fenced_in(nothing, ["lo", "br-*"], str(tmp_path)) == ["br-card", "br-lan", "br-vlan"]
    routed = answering({"-4 route show default": [{"dev": "br-home"}], "-6 route show default": [{"dev": "eth0"}]})
    assert lockout.fenced_in(routed, ["lo", "br-*"], str(tmp_path / "none")) == ["br-home"]
