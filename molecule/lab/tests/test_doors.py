# SPDX-License-Identifier: MIT
"""Who gets in: the tailnet client with the right key, by the real SDK; nobody else, by no other port."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import HUB, SETTINGS, Lab, Machine
from listener import start_planted_listener
from locks import LOCKS, without

STATUS = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1]).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


@pytest.mark.parametrize("family", ["v4", "v6"])
@pytest.mark.parametrize("profile", ["private", "personal"])
def test_openai_sdk(lab: Lab, profile: str, family: str) -> None:
    """Chat, streaming and the model list through the OpenAI Python SDK, on both planes."""
    out = lab.client.run(
        "env",
        f"OPENAI_BASE_URL={lab.url(lab.plane(profile), family)}",
        f"OPENAI_API_KEY={lab.key(profile)}",
        "python3",
        "-m",
        "standins.openai_client",
        "models",
        "chat",
        "stream",
        "--model",
        profile,
        "--max-tokens",
        "8",
    )
    results = json.loads(out)["results"]
    assert all(result["ok"] for result in results.values()), out
    assert profile in results["models"]["ids"]
    assert results["chat"]["content"] and results["stream"]["content"]


@pytest.mark.parametrize("profile", ["private", "personal"])
def test_wrong_keys(lab: Lab, profile: str) -> None:
    """No key, a made-up key, and the other plane's key are all refused."""
    other = "personal" if profile == "private" else "private"
    bare = lab.client.run("python3", "-c", STATUS, lab.url(lab.plane(profile)) + "/models")
    assert int(bare) == 401, "a request without a key"
    for key in ("sk-made-up", lab.key(other)):
        out = lab.client.run(
            "env",
            f"OPENAI_BASE_URL={lab.url(lab.plane(profile))}",
            f"OPENAI_API_KEY={key}",
            "python3",
            "-m",
            "standins.openai_client",
            "chat",
            "--model",
            profile,
            check=False,
        )
        assert json.loads(out)["results"]["chat"]["status"] in (401, 403), out


def scan_from(machine: Machine, address: str, ports: str) -> set[int]:
    """TCP ports that answer one of the lab's machines."""
    target = {"name": "scan", "proto": "tcp", "address": address, "ports": ports, "timeout": 1}
    found = machine.run("python3", "-m", "standins.probe", stdin=json.dumps([target]), check=False, timeout=900)
    return {int(result["port"]) for result in json.loads(found)["results"] if result["outcome"] == "open"}


def scan(lab: Lab, address: str, ports: str) -> set[int]:
    """TCP ports of the hub that answer the LAN stranger."""
    return scan_from(lab.stranger, address, ports)


#: Every port that anything of the product, its containers or its user's stack uses, and the well-known ones.
PORTS = "1-1024,2026,2375-2377,3000-3300,4000-4100,4317,4318,5000-5500,6006,6379-6400,8000-9200,11434,19999,41641"


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_stranger_on_the_lan_finds_nothing(lab: Lab, family: str) -> None:
    """Also when somebody opens a port to everyone. Control: with the locks away, the very same scan finds that port."""
    listener = start_planted_listener(lab)
    try:
        with without(lab, *LOCKS):
            assert scan(lab, HUB["lan"][family], "22,9999") == {9999}, "control; sshd has a lock of its own"
        assert scan(lab, HUB["lan"][family], f"{PORTS},9999") == set()
    finally:
        lab.hub.run("kill", listener, check=False)


