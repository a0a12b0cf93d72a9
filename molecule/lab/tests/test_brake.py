# SPDX-License-Identifier: MIT
"""The brake in earnest: Ansible comes by SSH, real timers and real boots, and a change that would cut it off.

The controller stands on one of the lab's machines: Ansible's ssh is one that is run there. All of it is the night's.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import HUB, Lab, Machine, play, play_apart, recap, site
from logins import USER, administrator
from test_endurance import reboot

pytestmark = pytest.mark.nightly

UFW_FILES = ("default/ufw", "ufw/ufw.conf", "ufw/user.rules", "ufw/user6.rules")
PENDING = "/var/lib/mushishi-firewall/pending/armed.json"
#: Where logins come from while the LAN is let in.
EVERYWHERE = ["100.64.0.0/10", "fd7a:115c:a1e0::/48", "10.77.0.0/24", "fd77:77::/64"]
#: The doors are open to the LAN: UFW and the guard's doors are away, sshd answers everybody in the lab.
OPENED: dict[str, Any] = {
    "firewall_state": "absent",
    "guard_doors_enforced": False,
    "ssh_client_networks": EVERYWHERE,
}
#: The guard's doors and UFW come back, and sshd still answers the LAN: what cuts it off is the firewall alone.
SHUT: dict[str, Any] = {"ssh_client_networks": EVERYWHERE, "firewall_confirm_seconds": 15}


def given(settings: dict[str, Any]) -> tuple[str, str]:
    """As words of ansible-playbook."""
    return ("--extra-vars", json.dumps(settings))


class Controller:
    """Ansible as it would run on one of the lab's machines."""

    def __init__(self, lab: Lab, machine: Machine, side: str, folder: Path) -> None:
        self.lab, self.machine, self.side = lab, machine, side
        self.address = HUB[side]["v4"]
        program = folder / f"ssh-from-{side}"
        program.write_text(f'#!/bin/sh\nexec docker exec -i {machine.name} ssh "$@"\n')
        program.chmod(0o755)
        host = {
            "ansible_connection": "ssh",
            "ansible_host": self.address,
            "ansible_user": USER,
            "ansible_become": True,
            "ansible_ssh_executable": str(program),
            "ansible_ssh_transfer_method": "piped",
            "ansible_ssh_timeout": 5,
            "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=60s -o ControlPath=/tmp/cm-%h "
            "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
        }
        self._inventory = folder / f"from-{side}.yml"
        self._inventory.write_text(yaml.safe_dump({"sovereign": {"hosts": {"hub": host}}}))

    def words(self, *arguments: str) -> tuple[str, ...]:
        return ("--inventory", str(self._inventory), *arguments)

    def play(self, *arguments: str) -> tuple[int, str]:
        """site.yml over SSH: its status and what it said, in one line."""
        done = play("site", *self.words(*arguments))
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def gets_in(self) -> bool:
        """Whether a new login works."""
        self.machine.run("sh", "-c", "rm -f /tmp/cm-*")
        options = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=3", "-o", "StrictHostKeyChecking=no")
        return self.machine.ok("ssh", *options, f"{USER}@{self.address}", "true")


def state(lab: Lab) -> dict[str, Any]:
    """Everything that a change of the firewall touches, to the byte."""
    found: dict[str, Any] = {name: lab.hub.run("sh", "-c", f"cat /etc/{name} 2>&1", check=False) for name in UFW_FILES}
    found["doors"] = lab.hub.run("sh", "-c", "cat /etc/mushishi/doors.json 2>&1", check=False)
    # Counters and handles change by themselves.
    found["guard"] = [
        lab.hub.run("nft", "--stateless", "list", "chain", "inet", "mushishi_guard", chain)
        for chain in ("doors_input", "doors_forward")
    ]
    for tables in ("iptables", "ip6tables"):
        found[tables] = [line for line in lab.hub.run(tables, "-S").splitlines() if "ufw" in line or line[:2] == "-P"]
    return found


