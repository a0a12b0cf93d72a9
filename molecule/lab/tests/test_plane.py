# SPDX-License-Identifier: MIT
"""The plane has no way out, whoever tries: P1 to P4, each with a planted hole that turns the same probe red."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from conftest import HUB, ROOT, SETTINGS, STANDINS, Lab
from listener import start_planted_listener

#: Every service user that exists, so that a new one is attacked without being named here.
USERS: tuple[str, ...] = tuple(yaml.safe_load((ROOT / "roles/base/vars/main.yml").read_text())["__base_users"])
SOVEREIGN_USERS = tuple(user for user in USERS if user.startswith("mushishi-sovereign-"))
OUTCOMES_SHUT = ("refused", "unreachable", "prohibited", "no-family")
#: What a LAN without a router answers for every address beyond it: there is no route, so no filter is even asked.
OUTCOMES_NO_ROUTE = ("unreachable", "no-family")
ON_THE_LAN = ("host on the bridge", "hybrid gateway on loopback")
#: Milliseconds within which a refusal must come, so that nothing waits for a time-out. Generous: a loaded machine.
AT_ONCE_MS = 900


def outside(v6: bool = True) -> list[dict[str, Any]]:
    """Addresses beyond the plane: the home LAN, the tailnet, the internet, services of the host, the hybrid gateway."""
    places = {
        "lan host": SETTINGS["lab_stranger"],
        "tailnet peer": SETTINGS["lab_client"],
        "internet": SETTINGS["lab_internet"],
        "a provider": SETTINGS["lab_providers"]["groq"],
        "host on the LAN": HUB["lan"],
        "host on the tailnet": HUB["tailnet"],
    }
    targets: list[dict[str, Any]] = []
    for name, address in places.items():
        for family in ("v4", "v6") if v6 else ("v4",):
            where = {"address": address[family], "timeout": 3}
            for port in (22, 80, 443, 4000):
                targets.append({"name": f"{name} {family} {port}", "proto": "tcp", "port": port, **where})
            targets.append({"name": f"{name} {family} dns", "proto": "dns", "query": "api.groq.com", **where})
            targets.append({"name": f"{name} {family} ping", "proto": "icmp", **where})
    single = [(f"host on the bridge {port}", "10.88.0.1", port) for port in (22, 4000, 4001, 4021, 53)]
    single += [("hybrid gateway on loopback", "127.0.0.1", 4000), ("metadata", "169.254.169.254", 80)]
    for name, place, port in single:
        targets.append({"name": name, "proto": "tcp", "address": place, "port": port, "timeout": 3})
    return targets


def shut(results: dict[str, dict[str, Any]], wanted: int) -> None:
    """Every probe was refused, and at once."""
    assert len(results) == wanted, "every target was tried"
    leaks = {name: result for name, result in results.items() if result["outcome"] not in OUTCOMES_SHUT}
    assert leaks == {}, f"not refused: {json.dumps(leaks, indent=1)}"
    slow = {name: result["ms"] for name, result in results.items() if result["ms"] > AT_ONCE_MS}
    assert slow == {}, f"refused, but not at once (ms): {slow}"


def no_route(results: dict[str, dict[str, Any]]) -> None:
    """P1 alone, the guard left out of it: nothing beyond the LAN has a route, IPv4 or IPv6."""
    # An unprivileged user may not even open an ICMP socket, so a ping tells nothing about routes.
    beyond = {
        name: result
        for name, result in results.items()
        if not name.startswith(ON_THE_LAN) and result["proto"] != "icmp"
    }
    assert len(beyond) > len(results) // 2
    routed = {name: result for name, result in beyond.items() if result["outcome"] not in OUTCOMES_NO_ROUTE}
    assert routed == {}, f"there is a route: {json.dumps(routed, indent=1)}"


def as_user(user: str, *, plane: bool) -> list[str]:
    """Command prefix: a user, inside the sovereign namespace or in the host's own."""
    become = ["setpriv", f"--reuid={user}", "--regid=65534", "--clear-groups"]
    return ["ip", "netns", "exec", "sovereign", *become] if plane else become


