# SPDX-License-Identifier: MIT
"""Twenty random orders of restarts, flushes and reboots under attack: shut in every moment, and answering again.

The seed is part of each test's name; ``MUSHISHI_SEED`` repeats one. While a round's steps run, every sovereign user
knocks without a pause at everything beyond the plane, from the namespace, from the host's own network and from the
engines' containers. What arrives anywhere outside is found by its marker. Nightly.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import HUB, SETTINGS, Lab, marker
from test_plane import ON_THE_PLANE, SOVEREIGN_USERS, as_user, no_route, outside, restore_guard, shut

ROUNDS = 20
SEED = int(os.environ.get("MUSHISHI_SEED") or random.SystemRandom().randrange(1 << 32))
ATTACKER = (Path(__file__).parent / "attacker.py").read_text()
STOP = "/run/attack-stop"
REBOOT = "reboot the machine"
#: What may happen to a machine, by shell lines on it. Each may fail: what it needs can be down at that moment.
STEPS = {
    "restart Docker": "systemctl restart docker.service",
    "stop Docker": "systemctl stop docker.service docker.socket",
    "UFW on": "ufw --force reset; ufw allow 22/tcp; ufw allow in on tailscale0; ufw --force enable",
    "reload UFW": "ufw reload",
    "reset UFW": "ufw --force reset",
    "UFW off": "ufw --force disable",
    "flush iptables": "iptables -F; iptables -P FORWARD ACCEPT; ip6tables -F; ip6tables -P FORWARD ACCEPT",
    "flush foreign nft tables": "nft delete table ip filter; nft delete table ip nat; nft delete table ip6 filter",
    "reload the guard": "systemctl reload mushishi-guard.service",
    "stop the guard": "systemctl stop mushishi-guard.service; sleep 1; systemctl start multi-user.target",
    "restart the plane": "systemctl restart mushishi-plane.service",
    "stop the plane": "systemctl stop mushishi-plane.service; sleep 1; systemctl start multi-user.target",
    "restart the gateways": "systemctl restart mushishi-sovereign-gateway.service mushishi-hybrid-gateway.service",
    "kill the gateways": "systemctl kill --signal=KILL mushishi-sovereign-gateway mushishi-hybrid-gateway",
    "restart admission": "systemctl restart mushishi-sovereign-admission.service",
    "kill the engine door": "systemctl kill --signal=KILL mushishi-sovereign-door.service",
    # An interface that goes down loses its IPv6 addresses; a tailnet gives them back.
    "tailnet away and back": "ip link set tailscale0 down; sleep 1; ip link set tailscale0 up; "
    f"ip -6 addr replace {HUB['tailnet']['v6']}/64 dev tailscale0 nodad; systemctl restart lab-net.service",
    "daemon-reload": "systemctl daemon-reload",
    REBOOT: "",
}
#: UFW's files as the product has written them; a round resets them.
UFW_FILES = "/var/tmp/endurance-ufw.tar"
KEEP_UFW = f"test -e {UFW_FILES} || tar -C / -cf {UFW_FILES} etc/ufw etc/default/ufw"
#: After a round: everything that should run is started, the firewall of the round is gone and the product's is back.
PUT_RIGHT = (
    "ufw --force disable > /dev/null; iptables -P FORWARD ACCEPT; ip6tables -P FORWARD ACCEPT;"
    f"rm -f /etc/ufw/*.rules.*; tar -C / -xf {UFW_FILES}; ufw --force enable > /dev/null;"
    "systemctl restart lab-net.service; systemctl reset-failed;"
    "systemctl start mushishi-guard.service mushishi-plane.service; systemctl reload mushishi-guard.service;"
    "systemctl restart docker.service mushishi-docker-user.service; systemctl start multi-user.target"
)


def draw(dice: random.Random) -> list[str]:
    """Four to seven different steps in a random order."""
    return dice.sample(sorted(STEPS), dice.randint(4, 7))


def addresses() -> list[str]:
    """Who is beyond the plane: LAN, tailnet, internet, a provider, the host's own addresses; IPv4 and IPv6."""
    beyond = [SETTINGS["lab_stranger"], SETTINGS["lab_client"], SETTINGS["lab_internet"]]
    beyond += [SETTINGS["lab_providers"]["groq"], HUB["lan"], HUB["tailnet"]]
    return [place[family] for place in beyond for family in ("v4", "v6")]


