# SPDX-License-Identifier: MIT
"""What a preflight says about the Docker that it finds: settings, networks, containers, address pools. Pure.

Everything is judged from what commands that only read have said, before anything is changed.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from . import holes, plan

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

#: Drivers that put a container on the LAN itself, by an address of its own, past every filter of the host.
UNFILTERED = ("macvlan", "ipvlan")
#: What of ours begins with these: containers, networks, projects of compose.
OURS = ("mushishi-", "sovereign")
#: Where a pool may not lie: what a tailnet hands out.
TAILNET = ("100.64.0.0/10", "fd7a:115c:a1e0::/48")
#: IPv6 pools are unique local addresses (RFC 4193): nothing that is routed.
LOCAL_V6 = ipaddress.ip_network("fc00::/7")
#: Where a port is bound to that a container of a network publishes without an address. The daemon's own ``ip`` is for
#: its first network alone (https://github.com/moby/moby/issues/18237); for those that are made later it has
#: ``default-network-opts``, from Docker 24 on (https://docs.docker.com/engine/release-notes/24.0/).
BINDING = "com.docker.network.bridge.host_binding_ipv4"
#: Settings of the daemon that the role has an opinion about.
OWN = frozenset(
    {
        "default-address-pools",
        "default-network-opts",
        "exec-opts",
        "features",
        "firewall-backend",
        "ip",
        "live-restore",
        "log-driver",
        "log-opts",
        "no-new-privileges",
        "userland-proxy",
    }
)
#: Settings of another hand that stay: where things lie, how much, how fast, which names and registries. None of them
#: touches what comes in, the packet filter, or who may give the daemon orders.
HARMLESS = frozenset(
    {
        "builder",
        "cdi-spec-dirs",
        "cgroup-parent",
        "data-root",
        "debug",
        "default-cgroupns-mode",
        "default-ipc-mode",
        "default-runtime",
        "default-shm-size",
        "default-ulimits",
        "dns",
        "dns-opts",
        "dns-search",
        "exec-root",
        "http-proxy",
        "https-proxy",
        "init",
        "init-path",
        "insecure-registries",
        "labels",
        "log-format",
        "log-level",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "mtu",
        "no-proxy",
        "node-generic-resources",
        "oom-score-adjust",
        "proxies",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
        "storage-driver",
        "storage-opts",
    }
)
#: The same of the options that new networks of the kind bridge get.
HARMLESS_OPTIONS = (BINDING, "com.docker.network.driver.mtu", "com.docker.network.bridge.enable_icc")


@dataclass
class Found:
    """Sentences: what is ``refused``, and what a person should know (``named``)."""

    refused: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)


def lines_of(text: str) -> list[dict[str, Any]]:
    """The objects of an answer with one JSON object a line; lines that are none are left out."""
    found = []
    for line in text.splitlines():
        try:
            item = json.loads(line)
        except ValueError:
            continue
        if isinstance(item, dict):
            found.append(item)
    return found


def ours(name: str, labels: str = "") -> bool:
    """Whether a container or a network is the collection's own, by its name or its compose project."""
    project = re.search(r"(?:^|,)com\.docker\.compose\.project=([^,]*)", labels)
    return name.startswith(OURS) or bool(project and project[1].startswith(OURS))


def judge_backend(settings: Mapping[str, Any], command: str, info: str) -> list[str]:
    """Refusals of Docker's nftables backend, wherever it is chosen; it has no DOCKER-USER chain.

    Args:
        settings: what stands in the daemon's settings.
        command: how systemd starts the daemon.
        info: what the running daemon says of its backend, as JSON.
    """
    places = []
    if settings.get("firewall-backend", "iptables") != "iptables":
        places.append("/etc/docker/daemon.json sets firewall-backend to " + str(settings["firewall-backend"]))
    flag = re.search(r"--firewall-backend[= ](\S+)", command)
    if flag and flag[1] != "iptables":
        places.append(f"docker.service is started with --firewall-backend={flag[1]}")
    try:
        running = json.loads(info or "null")
    except ValueError:
        running = None
    driver = str(running.get("Driver", "")) if isinstance(running, dict) else ""
    if not places and driver.startswith("nftables"):
        places.append(f"the running Docker filters with {driver}")
    return [
        f"Docker's firewall: {place}. That backend is experimental, has no DOCKER-USER chain, and was not tested with "
        "this collection. Take the setting away, restart Docker, and run again."
        for place in places
    ]