@pytest.fixture(scope="module")
def opened(raw_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Controller]]:
    """A machine as it was before the firewall: an administrator with a key, let in from the LAN and the tailnet."""
    raw_lab.everything_up()
    folder = tmp_path_factory.mktemp("controllers")
    sides = {"lan": raw_lab.stranger, "tailnet": raw_lab.client}
    controllers = {side: Controller(raw_lab, machine, side, folder) for side, machine in sides.items()}
    try:
        with administrator(raw_lab, *sides.values()):
            site("--tags", "guard,firewall,ssh", *given(OPENED))
            yield controllers
    finally:
        site()


@pytest.fixture
def lan(opened: dict[str, Controller]) -> Iterator[Controller]:
    """The controller on the LAN, which gets in before and after."""
    controller = opened["lan"]
    assert controller.gets_in(), "control: from the LAN one gets in"
    yield controller
    controller.lab.until(controller.gets_in, "the LAN gets in again", 90)


def test_it_refuses_to_cut_its_own_controller_off(lan: Controller) -> None:
    before = state(lan.lab)
    status, said = lan.play("--tags", "guard,firewall", *given(SHUT))
    assert status != 0 and "nothing was changed, because it would lock out who does it" in said, said[-3000:]
    assert "and tailscale0 will be the only way in" in said, said[-3000:]
    assert state(lan.lab) == before and not lan.lab.hub.ok("test", "-e", PENDING)


@pytest.mark.parametrize("tag", ["guard", "firewall"])
def test_a_change_that_cuts_the_controller_off_is_undone(lan: Controller, tag: str) -> None:
    """Each lock by itself, the refusal overruled: the machine puts back what was there, and the play says so."""
    before = state(lan.lab)
    settings = {**SHUT, "firewall_lockout_accepted": True, "guard_doors_enforced": tag == "guard"}
    status, said = lan.play("--tags", tag, *given(settings))
    assert status != 0, said[-3000:]
    assert "was undone at" in said and "nobody confirmed it in a new connection within 15 seconds" in said, said[-3000:]
    assert state(lan.lab) == before and not lan.lab.hub.ok("test", "-e", PENDING)
    listed = ("list-units", "--all", "--plain", "--no-legend", "mushishi-firewall-roll*.timer")
    assert lan.lab.hub.run("systemctl", *listed) == "", "no timer is left"


@contextmanager
def as_many_machines_are(lab: Lab) -> Iterator[None]:
    """UFW is on and lets nobody in; by the tailnet Tailscale's own rules do, past UFW. All of it is put back."""
    hub = lab.hub
    hub.run("tar", "-C", "/etc", "-cpf", "/run/ufw-before.tar", "ufw", "default/ufw")
    hub.run("tailscale", "set", "--netfilter-mode=on")
    hub.run("ufw", "--force", "enable")
    try:
        yield
    finally:
        hub.run("ufw", "--force", "disable")
        hub.run("tailscale", "set", "--netfilter-mode=off")
        hub.run("sh", "-c", "rm -r /etc/ufw && tar -C /etc -xpf /run/ufw-before.tar && rm /run/ufw-before.tar")


def test_tailscales_own_rules_are_not_taken_from_under_a_login(opened: dict[str, Controller]) -> None:
    """A run that would set netfilter mode off and gives UFW no rule is refused, with nothing changed.

    Control: with the rule that the refusal names it does its work, and the login still gets in.
    """
    there, lan = opened["tailnet"], opened["lan"]
    hub = there.lab.hub

    def mode() -> object:
        return json.loads(hub.run("tailscale", "debug", "prefs"))["NetfilterMode"]

    with as_many_machines_are(there.lab):
        assert there.gets_in() and not lan.gets_in(), "control: by Tailscale's rules alone"
        before = (state(there.lab), mode())
        done = play("site", *there.words("--tags", "base,tailscale"))
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode != 0 and "which runs this task: it would not work afterwards" in said, said[-3000:]
        assert "ufw allow in on tailscale0 to any port 22 proto tcp" in said, said[-3000:]
        assert recap(done.stdout)["changed"] == 0
        assert (state(there.lab), mode()) == before and there.gets_in()
        hub.run("ufw", "allow", "in", "on", "tailscale0", "to", "any", "port", "22", "proto", "tcp")
        done = play("site", *there.words("--tags", "base,tailscale"))
        assert done.returncode == 0 and recap(done.stdout)["changed"] == 1, (done.stdout + done.stderr)[-3000:]
        assert mode() == 0 and there.gets_in() and not lan.gets_in()