class Attack:
    """The attacker on the machine; it is begun anew after a reboot. What it found is added up."""

    def __init__(self, lab: Lab, word: str, users: tuple[str, ...], places: tuple[str, ...]) -> None:
        self.lab, self.word = lab, word
        self.wanted = json.dumps({"users": users, "places": places, "addresses": addresses()})
        self.tried: dict[str, int] = {}
        self.through: dict[str, list[str]] = {}
        self.process: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Knock from now on."""
        self.lab.hub.run("rm", "-f", STOP)
        self.process = subprocess.Popen(
            ["docker", "exec", "-i", "-e", f"PLACES={self.wanted}", self.lab.hub.name, "python3", "-", self.word, STOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin
        self.process.stdin.write(ATTACKER)
        self.process.stdin.close()

    def end(self) -> None:
        """Finish the volley that is under way, and add up."""
        assert self.process and self.process.stdout and self.process.stderr
        self.lab.hub.run("touch", STOP)
        text = self.process.stdout.read()
        assert self.process.wait(timeout=120) == 0, self.process.stderr.read()[-2000:]
        found = json.loads(text)
        for name, count in found["tried"].items():
            self.tried[name] = self.tried.get(name, 0) + count
        for name, ways in found["through"].items():
            self.through.setdefault(name, []).extend(ways)


def reboot(lab: Lab) -> None:
    """The machine goes down and comes up."""
    subprocess.run(["docker", "restart", lab.hub.name], check=True, capture_output=True, timeout=180)
    # Somebody is at home from the first moment on: a control group that holds a process gives no controllers to those
    # below it, and once it did (hugetlb, for containers that start at boot) no command could be begun in it any more.
    subprocess.run(["docker", "exec", "--detach", lab.hub.name, "sleep", "infinity"], check=True, capture_output=True)
    # No ordinary process is there before sysinit.target; ``docker exec`` would be, before systemd has begun.
    lab.until(lambda: lab.hub.ok("systemctl", "is-active", "--quiet", "sysinit.target"), "the machine boots", 120)
    # The mark that keeps these attacks out of the standing evidence does not outlive a boot.
    lab.audit("begin")


def arrived(lab: Lab, word: str) -> int:
    """Times the marker was seen anywhere outside; the name servers keep names in small letters."""
    return lab.seen_outside(word) + lab.seen_outside(word.lower())


@pytest.mark.nightly
def test_the_attacker_is_seen_when_it_may_go_out(raw_lab: Lab) -> None:
    """Control: the same program as an ordinary user of the host is heard, and says what got through."""
    raw_lab.everything_up()
    attack = Attack(raw_lab, marker("control").lower(), ("nobody",), ("host",))
    attack.begin()
    time.sleep(3)
    attack.end()
    assert any(" 22" in way for way in attack.through["nobody in host"]), attack.through
    assert arrived(raw_lab, attack.word) > 0


@pytest.mark.nightly
@pytest.mark.parametrize("number", range(ROUNDS), ids=lambda number: f"seed-{SEED}-round-{number + 1}")
def test_shut_in_every_order(raw_lab: Lab, number: int) -> None:
    steps = draw(random.Random(f"{SEED} {number}"))  # noqa: S311 - dice, not secrets
    raw_lab.everything_up()
    raw_lab.hub.run("sh", "-c", KEEP_UFW)
    attack = Attack(raw_lab, marker("endurance").lower(), SOVEREIGN_USERS, ("/run/netns/sovereign", "host", "engines"))
    attack.begin()
    try:
        for step in steps:
            if step == REBOOT:
                attack.end()
                reboot(raw_lab)
                attack.begin()
            else:
                raw_lab.hub.run("sh", "-c", STEPS[step], check=False)
    finally:
        attack.end()
    assert attack.through == {}, f"seed {SEED}: {steps}: {attack.through}"
    assert arrived(raw_lab, attack.word) == 0, f"seed {SEED}: {steps}: a marker arrived outside"
    assert all(f"{user} in host" in attack.tried for user in SOVEREIGN_USERS), attack.tried
    matrix(raw_lab)
    # Whatever order the steps had, the machine answers again once everything is started.
    raw_lab.hub.run("sh", "-c", PUT_RIGHT, check=False)
    raw_lab.until(lambda: raw_lab.ask("private").status == 200, f"private answers after {steps}", 180)
    raw_lab.everything_up()
    matrix(raw_lab)


def matrix(lab: Lab) -> None:
    """Every path, as it stands now: closed, or the place to begin from is gone."""
    targets: list[dict[str, Any]] = outside()
    for user in SOVEREIGN_USERS:
        on_host = [target for target in targets if "on the bridge" not in target["name"]]
        shut(lab.probe(on_host, as_user(user, plane=False)), len(on_host))
        if lab.hub.ok("test", "-e", "/run/netns/sovereign"):
            results = lab.probe(targets, as_user(user, plane=True))
            shut(results, len(targets))
            no_route(results)
    pull = lab.probe(ON_THE_PLANE, as_user("nobody", plane=False))
    assert not [name for name, result in pull.items() if result["outcome"] == "open"]


@pytest.mark.nightly
def test_a_hole_is_heard(raw_lab: Lab) -> None:
    """Control of the rounds: without guard, and with a way through the host, the same attacker is heard."""
    raw_lab.everything_up()
    inside = ("ip", "netns", "exec", "sovereign")
    disguise = ("POSTROUTING", "-s", "10.88.0.0/24", "-j", "MASQUERADE")
    attack = Attack(raw_lab, marker("hole").lower(), SOVEREIGN_USERS[:1], ("/run/netns/sovereign",))
    raw_lab.hub.run("systemctl", "stop", "mushishi-evidence.timer", check=False)
    try:
        raw_lab.hub.run(*inside, "nft", "delete", "table", "inet", "mushishi_guard")
        raw_lab.hub.run("nft", "delete", "table", "inet", "mushishi_guard")
        raw_lab.hub.run(*inside, "ip", "route", "add", "default", "via", "10.88.0.1")
        raw_lab.hub.run("iptables", "-I", "FORWARD", "-j", "ACCEPT")
        raw_lab.hub.run("iptables", "-t", "nat", "-I", *disguise)
        attack.begin()
        time.sleep(3)
        attack.end()
        assert arrived(raw_lab, attack.word) > 0 and attack.through != {}
    finally:
        raw_lab.hub.run(*inside, "ip", "route", "del", "default", check=False)
        raw_lab.hub.run("iptables", "-t", "nat", "-D", *disguise, check=False)
        raw_lab.hub.run("iptables", "-D", "FORWARD", "-j", "ACCEPT", check=False)
        restore_guard(raw_lab)
        raw_lab.hub.run("systemctl", "start", "mushishi-evidence.timer", check=False)
    raw_lab.until(lambda: raw_lab.ask("private").status == 200, "the plane answers again")