@pytest.mark.parametrize("user", SOVEREIGN_USERS)
def test_no_way_out_of_the_namespace(lab: Lab, user: str) -> None:
    targets = outside()
    results = lab.probe(targets, as_user(user, plane=True))
    shut(results, len(targets))
    no_route(results)


@pytest.mark.parametrize("user", SOVEREIGN_USERS)
def test_a_sovereign_user_has_no_network_on_the_host(lab: Lab, user: str) -> None:
    targets = [target for target in outside() if "on the bridge" not in target["name"]]
    shut(lab.probe(targets, as_user(user, plane=False)), len(targets))


def test_the_same_probe_is_open_for_others(lab: Lab) -> None:
    """Control: the targets are there, and an ordinary user of the host reaches them."""
    results = lab.probe(outside(), as_user("nobody", plane=False))
    for name in ("lan host v4 22", "lan host v6 22", "internet v4 443", "host on the tailnet v4 22"):
        assert results[name]["outcome"] == "open", results[name]
    assert results["internet v4 dns"]["outcome"] == "resolved"


@pytest.mark.parametrize(
    "mode", ["agent", *(pytest.param(mode, marks=pytest.mark.nightly) for mode in ("forensic", "coding"))]
)
def test_no_way_out_of_the_engine_container(lab: Lab, mode: str) -> None:
    lab.gpu(mode)
    try:
        container = lab.engine_container(mode)
        targets = outside()
        program = (STANDINS / "probe.py").read_text()
        out = lab.hub.run("docker", "exec", "-i", container, "python3", "-", json.dumps(targets), stdin=program)
        results = {result["name"]: result for result in json.loads(out)["results"]}
        shut(results, len(targets))
        no_route(results)
        names = [{"name": "resolver", "proto": "dns", "query": "api.groq.com", "timeout": 3}]
        out = lab.hub.run("docker", "exec", "-i", container, "python3", "-", json.dumps(names), stdin=program)
        assert json.loads(out)["results"][0]["outcome"] not in ("resolved", "open")
    finally:
        if mode != "agent":
            lab.gpu("agent")


def test_an_engine_cannot_ask_the_services_of_the_plane(lab: Lab) -> None:
    """It answers, it never asks: admission, the gateway and the CPU floor refuse a container."""
    targets = [
        {"name": str(port), "proto": "tcp", "address": "10.88.0.2", "port": port, "timeout": 3}
        for port in SERVICE_PORTS
    ]
    program = (STANDINS / "probe.py").read_text()
    out = lab.hub.run(
        "docker", "exec", "-i", lab.engine_container("agent"), "python3", "-", json.dumps(targets), stdin=program
    )
    shut({result["name"]: result for result in json.loads(out)["results"]}, len(targets))


def test_names_resolve_nowhere_in_the_plane(lab: Lab) -> None:
    """A real sovereign service's own view: its mounts, its user, its namespace."""
    pid = lab.hub.run("systemctl", "show", "-P", "MainPID", "mushishi-sovereign-admission.service").strip()
    targets = [{"name": "system resolver", "proto": "dns", "query": "api.groq.com", "timeout": 3}]
    results = lab.probe(targets, ["nsenter", f"--target={pid}", "--net", "--mount", "--"])
    assert results["system resolver"]["outcome"] not in ("resolved", "open"), results
    control = lab.probe(targets, as_user("nobody", plane=False))
    assert control["system resolver"]["outcome"] == "resolved", "control: the host itself resolves the name"