def judge_settings(theirs: Mapping[str, Any]) -> list[str]:
    """Refusals of settings that stand in the daemon's file and are neither set by the role nor known as harmless."""
    unknown = sorted(set(theirs) - OWN - HARMLESS)
    features, options = theirs.get("features", {}), theirs.get("default-network-opts", {})
    if not isinstance(features, dict):
        unknown.append("features that is no object")
    if not isinstance(options, dict) or not all(isinstance(of_one, dict) for of_one in options.values()):
        unknown.append("default-network-opts that is no object of objects")
    else:
        unknown += [
            f"default-network-opts of {driver}: {name}"
            for driver, of_one in sorted(options.items())
            for name in sorted(of_one)
            if driver != "bridge" or name not in HARMLESS_OPTIONS
        ]
    is_ = f"/etc/docker/daemon.json has settings that this role does not know: {', '.join(unknown)}."
    why = "They may touch what comes in, or who may give Docker orders."
    remedy = "Move them away first; those that touch neither (data-root, dns, registry-mirrors and the like) stay."
    return [f"{is_} {why} {remedy}"] if unknown else []


def kept(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """What of the daemon's file stays; settings of the role's own go over it."""
    return {name: value for name, value in theirs.items() if name in HARMLESS | {"features", "default-network-opts"}}


def judge_bindings(networks: str, bind: str) -> list[str]:
    """Networks that were made when a port without an address was bound to another one; they keep it.

    Args:
        networks: what ``docker network inspect`` says of all of the kind bridge.
        bind: the address that a network gets now.
    """
    try:
        listed = json.loads(networks or "[]")
    except ValueError:
        return []
    found = []
    for network in listed:
        options = network.get("Options") or {}
        # Docker publishes nothing of an internal network; its first one has the daemon's own setting.
        own = options.get("com.docker.network.bridge.default_bridge") == "true"
        now = options.get(BINDING, str(ipaddress.IPv4Address(0)))
        if network.get("Internal") or own or now == bind:
            continue
        found.append(
            f"Docker network {network.get('Name')}: a port that its containers publish without an address is bound to "
            f"{now}, because the network was made so. From outside the doors alone are open all the same. Make it anew "
            f"(docker compose down, then up) and it is {bind}."
        )
    return found


def judge_networks(networks: str, containers: str, accepted: Sequence[str]) -> Found:
    """What lies on the LAN past the filters of the host.

    Args:
        networks: ``docker network ls`` as one JSON object a line.
        containers: ``docker ps --all`` as one JSON object a line.
        accepted: networks of the user's that may stay, because the user says so.
    """
    found = Found()
    running = lines_of(containers)
    for network in lines_of(networks):
        name, driver = str(network.get("Name", "")), str(network.get("Driver", ""))
        if driver not in UNFILTERED:
            continue
        members = [str(item.get("Names", "")) for item in running if name in str(item.get("Networks", "")).split(",")]
        who = f" ({', '.join(members)})" if members else " (nobody at the moment)"
        is_ = (
            f"Docker network {name}: its driver is {driver}, which puts containers{who} on the LAN past every filter "
            "of this machine"
        )
        if ours(name, str(network.get("Labels", ""))):
            found.refused.append(
                f"{is_}. A network of this collection is never of that kind: remove it (docker network rm {name})."
            )
        elif name in accepted:
            found.named.append(f"{is_}. docker_engine_unfiltered_networks accepts it; its containers guard themselves.")
        else:
            found.refused.append(
                f"{is_}. Give them a bridge network, or, when they shall stand on the LAN, write {name} into "
                "docker_engine_unfiltered_networks."
            )
    for item in running:
        if str(item.get("Networks", "")).split(",") != ["host"]:
            continue
        name = str(item.get("Names", ""))
        is_ = f"Docker container {name}: it uses the host's own network"
        if ours(name, str(item.get("Labels", ""))):
            found.refused.append(
                f"{is_}. A container of this collection never does: remove it (docker rm --force {name})."
            )
        else:
            found.named.append(
                f"{is_}. What it listens on is judged like a service of the host: only the doors are open."
            )
    return found


def _network(text: object) -> Network | None:
    try:
        return ipaddress.ip_network(str(text))
    except ValueError:
        return None


def judge_pools(
    pools: Sequence[Mapping[str, Any]], taken: Sequence[tuple[str, str]], version: holes.Version | None
) -> list[str]:
    """Refusals of address pools.

    Args:
        pools: entries with ``base`` and ``size``.
        taken: (range, what is there): ranges in which no pool may lie.
        version: Docker's, when it is known.
    """
    if not pools:
        return ["docker_engine_address_pools is empty. Name one, for example {base: 10.90.0.0/16, size: 24}."]
    said: list[str] = []
    seen: list[tuple[str, str]] = []
    for pool in pools:
        base, size = _network(pool.get("base")), int(pool.get("size", 0))
        what = f"docker_engine_address_pools: {pool.get('base')}, size {pool.get('size')}"
        if base is None:
            said.append(f"{what}: that is no network. Write the base as 10.90.0.0/16, without bits of a host.")
            continue
        if not base.prefixlen <= size <= (30 if base.version == 4 else 64):
            most = 30 if base.version == 4 else 64
            said.append(f"{what}: the size is a prefix from {base.prefixlen} to {most}.")
        if not base.is_private:
            said.append(f"{what}: that range is somebody else's. Take a private one.")
        elif isinstance(base, ipaddress.IPv6Network):
            if not base.subnet_of(LOCAL_V6):  # type: ignore[arg-type]  # both are IPv6
                said.append(f"{what}: take unique local addresses (fd00::/8).")
            if version is not None and version < holes.IPV6_FILTERED:
                said.append(
                    f"{what}: Docker {holes.spelled(version)} does not filter IPv6 of containers, "
                    f"{holes.spelled(holes.IPV6_FILTERED)} and newer do. Leave the pool out."
                )
        said += [
            f"{what}: it overlaps {other} ({name}). Choose another range."
            for other, name in [*taken, *seen]
            if (there := _network(other)) is not None and there.version == base.version and base.overlaps(there)
        ]
        seen.append((str(base), "another pool"))
    return said


def taken_by_routes(routes: str, bridges: Sequence[str]) -> list[tuple[str, str]]:
    """(range, interface) of every route by an interface that is no bridge, from ``ip -json route show``."""
    try:
        listed = json.loads(routes or "[]")
    except ValueError:
        return []
    own = {path.split("/")[-2] for path in bridges if path.count("/") > 1}
    return [
        (str(route["dst"]), f"interface {route['dev']}")
        for route in listed
        if route.get("dst") not in (None, "default") and route.get("dev") not in (None, "lo", *own)
    ]


def judge(look: Mapping[str, Any], settings: Mapping[str, Any], reached: bool | None = None) -> dict[str, Any]:
    """Everything, from what the role's look has found.

    Args:
        look: the result of the module ``look``; answers that are missing are taken for empty ones.
        settings: those of ``plan.plan``, and ``pools``, ``lan``, ``unfiltered``, ``bind``.
        reached: whether Docker's index was reached; None when nobody asked.
    """
    said = {name: str(answer.get("stdout", "")) for name, answer in look.get("commands", {}).items()}
    made = plan.plan(look, settings, reached)
    versions = {
        component: version
        for component in ("docker", "runc", "containerd")
        if (version := holes.version_of(said.get(f"version_{component}", ""))) is not None
    }
    coming = plan.expected(made, settings["pins"])
    if "containerd" in coming:
        # containerd.io brings its own; which one is seen when it is there.
        versions.pop("runc", None)
    versions.update(coming)
    broken, theirs = settings_of(str(look.get("contents", {}).get("/etc/docker/daemon.json") or "{}"))
    docker = versions.get("docker")
    bridges = look.get("globs", {}).get("/sys/class/net/*/bridge", [])
    taken = [(str(settings["lan"]), "the sovereign LAN"), *((place, "the tailnet's range") for place in TAILNET)]
    for answer in ("routes4", "routes6"):
        taken += taken_by_routes(said.get(answer, ""), bridges)
    found = judge_networks(said.get("networks", ""), said.get("containers", ""), settings["unfiltered"])
    known = holes.judge(versions, made.origin, made.remedy)
    return {
        "refused": [
            *broken,
            *judge_settings(theirs),
            *made.refused,
            *judge_backend(theirs, said.get("start", ""), said.get("backend", "")),
            *judge_pools(settings["pools"], taken, docker),
            *known["refused"],
            *found.refused,
        ],
        "named": [*known["named"], *found.named, *judge_bindings(said.get("bindings", ""), str(settings["bind"]))],
        "kept": kept(theirs),
        "version": holes.spelled(docker) if docker else "",
        "knows_backend": bool(docker and docker >= holes.BACKEND_KEY),
        "origin": made.origin,
        "ask_index": made.ask_index,
        "install": made.install,
        "hold": made.hold,
        "own_source": made.own_source,
    }


def settings_of(text: str) -> tuple[list[str], Mapping[str, Any]]:
    """Refusals, and the daemon's settings as they stand in its file."""
    try:
        theirs = json.loads(text)
    except ValueError as error:
        return [f"/etc/docker/daemon.json is no JSON ({error}). Docker would not start with it: mend it."], {}
    if isinstance(theirs, dict):
        return [], theirs
    return ["/etc/docker/daemon.json holds something else than settings. Mend it."], {}
