# SPDX-License-Identifier: MIT
"""playbooks/doors.yml for real, on a machine made of namespaces: a LAN card, a tailnet, a filter, a list of doors."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

MACHINE = """
set -e
mkdir -p "$1/upper" "$1/work"
mount -t tmpfs none "$1/upper" && mkdir "$1/upper/u" "$1/upper/w"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/upper/u,workdir=$1/upper/w" /etc
mkdir -p /etc/mushishi
cp "$1/doors.json" /etc/mushishi/doors.json
ip link set lo up
ip link add dev card0 type veth peer name plug0; ip link set plug0 up; ip link set card0 up
ip addr add 10.77.0.10/24 dev card0; ip -6 addr add fd77:77::10/64 dev card0 nodad; ip route add default via 10.77.0.1
ip link add dev tailscale0 type veth peer name plug1; ip link set plug1 up; ip link set tailscale0 up
ip addr add 100.64.77.10/24 dev tailscale0
python3 -c '
import socket, time
kept = [socket.create_server(("", port)) for port in (22, 4000)]
time.sleep(300)' > /dev/null 2>&1 &
keeper=$!
sleep 0.5
iptables -A INPUT -i lo -j ACCEPT
iptables -A INPUT -i tailscale0 -p tcp -m multiport --dports 22,4000 -j ACCEPT
iptables -A INPUT -i tailscale0 -j REJECT
iptables -A INPUT -p tcp -j DROP; iptables -A INPUT -p udp -j DROP; ip6tables -A INPUT -p tcp -j DROP
ip6tables -A INPUT -p udp -j DROP
sh -c "$2"
cd "$3"; shift 3
rc=0; "$@" || rc=$?
kill "$keeper"; exit "$rc"
"""
DOORS = {
    "interface": "tailscale0",
    "doors": [
        {"name": "ssh", "port": 22, "protocol": "tcp", "role": "ssh"},
        {"name": "hybrid gateway", "port": 4000, "protocol": "tcp", "role": "ingress"},
    ],
}


def doors(tmp_path: Path, checkout: Path, *words: str, change: str = "true") -> tuple[int, str, list[dict[str, Any]]]:
    """Exit status, output and result of the playbook on such a machine; ``change`` is a line that runs on it before."""
    (tmp_path / "doors.json").write_text(json.dumps(DOORS))
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("sovereign: {hosts: {hub: {ansible_connection: local, ansible_become: false}}}\n")
    result = tmp_path / "result.json"
    argv = ["ansible-playbook", "-i", str(inventory), "playbooks/doors.yml", "-e", f"doors_result_file={result}"]
    argv += ["-e", "ansible_python_interpreter=/usr/bin/python3", "-e", "doors_tcp_ports=20-30,3990-4010"]
    argv += ["-e", "doors_udp_ports=53,123", *words]
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", MACHINE, "sh", str(tmp_path), change, str(checkout), *argv],
        env={**os.environ, "ANSIBLE_HOME": f"{tmp_path}/ansible", "ANSIBLE_LOCAL_TEMP": f"{tmp_path}/ansible/tmp"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, json.loads(result.read_text()) if result.exists() else []


def test_a_machine_whose_doors_are_as_written(tmp_path: Path, checkout: Path) -> None:
    status, said, results = doors(tmp_path, checkout)
    assert status == 0, said
    assert {result["side"]: result["verdict"] for result in results} == {"lan": "green", "tailnet": "green"}
    entered = {result["side"]: result["entered"] for result in results}
    assert entered == {"lan": "card0", "tailnet": "tailscale0"}, "by the real interfaces"
    assert "open (hybrid gateway)" in said and "changed=0" in said


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("iptables -I INPUT -i card0 -p tcp --dport 4000 -j ACCEPT", "10.77.0.10 tcp 4000 open, expected silent"),
        pytest.param(
            "iptables -I INPUT -i tailscale0 -p tcp --dport 22 -j DROP",
            "tcp 22 silent, expected open (ssh)",
            marks=pytest.mark.nightly,
        ),
        pytest.param("ip link set tailscale0 down", "Nothing was tested from the tailnet", marks=pytest.mark.nightly),
        ("rm /etc/mushishi/doors.json", "which the role firewall writes"),
    ],
)
def test_a_difference_ends_red(tmp_path: Path, checkout: Path, change: str, word: str) -> None:
    """One for each kind: open that should not be, shut that should not be, not tested, nothing to compare with."""
    status, said, _results = doors(tmp_path, checkout, change=change)
    assert status != 0 and word in " ".join(said.split()), said


@pytest.mark.nightly
def test_a_dry_run_tries_the_same(tmp_path: Path, checkout: Path) -> None:
    status, said, results = doors(tmp_path, checkout, "--check", "-e", '{"doors_sides": ["lan"]}')
    assert status == 0 and [result["side"] for result in results] == ["lan"], said