@contextmanager
def routed_through_the_machine(lab: Lab) -> Iterator[None]:
    """A stranger who uses the machine as its router. By a tunnel: the lab's bridges drop the rest."""
    ends = (
        (lab.hub, HUB["lan"]["v4"], SETTINGS["lab_stranger"]["v4"], "198.18.77.2/30", "fd77:aa::2/64"),
        (lab.stranger, SETTINGS["lab_stranger"]["v4"], HUB["lan"]["v4"], "198.18.77.1/30", "fd77:aa::1/64"),
    )
    try:
        for machine, local, remote, v4, v6 in ends:
            machine.run(
                *("ip", "link", "add", "wire0", "type", "vxlan", "id", "77"),
                *("local", local, "remote", remote, "srcport", "4790", "4791", "dstport", "4790"),
            )
            machine.run("ip", "addr", "add", v4, "dev", "wire0")
            machine.run("ip", "-6", "addr", "add", v6, "dev", "wire0", "nodad")
            machine.run("ip", "link", "set", "wire0", "up")
        for network in ("10.88.0.0/24", "10.90.0.0/16", "100.64.77.0/24"):
            lab.stranger.run("ip", "route", "replace", network, "via", "198.18.77.2")
        lab.stranger.run("ip", "-6", "route", "replace", "fd7a:115c:a1e0:77::/64", "via", "fd77:aa::2")
        # The tunnel itself is let in as the answer to what the machine sent first.
        lab.hub.run("ping", "-c", "1", "-W", "5", "198.18.77.1")
        yield
    finally:
        for machine in (lab.hub, lab.stranger):
            machine.run("ip", "link", "delete", "wire0", check=False)


def test_a_stranger_cannot_route_through_the_machine(lab: Lab) -> None:
    """Neither to the sovereign LAN, nor to Docker's networks, nor to the ingress by its tailnet address."""
    targets: list[dict[str, Any]] = [
        {"name": f"{address}:{port}", "proto": "tcp", "address": address, "port": port, "timeout": 1}
        for address in ("10.88.0.1", "10.88.0.2", "10.88.0.10", "10.88.0.11", "10.90.0.1")
        for port in (4001, 4011, 8000, 8001, 8002)
    ]
    for gone in ((), tuple(LOCKS)):
        listener = start_planted_listener(lab)
        try:
            with without(lab, *gone), routed_through_the_machine(lab):
                for family in ("v4", "v6"):
                    seen = scan(lab, HUB["tailnet"][family], "22,4000,4001,9999")
                    assert seen == ({9999} if gone else set()), f"control: the route works ({family})"
                asked = json.dumps(targets)
                out = json.loads(lab.stranger.run("python3", "-m", "standins.probe", stdin=asked, check=False))
        finally:
            lab.hub.run("kill", listener, check=False)
        assert len(out["results"]) == len(targets)
        assert [result["name"] for result in out["results"] if result["outcome"] == "open"] == []
    for interface in ("br-sovereign", "docker0"):
        assert lab.hub.run("ip", "-6", "-o", "addr", "show", "dev", interface, "scope", "global") == ""


def test_a_published_container_stays_at_home(lab: Lab) -> None:
    """A port published without an address is bound to loopback, published to everybody it is shut from outside.

    Control: with the locks away, what is published to everybody is seen.
    """
    image = lab.hub.run("docker", "inspect", "-f", "{{.Image}}", lab.engine_container("agent")).strip()
    for publish, wanted in (("8199:8000", set()), ("0.0.0.0:8199:8000", {8199})):
        lab.hub.run("docker", "run", "--detach", "--name=planted", f"--publish={publish}", image, "serve", "x")
        try:
            lab.until(
                lambda: lab.hub.ok("curl", "--silent", "--max-time", "2", "http://127.0.0.1:8199/health"),
                "the planted container answers on the machine itself",
            )
            assert scan(lab, HUB["lan"]["v4"], "8199") == set(), publish
            with without(lab, *LOCKS):
                assert scan(lab, HUB["lan"]["v4"], "8199") == wanted, publish
        finally:
            lab.hub.run("docker", "rm", "--force", "planted")


def test_tailnet_sees_the_doors_alone(lab: Lab) -> None:
    assert scan_from(lab.client, HUB["tailnet"]["v4"], PORTS) == {22, 4000, 4001}
