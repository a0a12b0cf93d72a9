# SPDX-License-Identifier: MIT
"""One list of doors, compiled by a real ``ansible-playbook`` out of the roles of a play; nothing is changed by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars:
    %s
  tasks:
    - ansible.builtin.import_role: {name: mushishi.sovereign.guard, rolespec_validate: false}
      when: false
    - ansible.builtin.import_role: {name: mushishi.sovereign.firewall, rolespec_validate: false}
      when: false
    - ansible.builtin.import_role: {name: mushishi.sovereign.ingress, rolespec_validate: false}
      when: false
    - ansible.builtin.copy:
        content: "{{ {'doors': __firewall_doors, 'guard': guard_doors, 'inside': __firewall_inside,
          'ssh': __firewall_over_ssh} | to_json }}"
        dest: "%s"
        mode: "0600"
"""


def compiled(folder: Path, collections: Path, variables: str) -> dict[str, Any] | str:
    """What the variables are, or the error's words."""
    out, play = folder / "out.json", folder / "play.yml"
    play.write_text(PLAY % (variables, out))
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    argv = [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", str(play)]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, cwd=folder, timeout=300, check=False)
    if done.returncode != 0:
        return done.stdout + done.stderr
    made: dict[str, Any] = json.loads(out.read_text())
    return made


def test_every_role_s_doors_are_one_list(tmp_path: Path, collections_root: Path) -> None:
    variables = (
        "{sovereign_policy: {}, ingress_hybrid_port: 4100, "
        "__ssh_doors: [{name: ssh, port: '22', protocol: tcp, role: ssh}], "
        "firewall_extra_doors: [{name: sync, port: 22000, protocol: udp, role: firewall}]}"
    )
    made = compiled(tmp_path, collections_root, variables)
    assert not isinstance(made, str), made
    assert [(door["name"], door["port"], door["protocol"], door["role"]) for door in made["doors"]] == [
        ("ssh", 22, "tcp", "ssh"),
        ("admission", 4001, "tcp", "ingress"),
        ("hybrid gateway", 4100, "tcp", "ingress"),
        ("sync", 22000, "udp", "firewall"),
    ]
    assert made["guard"] == made["doors"], "the guard's list is the same"
    assert made["inside"][-1] == "br-sovereign" and "tailscale0" not in made["inside"]


def test_ufw_s_own_unit_comes_with_each_boot(checkout: Path) -> None:
    """Looked at after UFW has its rules and before the brake is let go, and never restarted: its stop opens all."""
    tasks = yaml.safe_load((checkout / "roles/firewall/tasks/service.yml").read_text())
    order = [next(key for key in task if "." in key) for task in tasks]
    wanted = ["mushishi.sovereign.firewall_doors", "ansible.builtin.systemd_service", "ansible.builtin.include_tasks"]
    assert order == wanted
    assert tasks[1][order[1]] == {"name": "ufw.service", "enabled": True, "state": "started"}


@pytest.mark.parametrize(
    ("doors", "words"),
    [
        ("[{name: other, port: 4001, protocol: tcp, role: firewall}]", "One port has one service behind it"),
        ("[{name: Bad', port: 1, protocol: tcp, role: firewall}]", "the name does not fit"),
        ("[{name: a, port: 70000, protocol: tcp, role: firewall}]", "from 1 to 65535"),
    ],
)
def test_a_door_that_cannot_be_ends_the_play(tmp_path: Path, collections_root: Path, doors: str, words: str) -> None:
    said = compiled(tmp_path, collections_root, f"{{sovereign_policy: {{}}, firewall_extra_doors: {doors}}}")
    assert isinstance(said, str) and words in " ".join(said.split())