#: Every port of the plane's services, today's and those that others have there, and ssh.
SERVICE_PORTS = (22, 4001, 4011, 4021, 4022, 4023, 6006, 8000, 8001, 8002, 8188)
#: Whatever anybody could want of the sovereign LAN.
ON_THE_PLANE = [
    {"name": f"{address}:{port}", "proto": "tcp", "address": address, "port": port, "timeout": 3}
    for address in ("10.88.0.2", "10.88.0.10", "10.88.0.11", "10.88.0.12")
    for port in SERVICE_PORTS
]
#: Who on the host may open what of it (P2), and not one port more. Who is not named opens nothing.
DOOR_USERS: dict[str, set[str]] = {
    "mushishi-ingress-sovereign": {"10.88.0.2:4001"},
    "mushishi-hybrid-gateway": {"10.88.0.2:4021"},
}


@pytest.mark.parametrize("user", ["root", "nobody", *USERS])
def test_from_the_host_each_opens_its_own_door_alone(lab: Lab, user: str) -> None:
    results = lab.probe(ON_THE_PLANE, [] if user == "root" else as_user(user, plane=False))
    own = DOOR_USERS.get(user, set())
    assert {name for name, result in results.items() if result["outcome"] == "open"} == own
    others = {name: result for name, result in results.items() if name not in own}
    shut(others, len(ON_THE_PLANE) - len(own))


#: Who inside the namespace may open what: the engines are the engine door's and its prober's. Others open nothing.
ENGINES = {"10.88.0.2:8001", "10.88.0.2:8002", "10.88.0.10:8000"}
PLANE_USERS: dict[str, set[str]] = {
    "mushishi-sovereign-admission": {"127.0.0.1:4011"},
    "mushishi-sovereign-gateway": {"127.0.0.1:4022"},
    "mushishi-sovereign-door": ENGINES,
    "mushishi-sovereign-prober": {*ENGINES, "127.0.0.1:4023"},
}


@pytest.mark.parametrize("user", ["nobody", *USERS])
def test_inside_the_plane_each_opens_its_own_ports_alone(lab: Lab, user: str) -> None:
    loopback = [
        {"name": f"127.0.0.1:{port}", "proto": "tcp", "address": "127.0.0.1", "port": port, "timeout": 3}
        for port in SERVICE_PORTS
    ]
    results = lab.probe([*ON_THE_PLANE, *loopback], as_user(user, plane=True))
    assert len(results) == len(ON_THE_PLANE) + len(loopback)
    assert {name for name, result in results.items() if result["outcome"] == "open"} == PLANE_USERS.get(user, set())


@pytest.mark.parametrize("user", ["mushishi-ingress-sovereign", "mushishi-hybrid-gateway"])
def test_without_its_bridge_the_planes_address_is_nowhere(lab: Lab, user: str) -> None:
    """Else a request for the plane would take the default route to whoever has that address out there."""
    target = [{"name": "plane", "proto": "tcp", "address": "10.88.0.2", "port": 4001, "timeout": 3}]
    lab.hub.run("ip", "link", "set", "br-sovereign", "down")
    try:
        via = lab.hub.run("ip", "route", "get", "10.88.0.2", check=False)
        assert "br-sovereign" not in via, "control: the route is another one now"
        assert lab.probe(target, as_user(user, plane=False))["plane"]["outcome"] in ("refused", "unreachable")
        assert via == "" or "refused" in str(lab.probe(target, as_user(user, plane=False)))
    finally:
        lab.hub.run("ip", "link", "set", "br-sovereign", "up")
    lab.until(lambda: lab.ask("private").status == 200, "the plane answers again")


DOOR_PATHS = {
    "/gpu/v1/models": 200,
    "/cpu/v1/models": 200,
    "/gpu/metrics": 404,
    "/gpu/health": 404,
    "/gpu/v1/completions": 404,
    "/gpu/v1/../metrics": 404,
    "/gpu/v1/models/": 404,
    "/gpu//metrics": 404,
    "/gpu/tokenize": 404,
    "/cpu/slots": 404,
    "/cpu/metrics": 404,
    "/cpu/props": 404,
    "/gpu-forensic/v1/models": 404,
    "/cpu-coder/v1/models": 404,
    "/": 404,
    "/v1/models": 404,
}