def test_tailscales_own_rules_go_when_ufw_has_the_doors(opened: dict[str, Controller]) -> None:
    """The same machine and a run that brings the firewall along: green, the login gets in by UFW's rule, once."""
    there, lan = opened["tailnet"], opened["lan"]
    with as_many_machines_are(there.lab):
        words = there.words("--tags", "tailscale,guard,firewall", *given(SHUT))
        try:
            predicted = play("site", *words, "--check")
            first = play("site", *words)
            assert first.returncode == 0, (first.stdout + first.stderr)[-3000:]
            prefs = json.loads(there.lab.hub.run("tailscale", "debug", "prefs"))
            assert prefs["NetfilterMode"] == 0 and there.gets_in() and not lan.gets_in()
            assert predicted.returncode == 0, (predicted.stdout + predicted.stderr)[-3000:]
            assert recap(predicted.stdout)["changed"] == recap(first.stdout)["changed"] > 0
            again = play("site", *words)
            assert again.returncode == 0 and recap(again.stdout)["changed"] == 0, again.stdout[-3000:]
        finally:
            site("--tags", "guard,firewall", *given(OPENED))


def killed_when_armed(controller: Controller, settings: dict[str, Any]) -> None:
    """Start the change, and kill the controller as soon as the machine waits for its word."""
    hub = controller.lab.hub
    process = play_apart("site", *controller.words("--tags", "firewall", *given(settings)))
    try:
        deadline = time.monotonic() + 300
        while not hub.ok("test", "-e", PENDING):
            assert process.poll() is None and time.monotonic() < deadline, "it was never armed"
            time.sleep(0.2)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        controller.machine.run("pkill", "-x", "ssh", check=False)


def test_a_killed_controller_leaves_nothing_behind(lan: Controller) -> None:
    before = state(lan.lab)
    settings = {**SHUT, "firewall_lockout_accepted": True, "guard_doors_enforced": False}
    killed_when_armed(lan, settings)
    lan.lab.until(lambda: not lan.lab.hub.ok("test", "-e", PENDING), "the timer undoes it", 60)
    assert state(lan.lab) == before


def test_a_reboot_undoes_it_before_a_rule_is_loaded(lan: Controller) -> None:
    """Nobody confirms, and the timer is far away: the boot decides. systemd finds an order for all of it."""
    before = state(lan.lab)
    settings = {
        **SHUT,
        "firewall_lockout_accepted": True,
        "guard_doors_enforced": False,
        "firewall_confirm_seconds": 600,
    }
    killed_when_armed(lan, settings)
    lan.lab.until(lambda: state(lan.lab) != before, "control: it was changed", 30)
    reboot(lan.lab)
    lan.lab.until(
        lambda: lan.lab.hub.run("systemctl", "is-system-running", "--wait", check=False).strip() == "running",
        "the machine boots without a failed unit",
        120,
    )
    assert state(lan.lab) == before and not lan.lab.hub.ok("test", "-e", PENDING)
    journal = lan.lab.hub.run("journalctl", "--boot", "--no-pager", "--output=cat")
    assert "ordering cycle" not in journal
    unit = "mushishi-firewall-boot"
    assert unit in lan.lab.hub.run("journalctl", "--boot", "--no-pager", "--unit", unit)


def test_from_the_tailnet_it_is_confirmed(opened: dict[str, Controller]) -> None:
    """Control: the same change, over SSH by the way that stays. Then the LAN is out; a second run changes nothing."""
    there, lan = opened["tailnet"], opened["lan"]
    assert there.gets_in() and lan.gets_in()
    done = play("site", *there.words("--tags", "guard,firewall", *given({**SHUT})))
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert recap(done.stdout)["changed"] > 0 and not there.lab.hub.ok("test", "-e", PENDING)
    assert there.gets_in() and not lan.gets_in()
    again = play("site", *there.words("--tags", "guard,firewall", *given(SHUT)))
    assert again.returncode == 0 and recap(again.stdout)["changed"] == 0, again.stdout[-3000:]
    time.sleep(20)
    assert there.gets_in() and not lan.gets_in(), "nothing is undone later"
    site("--tags", "guard,firewall", *given(OPENED))
