# SPDX-License-Identifier: MIT
"""Day 2: the firewall goes and comes back, a user's own rules stay, a dry run says what will happen. The night's."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator

import pytest
from conftest import HUB, Lab, play, play_apart, recap, site

pytestmark = pytest.mark.nightly

UFW_FILES = ("default/ufw", "ufw/ufw.conf", "ufw/user.rules", "ufw/user6.rules", "ufw/after.rules", "ufw/after6.rules")
AWAY = json.dumps({"firewall_state": "absent", "guard_doors_enforced": False})
PENDING = "/var/lib/mushishi-firewall/pending/armed.json"
#: A run of the two roles that make the doors.
DOORS = ("--tags", "guard,firewall")
OWN = ("allow", "proto", "tcp", "from", "192.0.2.7", "to", "any", "port", "2222")


@pytest.fixture(autouse=True, scope="module")
def whole_again(raw_lab: Lab) -> Iterator[None]:
    """The machine is shut at the end, whatever happened."""
    raw_lab.everything_up()
    yield
    site(*DOORS)


def files(lab: Lab) -> dict[str, str]:
    """UFW's files, with their modes."""
    return {name: lab.hub.run("sh", "-c", f"stat -c '%a %u %g' /etc/{name}; cat /etc/{name}") for name in UFW_FILES}


def changes(output: str) -> list[str]:
    """Names of the tasks that have changed something, or would."""
    return re.findall(r"TASK \[([^\]]+)\] \**\n(?:(?!TASK |PLAY |RUNNING ).*\n)*?changed: \[hub\]", output)


def predicted(*arguments: str) -> str:
    """Run twice, first dry: the same tasks say that they change something. The output of the real one."""
    dry, wet = site(*arguments, "--check", "--diff"), site(*arguments, "--diff")
    # Arming and confirming belong to a change that is made: in a dry run there is none.
    made = [name for name in changes(wet) if not re.search("(?i)brake|new connection|became of the change", name)]
    assert made == changes(dry), (changes(dry), changes(wet))
    return wet


def test_away_to_the_byte_and_back(raw_lab: Lab) -> None:
    """What was there before comes back, as often as it goes; what a dry run says is what happens."""
    built = files(raw_lab)
    assert recap(predicted(*DOORS, "-e", AWAY))["changed"] > 0
    away = files(raw_lab)
    assert "ENABLED=no" in away["ufw/ufw.conf"] and "tailscale0" not in "".join(away.values())
    assert "inactive" in raw_lab.hub.run("ufw", "status")
    for tables in ("iptables", "ip6tables"):
        rules = raw_lab.hub.run(tables, "-S")
        assert "ufw" not in rules and "MUSHISHI" not in rules and "-P INPUT ACCEPT" in rules, rules
    assert recap(site(*DOORS, "-e", AWAY))["changed"] == 0
    assert recap(predicted(*DOORS))["changed"] > 0
    assert files(raw_lab) == built
    assert recap(site(*DOORS))["changed"] == 0
    site(*DOORS, "-e", AWAY)
    assert files(raw_lab) == away
    site(*DOORS)


#: Published to everybody, on a bridge of the default network.
NAME, PORT = "fw-away", 18120


def published(lab: Lab) -> None:
    """A container whose port anybody may ask for, where nothing shuts it."""
    image = lab.hub.run("docker", "inspect", "-f", "{{.Image}}", lab.engine_container("agent")).strip()
    lab.hub.run(
        *("docker", "run", "--detach", f"--name={NAME}", "--entrypoint=/usr/bin/python3"),
        *(f"--publish=0.0.0.0:{PORT}:7100", image, "-m", "standins.echo", "--bind", "0.0.0.0", "--tcp", "7100"),
        *("--udp", "7100", "--control", "127.0.0.1:19097"),
    )
    lab.until(lambda: lab.hub.ok(*knock("127.0.0.1")), "it answers at home", 60)


def knock(address: str) -> tuple[str, ...]:
    """A command that connects."""
    return ("python3", "-c", f"import socket; socket.create_connection(({address!r}, {PORT}), 3).close()")


def test_a_published_port_without_the_firewall(raw_lab: Lab) -> None:
    """Away is away, as Docker alone would have it: the port is open to the LAN, and FORWARD is as closed as Docker's.

    Before and after, with the firewall, the same knock is in vain.
    """
    address = HUB["lan"]["v4"]
    try:
        published(raw_lab)
        assert not raw_lab.stranger.ok(*knock(address)), "control: shut"
        site(*DOORS, "-e", AWAY)
        assert raw_lab.stranger.ok(*knock(address)), "nothing of ours is in the way any more"
        for tables in ("iptables", "ip6tables"):
            rules = raw_lab.hub.run(tables, "-S").splitlines()
            # The lab is built before Docker comes to it, when FORWARD was open.
            assert "-N DOCKER-USER" not in rules or "-P FORWARD DROP" in rules, rules
        site(*DOORS)
        assert not raw_lab.stranger.ok(*knock(address)), "and it comes back"
    finally:
        raw_lab.hub.run("docker", "rm", "--force", NAME, check=False)
        site(*DOORS)