#: Further paths that only the sovereign gateway may use.
T1_PATHS = {**DOOR_PATHS, "/cpu-coder/v1/models": 200}
DOORS = {
    "hybrid": ("mushishi-hybrid-gateway", "llama-door.key", "http://10.88.0.2:4021", DOOR_PATHS),
    "sovereign": ("mushishi-sovereign-gateway", "llama-sovereign.key", "http://127.0.0.1:4022", T1_PATHS),
}


@pytest.mark.parametrize("plane", DOORS)
def test_the_engine_door_has_two_routes(lab: Lab, plane: str) -> None:
    """As the gateway's user: completions and the model list of the engines it may use, and nothing else."""
    user, key_file, door, paths = DOORS[plane]
    key = lab.hub.run("cat", f"/etc/mushishi/secrets/{key_file}").strip()
    prefix = as_user(user, plane=plane == "sovereign")
    for path, wanted in paths.items():
        if plane == "sovereign" and "forensic" in path:
            wanted = 503  # its own route, and the engine is not there in agent mode
        seen = lab.hub.run(
            *prefix,
            *("curl", "--silent", "--path-as-is", "--output", "/dev/null", "--max-time", "10"),
            *("--write-out", "%{http_code}"),
            *("--header", f"Authorization: Bearer {key}", f"{door}{path}"),
        )
        assert int(seen) == wanted, f"{path} answered {seen}, expected {wanted}"
    for method in ("PUT", "DELETE", "POST"):
        seen = lab.hub.run(
            *prefix,
            *("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--request", method),
            f"{door}/gpu/v1/models",
        )
        assert int(seen) in (404, 405), f"{method} answered {seen}"


@contextmanager
def planted_route(lab: Lab) -> Iterator[None]:
    """A way out of the namespace: a default route through the host, the guard aside, the host forwarding."""
    inside = ("ip", "netns", "exec", "sovereign")
    lab.hub.run(*inside, "ip", "route", "add", "default", "via", "10.88.0.1")
    lab.hub.run(*inside, "nft", "insert", "rule", "inet", "mushishi_guard", "output", "accept")
    lab.hub.run("nft", "insert", "rule", "inet", "mushishi_guard", "forward", "accept")
    lab.hub.run("iptables", "-I", "FORWARD", "-j", "ACCEPT")
    lab.hub.run("iptables", "-t", "nat", "-I", "POSTROUTING", "-s", "10.88.0.0/24", "-j", "MASQUERADE")
    try:
        yield
    finally:
        lab.hub.run(*inside, "ip", "route", "del", "default")
        lab.hub.run("iptables", "-t", "nat", "-D", "POSTROUTING", "-s", "10.88.0.0/24", "-j", "MASQUERADE")
        lab.hub.run("iptables", "-D", "FORWARD", "-j", "ACCEPT")
        restore_guard(lab)


@contextmanager
def planted_rule(lab: Lab, *rule: str) -> Iterator[None]:
    """A hole in the guard of the host's namespace."""
    lab.hub.run("nft", "insert", "rule", "inet", "mushishi_guard", *rule)
    try:
        yield
    finally:
        restore_guard(lab)


def restore_guard(lab: Lab) -> None:
    """Load both tables again; one atomic step each."""
    lab.hub.run("systemctl", "reload", "mushishi-guard.service")
    lab.hub.run("ip", "netns", "exec", "sovereign", "nft", "--file", "/etc/mushishi/guard/plane.nft")


def test_a_planted_route_is_found(lab: Lab) -> None:
    targets = outside(v6=False)
    with planted_route(lab):
        results = lab.probe(targets, as_user("mushishi-sovereign-gateway", plane=True))
        with pytest.raises(AssertionError):
            shut(results, len(targets))
        assert results["lan host v4 22"]["outcome"] == "open" or results["internet v4 443"]["outcome"] == "open"
    shut(lab.probe(targets, as_user("mushishi-sovereign-gateway", plane=True)), len(targets))


