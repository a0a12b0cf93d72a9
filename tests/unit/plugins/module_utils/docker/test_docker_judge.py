# SPDX-License-Identifier: MIT
"""What a preflight says about the Docker it finds, from answers recorded on Debian 13 (Docker 26.1.5) and Docker 29."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.mushishi.sovereign.plugins.filter.docker_judged import FilterModule, docker_judged
from ansible_collections.mushishi.sovereign.plugins.module_utils.docker import judge, plan

PINS = {
    "docker-ce": "5:29.9.0-1~ubuntu.24.04~noble",
    "docker-ce-cli": "5:29.9.0-1~ubuntu.24.04~noble",
    "containerd.io": "2.4.1-2~ubuntu.24.04~noble",
    "docker-compose-plugin": "5.6.0-1~ubuntu.24.04~noble",
}
OURS = "/etc/apt/sources.list.d/mushishi-docker.sources"
SETTINGS: dict[str, Any] = {
    "pools": [{"base": "10.90.0.0/16", "size": 24}],
    "lan": "10.88.0.0/24",
    "unfiltered": [],
    "bind": "127.0.0.1",
    "source": "auto",
    "pins": PINS,
    "ce": [*PINS, "python3-requests"],
    "distribution_packages": {
        "Debian": ["docker.io", "docker-compose", "python3-requests"],
        "Ubuntu": ["docker.io", "docker-compose-v2", "python3-requests"],
    },
    "source_path": OURS,
}
UBUNTU = 'NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\n'
DEBIAN = 'ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n'
DEBIAN_PACKAGES = (
    "ii  docker-compose 2.26.1-4\nii  docker.io 26.1.5+dfsg1-9+b9\nii  python3-requests 2.32.3+dfsg-5\nun  docker-ce \n"
)
CE_PACKAGES = "".join(f"hi  {name} {pin}\n" for name, pin in PINS.items()) + "ii  python3-requests 2.31.0\n"


def look(system: str = UBUNTU, daemon: str | None = None, **said: str) -> dict[str, Any]:
    """A result of the module look."""
    return {
        "contents": {"/etc/os-release": system, "/etc/docker/daemon.json": daemon},
        "globs": {"/sys/class/net/*/bridge": ["/sys/class/net/docker0/bridge", "/sys/class/net/br-sovereign/bridge"]},
        "commands": {name: {"rc": 0, "stdout": text, "stderr": ""} for name, text in said.items()},
    }


# ---- whose packages
@pytest.mark.parametrize(
    ("seen", "source", "reached", "origin", "ask", "install"),
    [
        (look(), "auto", None, "distribution", True, ["docker.io", "docker-compose-v2", "python3-requests"]),
        (look(), "auto", True, "docker", False, [*(f"{name}={pin}" for name, pin in PINS.items()), "python3-requests"]),
        (look(), "auto", False, "distribution", False, ["docker.io", "docker-compose-v2", "python3-requests"]),
        (look(), "distribution", None, "distribution", False, ["docker.io", "docker-compose-v2", "python3-requests"]),
        (look(DEBIAN), "auto", None, "distribution", False, ["docker.io", "docker-compose", "python3-requests"]),
        (look(DEBIAN, packages=DEBIAN_PACKAGES), "auto", None, "distribution", False, []),
        (look(packages=CE_PACKAGES), "auto", None, "docker", False, []),
        (look(packages=CE_PACKAGES), "docker", None, "docker", False, []),
    ],
)
def test_what_is_installed_stays(
    seen: dict[str, Any], source: str, reached: bool | None, origin: str, ask: bool, install: list[str]
) -> None:
    made = plan.plan(seen, {**SETTINGS, "source": source}, reached)
    assert (made.origin, made.ask_index, made.install) == (origin, ask, install)
    assert made.refused == []


def older(text: str) -> str:
    return text.replace("29.9.0", "29.3.0")


@pytest.mark.parametrize(("source", "install"), [("auto", []), ("docker", ["docker-ce", "docker-ce-cli"])])
def test_older_packages_come_up_to_the_pin_where_the_user_asks_for_them(source: str, install: list[str]) -> None:
    made = plan.plan(look(packages=older(CE_PACKAGES)), {**SETTINGS, "source": source}, None)
    assert made.install == [f"{name}={PINS[name]}" for name in install]
    newer = plan.plan(look(packages=CE_PACKAGES.replace("29.9.0", "30.0.0")), {**SETTINGS, "source": source}, None)
    assert newer.install == [], "a newer one is not taken back"


def test_what_is_pinned_is_held() -> None:
    fresh = plan.plan(look(), SETTINGS, True)
    assert fresh.hold == list(PINS) and fresh.own_source
    again = plan.plan(look(packages=CE_PACKAGES, held="\n".join(PINS)), SETTINGS, None)
    assert again.hold == [] and not again.own_source
    other = plan.plan(look(packages=older(CE_PACKAGES)), SETTINGS, None)
    assert other.hold == ["containerd.io", "docker-compose-plugin"], "what another hand chose is not held"


@pytest.mark.parametrize(("sources", "own"), [("", True), (OURS, True), ("/etc/apt/sources.list.d/docker.list", False)])
def test_nobody_is_given_a_second_key_for_one_place(sources: str, own: bool) -> None:
    assert plan.plan(look(sources=sources), SETTINGS, True).own_source is own


@pytest.mark.parametrize(
    ("source", "seen", "word"),
    [
        ("docker", look(DEBIAN), "pinned for Ubuntu 24.04"),
        ("docker", look(packages="ii  docker.io 28.2.2-0ubuntu1\n"), "docker.io 28.2.2-0ubuntu1 is installed"),
        ("distribution", look(packages=CE_PACKAGES), "docker-ce 5:29.9.0-1~ubuntu.24.04~noble is installed"),
    ],
)
def test_two_packagers_do_not_stand_beside_each_other(source: str, seen: dict[str, Any], word: str) -> None:
    assert any(word in line for line in plan.plan(seen, {**SETTINGS, "source": source}, None).refused)


# ---- the backend
@pytest.mark.parametrize(
    ("settings", "start", "info", "refused"),
    [
        ({}, "", "", 0),
        ({"firewall-backend": "iptables"}, "argv[]=/usr/bin/dockerd -H fd://", '{"Driver":"iptables","Info":[]}', 0),
        ({}, "", '{"Driver":"iptables+firewalld"}', 0),
        ({}, "", "null", 0),
        ({"firewall-backend": "nftables"}, "", '{"Driver":"nftables"}', 1),
        ({}, "argv[]=/usr/bin/dockerd --firewall-backend=nftables ;", "", 1),
        ({}, "", '{"Driver":"nftables"}', 1),
    ],
)
def test_dockers_nftables_backend_is_refused(settings: dict[str, Any], start: str, info: str, refused: int) -> None:
    said = judge.judge_backend(settings, start, info)
    assert len(said) == refused and all("DOCKER-USER" in line for line in said)


# ---- networks past the filters
def as_lines(*items: dict[str, str]) -> str:
    return "\n".join(json.dumps(item) for item in items)


BRIDGE = {"Name": "bridge", "Driver": "bridge", "Labels": ""}
LAN = {"Name": "lan", "Driver": "macvlan", "Labels": ""}
ASSISTANT = {"Names": "assistant", "Networks": "lan", "Labels": ""}
NETDATA = {"Names": "netdata", "Networks": "host", "Labels": "com.docker.compose.project=watch"}


@pytest.mark.parametrize(
    ("networks", "containers", "accepted", "refused", "named"),
    [
        ([BRIDGE, {"Name": "host", "Driver": "host"}], [], [], "", ""),
        ([BRIDGE, LAN], [ASSISTANT], [], "containers (assistant) on the LAN", ""),
        ([LAN], [], [], "(nobody at the moment)", ""),
        ([LAN], [ASSISTANT], ["lan"], "", "guard themselves"),
        ([{**LAN, "Name": "vlan", "Driver": "ipvlan"}], [], ["lan"], "ipvlan", ""),
        ([{**LAN, "Name": "sovereign"}], [], ["sovereign"], "never of that kind", ""),
        (
            [{**LAN, "Labels": "a=b,com.docker.compose.project=mushishi-vllm-agent"}],
            [],
            ["lan"],
            "never of that kind",
            "",
        ),
        ([BRIDGE], [NETDATA], [], "", "uses the host's own network"),
        ([BRIDGE], [{**NETDATA, "Names": "mushishi-vllm-agent"}], [], "never does", ""),
    ],
)
def test_what_lies_on_the_lan_is_found(
    networks: list[dict[str, str]], containers: list[dict[str, str]], accepted: list[str], refused: str, named: str
) -> None:
    found = judge.judge_networks(as_lines(*networks), as_lines(*containers), accepted)
    for lines, word in ((found.refused, refused), (found.named, named)):
        assert len(lines) == (1 if word else 0) and all(word in line for line in lines), found


def test_an_answer_that_is_none_is_no_network() -> None:
    assert judge.judge_networks("Cannot connect to the Docker daemon", "[]\nnull\n", []) == judge.Found()


# ---- address pools
@pytest.mark.parametrize(
    ("pools", "version", "word"),
    [
        ([{"base": "10.90.0.0/16", "size": 24}], None, ""),
        ([{"base": "10.90.0.0/16", "size": 24}, {"base": "fd90:90::/48", "size": 64}], (29, 9, 0), ""),
        ([], None, "is empty"),
        ([{"base": "10.90.0.1/16", "size": 24}], None, "no network"),
        ([{"base": "10.90.0.0/16", "size": 8}], None, "prefix from 16 to 30"),
        ([{"base": "10.90.0.0/16", "size": 31}], None, "prefix from 16 to 30"),
        ([{"base": "8.8.0.0/16", "size": 24}], None, "somebody else's"),
        ([{"base": "10.0.0.0/8", "size": 24}], None, "the sovereign LAN"),
        ([{"base": "100.64.0.0/16", "size": 24}], None, "the tailnet's range"),
        ([{"base": "192.168.1.0/24", "size": 28}], None, "interface eth0"),
        ([{"base": "10.90.0.0/16", "size": 24}, {"base": "10.90.8.0/24", "size": 28}], None, "another pool"),
        ([{"base": "2001:db8::/48", "size": 64}], (29, 9, 0), "unique local"),
        ([{"base": "fd90:90::/48", "size": 64}], (26, 1, 5), "does not filter IPv6"),
        ([{"base": "fd7a:115c:a1e0:1::/64", "size": 64}], (29, 9, 0), "the tailnet's range"),
    ],
)
def test_pools(pools: list[dict[str, Any]], version: tuple[int, int, int] | None, word: str) -> None:
    taken = [("10.88.0.0/24", "the sovereign LAN"), *((place, "the tailnet's range") for place in judge.TAILNET)]
    said = judge.judge_pools(pools, [*taken, ("192.168.1.0/24", "interface eth0")], version)
    assert bool(said) is bool(word) and (not word or any(word in line for line in said)), said


ROUTES = json.dumps(
    [
        {"dst": "default", "gateway": "192.168.1.1", "dev": "eth0"},
        {"dst": "192.168.1.0/24", "dev": "eth0"},
        {"dst": "10.90.0.0/24", "dev": "docker0"},
        {"dst": "10.88.0.0/24", "dev": "br-sovereign"},
    ]
)


def test_a_bridge_of_dockers_own_takes_nothing_away() -> None:
    bridges = ["/sys/class/net/docker0/bridge", "/sys/class/net/br-sovereign/bridge"]
    assert judge.taken_by_routes(ROUTES, bridges) == [("192.168.1.0/24", "interface eth0")]
    assert judge.taken_by_routes("", bridges) == [] == judge.taken_by_routes("Error: no ip", bridges)


# ---- all of it
def test_a_machine_of_debian_is_accepted() -> None:
    seen = look(
        DEBIAN,
        '{"runtimes": {}}',
        packages=DEBIAN_PACKAGES,
        version_docker="Docker version 26.1.5+dfsg1, build a72d7cd",
        version_runc="runc version 1.1.15+ds1",
        version_containerd="containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6+b4",
        networks=as_lines(BRIDGE),
        routes4=ROUTES,
    )
    found = docker_judged(seen, SETTINGS)
    assert found["refused"] == []
    assert (found["version"], found["knows_backend"], found["install"]) == ("26.1.5", False, [])


def test_a_new_machine_of_ubuntu_gets_the_pin() -> None:
    found = docker_judged(look(), SETTINGS, True)
    assert found["refused"] == [] and found["named"] == []
    assert (found["version"], found["knows_backend"], found["own_source"]) == ("29.9.0", True, True)
    blind = docker_judged(look(), SETTINGS)
    assert blind["ask_index"] and (blind["version"], blind["knows_backend"]) == ("", False)


def test_a_hole_that_this_run_mends_is_no_reason_to_refuse() -> None:
    seen = look(packages=CE_PACKAGES.replace("29.9.0", "28.3.2"), version_docker="Docker version 28.3.2, build 578ccf6")
    assert docker_judged(seen, {**SETTINGS, "source": "docker"})["refused"] == []
    (stays, *_more) = docker_judged(seen, SETTINGS)["refused"]
    assert "CVE-2025-54388" in stays and "Set docker_engine_source to docker" in stays


@pytest.mark.parametrize("daemon", ["{", "[]"])
def test_settings_that_docker_cannot_read_are_named(daemon: str) -> None:
    (said,) = docker_judged(look(daemon=daemon), SETTINGS, False)["refused"]
    assert "/etc/docker/daemon.json" in said


def test_settings_that_say_too_little_are_an_error() -> None:
    with pytest.raises(AnsibleFilterError, match="KeyError"):
        docker_judged(look(), {})


def test_it_is_registered() -> None:
    assert FilterModule().filters() == {"docker_judged": docker_judged}


# ---- settings of another hand
@pytest.mark.parametrize(
    "theirs",
    [
        {},
        {"data-root": "/data", "dns": ["192.0.2.1"], "registry-mirrors": [], "default-runtime": "x", "runtimes": {}},
        {"features": {"containerd-snapshotter": True}, "ip": "0.0.0.0", "live-restore": True},
        {"default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}}},
    ],
)
def test_settings_that_touch_nothing_are_not_refused(theirs: dict[str, Any]) -> None:
    assert judge.judge_settings(theirs) == []


@pytest.mark.parametrize(
    ("theirs", "word"),
    [
        ({"hosts": ["tcp://0.0.0.0:2375"], "dns": []}, "hosts"),
        ({"iptables": False}, "iptables"),
        ({"allow-direct-routing": True}, "allow-direct-routing"),
        ({"metrics-addr": "0.0.0.0:9323"}, "metrics-addr"),
        ({"insecure-no-such": 1}, "insecure-no-such"),
        (
            {"default-network-opts": {"bridge": {"com.docker.network.bridge.gateway_mode_ipv4": "nat-unprotected"}}},
            "default-network-opts of bridge: com.docker.network.bridge.gateway_mode_ipv4",
        ),
        ({"default-network-opts": {"macvlan": {"parent": "eth0"}}}, "default-network-opts of macvlan: parent"),
        ({"default-network-opts": ["bridge"]}, "default-network-opts that is no object of objects"),
        ({"features": True}, "features that is no object"),
    ],
)
def test_settings_that_may_touch_something_are_refused_by_name(theirs: dict[str, Any], word: str) -> None:
    (refusal,) = judge.judge_settings(theirs)
    assert f"does not know: {word}. " in refusal
    assert refusal in judge.judge(look(daemon=json.dumps(theirs)), SETTINGS)["refused"]


def test_what_stays_is_what_is_harmless_or_merged() -> None:
    theirs = {"data-root": "/data", "ip": "0.0.0.0", "features": {"x": True}, "hosts": []}
    assert judge.judge(look(daemon=json.dumps(theirs)), SETTINGS)["kept"] == {
        "data-root": "/data",
        "features": {"x": True},
    }


# ---- networks that were made before
def network(name: str, binding: str | None = None, *, internal: bool = False, default: bool = False) -> dict[str, Any]:
    """As Docker inspects one."""
    options = {judge.BINDING: binding} if binding else {}
    if default:
        options["com.docker.network.bridge.default_bridge"] = "true"
    return {"Name": name, "Driver": "bridge", "Internal": internal, "Options": options or None}


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (network("shop_default"), "shop_default: a port that its containers publish without an address is bound to 0"),
        (network("open", "0.0.0.0"), "open: a port"),
        (network("other", "192.0.2.9"), "bound to 192.0.2.9"),
        (network("new", "127.0.0.1"), None),
        (network("sovereign", internal=True), None),
        (network("bridge", "0.0.0.0", default=True), None),
    ],
)
def test_a_network_that_keeps_its_old_binding_is_named(made: dict[str, Any], named: str | None) -> None:
    found = judge.judge(look(bindings=json.dumps([made])), SETTINGS)["named"]
    assert [named in sentence for sentence in found] == ([True] if named else []), found


def test_without_an_answer_no_network_is_named() -> None:
    assert judge.judge_bindings("", "127.0.0.1") == judge.judge_bindings("no daemon", "127.0.0.1") == []