def test_a_rule_of_the_user_stays_through_all_of_it(raw_lab: Lab) -> None:
    raw_lab.hub.run("ufw", *OWN)
    try:
        assert recap(site(*DOORS))["changed"] == 0, "it is none of our business"
        for words in (("-e", AWAY), ()):
            site(*DOORS, *words)
            assert "192.0.2.7" in raw_lab.hub.run("cat", "/etc/ufw/user.rules"), words
        assert "192.0.2.7" in raw_lab.hub.run("iptables", "-S", "ufw-user-input")
    finally:
        raw_lab.hub.run("ufw", "delete", *OWN)


@pytest.mark.parametrize(
    "damage",
    [
        "iptables -F ufw-user-input",
        "iptables -F DOCKER-USER",
        "ip6tables -F MUSHISHI-DOORS",
        "ufw --force disable",
        "ufw delete allow in on tailscale0 to any port 4001 proto tcp",
        "ufw default allow incoming",
        "rm /etc/mushishi/doors.json",
        "sed -i 's/^IPV6=yes/IPV6=no/' /etc/default/ufw",
    ],
)
def test_what_somebody_took_away_is_seen_and_mended(raw_lab: Lab, damage: str) -> None:
    """Rules and kernel are compared, not files alone; and a dry run says so first."""
    before = files(raw_lab), raw_lab.hub.run("iptables", "-S"), raw_lab.hub.run("ip6tables", "-S")
    raw_lab.hub.run("sh", "-c", damage)
    dry = site(*DOORS, "--check", "--diff")
    assert recap(dry)["changed"] > 0, dry[-3000:]
    out = site(*DOORS)
    assert recap(out)["changed"] > 0, out[-3000:]
    assert recap(site(*DOORS))["changed"] == 0
    assert files(raw_lab) == before[0]
    for tables, was in zip(("iptables", "ip6tables"), before[1:], strict=True):
        assert sorted(raw_lab.hub.run(tables, "-S").splitlines()) == sorted(was.splitlines())


def test_a_chain_that_docker_no_longer_asks_is_told(raw_lab: Lab) -> None:
    """Only Docker puts its jump back where it belongs: the run names it, and says how."""
    raw_lab.hub.run("iptables", "-D", "FORWARD", "-j", "DOCKER-USER")
    try:
        done = play("site", *DOORS)
    finally:
        raw_lab.hub.run("systemctl", "reset-failed", "docker.service")
        raw_lab.hub.run("systemctl", "restart", "docker.service")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0 and "FORWARD does not jump to DOCKER-USER" in said, said[-3000:]
    assert "systemctl restart docker" in said
    # What that run had begun is undone first.
    raw_lab.until(lambda: not raw_lab.hub.ok("test", "-e", PENDING), "undone", 90)
    raw_lab.everything_up()
    assert recap(site(*DOORS))["changed"] == 0


def test_a_docker_that_is_killed_gets_its_lock_again(raw_lab: Lab) -> None:
    """SIGKILL, not a stop: systemd starts it anew, and the policy of its ports with it."""

    def policy() -> list[str]:
        rules = raw_lab.hub.run("iptables", "-S") + raw_lab.hub.run("ip6tables", "-S")
        return sorted(line for line in rules.splitlines() if "MUSHISHI" in line or "DOCKER-USER" in line)

    before = policy()
    assert "-A DOCKER-USER -j MUSHISHI-DOORS" in before
    raw_lab.hub.run("iptables", "-F", "DOCKER-USER")
    raw_lab.hub.run("systemctl", "reset-failed", "docker.service")
    raw_lab.hub.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "docker.service")
    raw_lab.until(lambda: raw_lab.hub.ok("docker", "info"), "Docker is back", 90)

    raw_lab.until(lambda: policy() == before, "the policy is back", 60)
    raw_lab.everything_up()


def test_a_scan_that_is_killed_leaves_nothing(raw_lab: Lab) -> None:
    """playbooks/doors.yml makes namespaces and wires on the machine; with SIGKILL to all of it they are gone."""

    def links() -> set[str]:
        """Names of interfaces and namespaces, and what shapes the tailnet's traffic."""
        named = raw_lab.hub.run("ip", "-o", "-br", "link") + raw_lab.hub.run("ip", "netns", "list")
        shaped = raw_lab.hub.run("tc", "qdisc", "show", "dev", "tailscale0")
        return {line.split()[0] for line in named.splitlines()} | set(shaped.splitlines())

    before = links()
    process = play_apart("doors")
    try:
        raw_lab.until(lambda: "doors-" in raw_lab.hub.run("ip", "-o", "link"), "the scan has begun", 120)
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    raw_lab.hub.run("pkill", "-KILL", "-f", "AnsiballZ", check=False)
    raw_lab.until(lambda: links() == before, "nothing is left of it", 30)
    assert play("doors", "-e", "doors_tcp_ports=22,4000").returncode == 0