def test_a_planted_route_alone_is_found(lab: Lab) -> None:
    """The guard still stands and refuses; the missing route is a lock of its own, and its loss is seen."""
    user, inside = "mushishi-sovereign-gateway", ("ip", "netns", "exec", "sovereign")
    targets = outside(v6=False)
    lab.hub.run(*inside, "ip", "route", "add", "default", "via", "10.88.0.1")
    try:
        results = lab.probe(targets, as_user(user, plane=True))
        shut(results, len(targets))
        with pytest.raises(AssertionError, match="there is a route"):
            no_route(results)
    finally:
        lab.hub.run(*inside, "ip", "route", "del", "default")
    no_route(lab.probe(targets, as_user(user, plane=True)))


def test_a_planted_rule_is_found(lab: Lab) -> None:
    """Three holes in the guard: for a user on the host (P4), into the plane (P2), out of the plane to the host (P3)."""
    user = "mushishi-sovereign-llama"
    with planted_rule(lab, "output", "meta", "skuid", user, "accept"):
        assert lab.probe(outside(), as_user(user, plane=False))["lan host v4 22"]["outcome"] == "open"
    pull = [{"name": "engine", "proto": "tcp", "address": "10.88.0.10", "port": 8000, "timeout": 3}]
    with planted_rule(lab, "output", "meta", "skuid", "nobody", "accept"):
        assert lab.probe(pull, as_user("nobody", plane=False))["engine"]["outcome"] == "open"
    program = (STANDINS / "probe.py").read_text()
    door = [{"name": "planted", "proto": "tcp", "address": "10.88.0.1", "port": 9999, "timeout": 3}]
    listener = start_planted_listener(lab)
    # UFW is a lock of its own: it knows no way in but the tailnet.
    lab.hub.run("ufw", "--force", "disable")
    try:
        with planted_rule(lab, "input", "iifname", "br-sovereign", "accept"):
            engine = lab.engine_container("agent")
            out = lab.hub.run("docker", "exec", "-i", engine, "python3", "-", json.dumps(door), stdin=program)
            assert json.loads(out)["results"][0]["outcome"] == "open"
    finally:
        lab.hub.run("ufw", "--force", "enable")
        lab.hub.run("kill", listener, check=False)
    shut(lab.probe(pull, as_user("nobody", plane=False)), 1)


def test_without_the_guard_nothing_runs(lab: Lab) -> None:
    """Fail closed: the guard goes, and with it the plane, Docker and every sovereign service."""
    lab.hub.run("systemctl", "stop", "mushishi-guard.service")
    try:
        for unit in ("mushishi-plane", "docker", "mushishi-sovereign-admission", "mushishi-sovereign-gateway"):
            assert not lab.hub.ok("systemctl", "is-active", "--quiet", f"{unit}.service"), unit
        assert "UP" not in lab.hub.run("ip", "-br", "link", "show", "br-sovereign").split()
        assert lab.hub.ok("nft", "list", "table", "inet", "mushishi_guard"), "a stopped guard leaves its rules in force"
        lab.hub.run("mv", "/etc/mushishi/guard/host.nft", "/etc/mushishi/guard/host.nft.away")
        assert not lab.hub.ok("systemctl", "start", "docker.service"), "no guard, no containers"
    finally:
        lab.hub.run("sh", "-c", "cd /etc/mushishi/guard && test ! -e host.nft.away || mv host.nft.away host.nft")
        lab.hub.run("systemctl", "reset-failed")
        lab.hub.run("systemctl", "start", "multi-user.target")
        lab.hub.run("systemctl", "start", "docker.service")
    lab.gpu("agent")
    lab.everything_up()
