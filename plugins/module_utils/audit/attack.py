# SPDX-License-Identifier: MIT
"""Attacks the planes from inside every sovereign unit and container, as every user, and from the host towards them
(pull, files, logs).

The probe (``probe.py``) only tries; what its results mean is decided here. An attacker comes in three strengths: *as
it is* (a twin of the unit with its filters), *in its group* (its namespaces, user and control group), *bare* (its
namespaces and user alone: no filter of system calls or addresses, the strongest against what is left).
"""

from __future__ import annotations

import glob
import inspect
import ipaddress
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from . import probe
from .facts import Machine, Process, Settings
from .model import Row
from .static import INERT, SOCKETS, cgroup_of, group, listening, t1_trees

#: There is no way: the kernel found no route, no address of its own, or no such family.
NO_ROUTE = frozenset(
    {"ENETUNREACH", "EAFNOSUPPORT", "EADDRNOTAVAIL", "ENODEV", "EINVAL", "EPFNOSUPPORT", "EPROTONOSUPPORT", "ENETDOWN"}
)
#: Somebody said no.
REFUSED = frozenset({"ECONNREFUSED", "EPERM", "EACCES", "EHOSTUNREACH", "ECONNRESET", "EHOSTDOWN", "EPROTO"})
AT_ONCE_MS = 1000.0
#: How many of them are tried again at once.
RETRIED = 5
#: A number that no account has: a stranger among the machine's users.
STRANGER = 64998
#: What of a target is not the probe's business.
#: Settings of a unit that its twin takes over; the shared drop-ins give it the rest.
TWIN = ("User", "RestrictAddressFamilies", "IPAddressDeny", "IPAddressAllow", "NetworkNamespacePath")
NOT_SENT = frozenset({"path", "rule", "beyond", "silent", "allowed", "kind", "sweep"})
PYTHON = ("/usr/bin/python3", "-I", "-c")
NO_RIGHTS = ("--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
FAMILIES = (
    ("AF_UNIX", "stream"),
    ("AF_INET6", "stream"),
    ("AF_INET", "raw"),
    ("AF_PACKET", "raw"),
    ("AF_NETLINK", "raw"),
    ("AF_VSOCK", "stream"),
    ("AF_ALG", "dgram"),
    ("AF_BLUETOOTH", "stream"),
    ("AF_CAN", "raw"),
    ("AF_TIPC", "dgram"),
    ("AF_KEY", "raw"),
    ("AF_XDP", "raw"),
)
#: What each address is asked: a console, the web, QUIC's port, names, the hybrid gateway, a ping.
ASKED = (("tcp", 22), ("tcp", 80), ("tcp", 443), ("tcp", 4000), ("udp", 443), ("dns", 53), ("icmp", 0))
#: Ports of the plane's services and of those that come later.
PLANE_PORTS = (22, 53, 4001, 4011, 4021, 4022, 4023, 5432, 6006, 6379, 8000, 8001, 8002, 8188, 8642, 9000, 9002, 19999)


@dataclass
class Place:
    """Where to try from: ``argv`` puts a Python there. ``plane``: it has no router, so that everything beyond must
    have no route.
    """

    source: str
    rule: str
    argv: tuple[str, ...]
    plane: bool = True
    user: str = ""
    link: str = "sov0"
    pid: int = 0
    kind: str = "bare"
    targets: list[dict[str, Any]] = field(default_factory=list)


def program() -> str:
    """The probe as a text that reads its targets from standard input."""
    return inspect.getsource(probe) + "\nprint(json.dumps(attempt(json.load(sys.stdin))))\n"


def knock(machine: Machine, place: Place, targets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Try all targets from a place. Raises RuntimeError when the probe itself did not run there."""
    if not targets:
        return []
    wire = [{key: value for key, value in target.items() if key not in NOT_SENT} for target in targets]
    status, out, err = machine.done(*place.argv, program(), stdin=json.dumps(wire), timeout=120)
    try:
        found = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise RuntimeError(f"the probe did not run ({status}): {(err or out).strip()[-300:]}") from None
    if len(found) != len(targets):
        raise RuntimeError("the probe told less than it was asked")
    return list(found)


def attack(machine: Machine, place: Place, targets: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Try, and judge. What came late or not at all is tried again, alone.

    A busy machine is late by itself, and the kernel tells one asker of only six refused datagrams in a second.
    """
    if not targets:
        return []
    try:
        results = knock(machine, place, targets)
        for _again in range(3):
            late = [at for at, seen in enumerate(results) if is_late(place, targets[at], seen)][:RETRIED]
            if not late:
                break
            time.sleep(1.1)
            for at, seen in zip(late, knock(machine, place, [targets[at] for at in late])):
                results[at] = seen if seen["ms"] < results[at]["ms"] or seen["state"] == "open" else results[at]
    except RuntimeError as error:
        return [Row("attack", place.rule, place.source, "every way", "not tested", detail=str(error))]
    rows: list[Row] = []
    sweeps: dict[str, list[Row]] = {}
    for target, seen in zip(targets, results):
        for one in judge(place, target, seen):
            if "sweep" in target and one.outcome == "refused":
                sweeps.setdefault(target["sweep"], []).append(one)
            else:
                rows.append(one)
    for path, each in sweeps.items():
        # What was refused is one row for all; what was not is a row of its own, above.
        rows.append(
            Row(
                each[0].kind,
                each[0].rule,
                place.source,
                path,
                "refused",
                max(one.ms or 0.0 for one in each),
                f"each of {len(each)}: {each[0].detail}",
            )
        )
    return rows


def is_late(place: Place, target: Mapping[str, Any], seen: Mapping[str, Any]) -> bool:
    """A refusal that took longer than it may, or never came where one must."""
    if seen["state"] == "error":
        return seen["ms"] > AT_ONCE_MS and target["proto"] not in ("read", "run")
    quiet = target.get("silent") or target.get("allowed") or (place.kind == "group" and not target.get("beyond"))
    return seen["state"] in ("silent", "sent") and not quiet


def judge(place: Place, target: Mapping[str, Any], seen: Mapping[str, Any]) -> list[Row]:
    """What a result means: one row, and a second one for a refusal that was not immediate."""
    kind, rule, code = str(target.get("kind", "attack")), str(target.get("rule", place.rule)), str(seen["errno"])
    words = " ".join(word for word in (code, str(seen.get("detail", ""))) if word)

    def say(outcome: str, detail: str, path: str = "") -> Row:
        return Row(kind, rule, place.source, path or str(target["path"]), outcome, float(seen["ms"]), detail)

    if target["proto"] == "http" and seen["state"] == "open":
        passed = not str(seen["detail"]).startswith(("404", "403", "405", "400"))
        return [say("leaked" if passed else "refused", f"status {seen['detail']}")]
    if target.get("allowed"):
        return [say("holds", f"{words or seen['state']}; the policy's own way")]
    if seen["state"] == "open":
        return [say("leaked", words or "it got through")]
    if seen["state"] in ("silent", "sent"):
        if target.get("silent"):
            return [say("refused", "nobody answered, nobody received it")]
        if place.kind == "group" and not target.get("beyond"):
            # IPAddressDeny= of the unit takes the packet away without a word, and the LAN is all it could have reached.
            return [say("refused", "dropped by the unit's own filter of addresses")]
        return [say("leaked", "nothing refused it: what was sent may have left")]
    if target.get("beyond") and place.plane and code not in NO_ROUTE and not local_refusal(target, seen):
        return [say("leaked", f"there is a route; only another lock refused it ({code})")]
    rows = [say("refused", words)]
    if is_late(place, target, seen) and not target.get("silent"):
        rows.append(
            say(
                "leaked",
                f"refused after {seen['ms']:.0f} ms: a refusal must be immediate",
                f"{target['path']}, at once",
            )
        )
    return rows


def local_refusal(target: Mapping[str, Any], seen: Mapping[str, Any]) -> bool:
    """A socket that this user cannot even make says nothing about routes."""
    return target["proto"] == "icmp" and "no ICMP socket" in str(seen.get("detail"))


# ---- what is attacked


def addresses(machine: Machine, settings: Settings) -> list[dict[str, Any]]:
    """Places beyond the plane: named ones, and what the machine itself knows. ``{name, address, beyond, ports,
    hosts}``.

    ``hosts``: names of the policy that mean this address now.
    """
    found: list[dict[str, Any]] = []

    def add(name: str, address: str, beyond: bool = True, ports: Iterable[int] = (), host: str = "") -> None:
        known = next((entry for entry in found if entry["address"] == address), None)
        if address and known is None:
            known = {"name": name, "address": address, "beyond": beyond, "ports": sorted(set(ports)), "hosts": []}
            found.append(known)
        if known and host:
            known["hosts"].append(host)

    for target in settings.targets:
        for family in ("v4", "v6"):
            if target.get(family):
                add(
                    f"{target['name']} {family}",
                    str(target[family]),
                    ports=[int(port) for port in [*target.get("ports", []), *target.get("open", [])]],
                )
    for family in ("-4", "-6"):
        for entry in machine.json("ip", "-j", family, "route", "show", "default") or []:
            add(f"default gateway v{family[1]}", str(entry.get("gateway", "")))
    for server in resolvers(machine):
        add(f"name server {'v6' if ':' in server else 'v4'}", server, beyond=not server.startswith("127."), ports=[853])
    services = host_ports(machine)
    for link in machine.json("ip", "-j", "address") or []:
        for entry in link.get("addr_info", []):
            if link["ifname"] == "lo" or entry.get("scope") == "link":
                continue
            on_lan = settings.on_lan(entry["local"])
            asked = services if on_lan or entry["family"] == "inet" else ()
            add(
                f"host on {link['ifname']} {'v6' if entry['family'] == 'inet6' else 'v4'}",
                entry["local"],
                beyond=not on_lan,
                ports=asked,
            )
    for entry in [
        entry
        for entry in machine.json("ip", "-j", "neigh") or []
        if entry.get("dev") != settings.bridge and not str(entry.get("dst")).startswith("fe80")
    ][:4]:
        add(f"neighbour on {entry.get('dev')}", str(entry.get("dst")))
    for host in settings.providers():
        for family in ("4", "6"):
            said = machine.run("getent", f"ahostsv{family}", host, timeout=4).splitlines()
            # An address of IPv4 written as one of IPv6 is the same place.
            for address in {line.split()[0] for line in said if line and not line.startswith("::ffff:")}:
                add(f"{host} v{family}", address, host=host)
    for one in (
        machine.json(
            "docker", "network", "inspect", *(machine.run("docker", "network", "ls", "--quiet").split() or ["none"])
        )
        or []
    ):
        for container in (one.get("Containers") or {}).values() if one.get("Name") != settings.network else ():
            add(f"container {container['Name']}", container["IPv4Address"].partition("/")[0])
    for name, address in (
        ("documentation v4", "192.0.2.1"),
        ("documentation v6", "2001:db8::1"),
        ("metadata v4", "169.254.169.254"),
        ("metadata v6", "fd00:ec2::254"),
        ("link-local v4", "169.254.77.1"),
        ("mapped v6", "::ffff:192.0.2.1"),
        ("NAT64 v6", "64:ff9b::c000:201"),
    ):
        add(name, address)
    return found


def resolvers(machine: Machine) -> list[str]:
    """Name servers of the machine, and of the one behind its own resolver."""
    text = machine.text("/etc/resolv.conf") + machine.text("/run/systemd/resolve/resolv.conf")
    return sorted(
        {
            words[1]
            for words in (line.split() for line in text.splitlines())
            if len(words) > 1 and words[0] == "nameserver"
        }
    )


def host_ports(machine: Machine) -> list[int]:
    """TCP ports that somebody on the host listens at."""
    words = [line.split() for line in machine.run("ss", "-Hltn").splitlines()]
    elsewhere = ("127.0.0.11",)  # a container's own resolver
    return sorted(
        {int(entry[3].rpartition(":")[2]) for entry in words if len(entry) > 3 and not entry[3].startswith(elsewhere)}
    )[:32]


def network(places: Sequence[Mapping[str, Any]], settings: Settings, place: Place, query: str) -> list[dict[str, Any]]:
    """Everything to try from a place by network, both versions of IP."""
    found: list[dict[str, Any]] = []

    def add(proto: str, name: str, address: str, port: int, **more: Any) -> None:
        shown = {"udp": f"udp {port}", "dns": "dns udp", "icmp": "ping", "tcp": f"tcp {port}"}[proto]
        shown = "dns tcp" if more.get("stream") else shown
        found.append(
            {
                "proto": proto,
                "address": address,
                "port": port,
                "path": f"→ {name} {address} {shown}",
                "query": query,
                **more,
            }
        )

    for entry in places:
        for proto, port in ASKED:
            add(proto, entry["name"], entry["address"], port, beyond=entry["beyond"])
        for port in entry["ports"]:
            if ("tcp", port) not in ASKED:
                add("tcp", entry["name"], entry["address"], port, beyond=entry["beyond"])
        if "name server" in entry["name"]:
            add("dns", entry["name"], entry["address"], 53, beyond=entry["beyond"], stream=True)
    for address in ("127.0.0.53", "127.0.0.11", "127.0.0.1"):
        add("dns", "local resolver", address, 53)
        add("dns", "local resolver", address, 53, stream=True)
    if place.kind != "container":
        for port in (22, 4000, 631, 2375, 5432, 6379, 19999):
            add("tcp", "host's loopback", "127.0.0.1", port)
    for name, address, port in (
        ("link-local v6", f"fe80::1%{place.link}", 80),
        ("all nodes v6", f"ff02::1%{place.link}", 5353),
        ("mDNS v6", f"ff02::fb%{place.link}", 5353),
        ("mDNS v4", "224.0.0.251", 5353),
        ("SSDP v4", "239.255.255.250", 1900),
    ):
        proto = "tcp" if "link-local" in name else "udp"
        add(proto, name, address, port, beyond=True, wait=0.3, silent=proto == "udp" and not place.plane)
    add("udp", "broadcast v4", "255.255.255.255", 9, beyond=True, broadcast=True, wait=0.3)
    last = str(ipaddress.ip_network(settings.lan)[-1])
    # On the LAN a datagram to everybody is received by nobody: the audit listens there.
    add(
        "udp",
        "broadcast of the LAN",
        last,
        ECHO_PORT,
        broadcast=True,
        wait=0.3,
        silent=True,
        token=f"{place.source}|{last}",
    )
    add(
        "udp",
        "host on the LAN",
        settings.host_address,
        ECHO_PORT,
        wait=0.3,
        silent=True,
        token=f"{place.source}|{settings.host_address}",
    )
    return found


#: Where the audit listens for datagrams that somebody let through.
#: Below the ports that connections are given (32768 to 60999): one of those may be taken at any moment.
ECHO_PORT = 31999


def inside_plane(settings: Settings, place: Place, running: Mapping[str, str]) -> list[dict[str, Any]]:
    """Services of the plane that this user may not open; what it may is the policy's own way."""
    ways = {
        (str(flow["address"]), int(flow["port"])) for flow in settings.namespace_flows if flow["user"] == place.user
    }
    hosts = [
        settings.namespace_address,
        *([] if place.kind == "container" else ["127.0.0.1", *sorted({*settings.engines(), *running.values()})]),
    ]
    rule = "P3"
    return [
        {
            "proto": "tcp",
            "address": host,
            "port": port,
            "path": f"→ plane {host} tcp {port}",
            "rule": rule,
            "allowed": (host, port) in ways,
        }
        for host in hosts
        for port in PLANE_PORTS
    ]


def local(machine: Machine, place: Place, abstract: Sequence[str], seen: Sequence[str]) -> list[dict[str, Any]]:
    """What is no network: socket files, abstract names, routes, namespaces, raw sockets, files of root, names."""
    # In a container's network alone the files are the host's.
    own_files = place.argv[0] == "docker" or "--mount" in place.argv
    found: list[dict[str, Any]] = [
        {"proto": "unix", "file": path, "path": f"→ socket {path}", "rule": "P3"}
        for path in sorted({*SOCKETS, *seen})
        if own_files and not INERT.match(path)
    ]
    found += [{"proto": "unix", "file": name, "path": f"→ abstract socket {name}", "rule": "P3"} for name in abstract]
    found += [
        {"proto": "family", "family": name, "type": kind, "path": f"→ {name} {kind}", "rule": "P5"}
        for name, kind in (("AF_PACKET", "raw"), ("AF_INET", "raw"), ("AF_INET6", "raw"))
    ]
    found.append({"proto": "route", "path": "→ add a route", "rule": "P1"})
    found.append({"proto": "setns", "path": "→ join the host's network", "rule": "P1"})
    if own_files:
        found.append({"proto": "resolve", "query": "example.com", "path": "→ the system's resolver", "rule": "P3"})
    if place.kind != "container":
        found.append(
            {
                "proto": "read",
                "files": ["/etc/shadow", "/proc/1/environ", "/proc/1/root/etc/shadow"],
                "path": "→ files of root",
                "rule": "P7",
            }
        )
    return found


def as_it_is(seen: Sequence[str]) -> list[dict[str, Any]]:
    """For the twin with its unit's filters: every family of sockets but its own, and every socket file, those of the
    journal too.
    """
    found: list[dict[str, Any]] = [
        {"proto": "family", "family": name, "type": kind, "path": f"→ {name} {kind}", "rule": "P3"}
        for name, kind in FAMILIES
    ]
    found += [
        {"proto": "unix", "file": path, "path": f"→ socket {path}", "rule": "P3"}
        for path in sorted({*SOCKETS, *seen, "/run/systemd/journal/stdout"})
    ]
    found += [
        {"proto": "route", "path": "→ add a route", "rule": "P1"},
        {"proto": "setns", "path": "→ join the host's network", "rule": "P1"},
    ]
    return found


# ---- where from


def nsenter(pid: int, uid: int, gid: int, mount: bool = True) -> tuple[str, ...]:
    """Into a process's network (and files), as its user, without any right."""
    enter = ("nsenter", f"--target={pid}", "--net", *(["--mount"] if mount else []), "--")
    return (*enter, "setpriv", f"--reuid={uid}", f"--regid={gid}", *NO_RIGHTS, *PYTHON)


def unit_places(machine: Machine) -> Iterator[Place]:
    """Three attackers for each sovereign unit that runs."""
    names = machine.units("mushishi-sovereign-*")
    wanted = ",".join(("MainPID", "ActiveState", "ControlGroup", *TWIN))
    shown = machine.properties(names, wanted)
    for number, name in enumerate(names):
        have, source = shown.get(name, {}), "unit " + name[: -len(".service")]
        pid = int(have.get("MainPID") or 0)
        alive = Process.read(pid) if pid else None
        if alive is None or have.get("ActiveState") != "active":
            yield Place(source, "P1", (), kind="down")
            continue
        uid, gid = alive.uid, int(alive.status["Gid"].split()[1])
        bare = nsenter(pid, uid, gid)
        root = next(
            (
                top
                for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
                if os.path.exists(f"{top}{have['ControlGroup']}/cgroup.procs")
            ),
            "",
        )
        join = ("sh", "-c", 'echo $$ > "$0" && exec "$@"', f"{root}{have['ControlGroup']}/cgroup.procs")
        yield Place(f"{source} (bare)", "P1", bare, user=have["User"], pid=pid)
        if root:
            yield Place(f"{source} (in its group)", "P1", (*join, *bare), user=have["User"], pid=pid, kind="group")
        twin = [
            f"--property={key}={have[key]}"
            for key in ("User", "RestrictAddressFamilies", "IPAddressDeny", "IPAddressAllow", "NetworkNamespacePath")
            if have.get(key)
        ]
        run = (
            "systemd-run",
            "--quiet",
            "--pipe",
            "--wait",
            "--collect",
            f"--unit=mushishi-sovereign-audit-{os.getpid()}-{number}",
            "--property=Restart=no",
            "--property=RuntimeMaxSec=60",
        )
        yield Place(f"{source} (as it is)", "P3", (*run, *twin, *PYTHON), user=have["User"], pid=pid, kind="twin")


def container_places(machine: Machine, running: Iterable[Mapping[str, Any]]) -> Iterator[Place]:
    """Two attackers for each container: with Docker's own filters, and bare, in its network alone."""
    for one in running:
        source, pid = f"container {one['Name'].lstrip('/')}", int(one["State"].get("Pid") or 0)
        if not pid:
            yield Place(source, "P1", (), kind="down")
            continue
        name = one["Name"].lstrip("/")
        if machine.done("docker", "exec", name, "python3", "-I", "-c", "pass")[0] == 0:
            yield Place(
                source,
                "P1",
                ("docker", "exec", "-i", name, "python3", "-I", "-c"),
                link="eth0",
                pid=pid,
                kind="container",
            )
        alive = next(
            (seen for seen in map(Process.read, group(cgroup_of(pid, machine))) if seen), None
        ) or Process.read(pid)
        uid, gid = (alive.uid, int(alive.status["Gid"].split()[1])) if alive else (65534, 65534)
        yield Place(
            f"{source} (bare, the host's Python in its network)",
            "P1",
            nsenter(pid, uid, gid, mount=False),
            link="eth0",
            pid=pid,
            kind="container",
        )


def host_users(machine: Machine, prefix: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Users by the beginning of their name, and how to be one of them on the host."""
    for name in sorted(machine.users()):
        if name.startswith(prefix):
            yield name, as_user(name)


def as_user(name: str) -> tuple[str, ...]:
    """A user of the host, with its groups."""
    if name == "root":
        return PYTHON
    if name.isdigit():
        return ("setpriv", f"--reuid={name}", f"--regid={name}", *NO_RIGHTS, *PYTHON)
    return (
        "setpriv",
        f"--reuid={name}",
        f"--regid={name if name != 'nobody' else 'nogroup'}",
        "--init-groups",
        "--no-new-privs",
        "--bounding-set=-all",
        "--inh-caps=-all",
        *PYTHON,
    )


def beyond_policy(
    settings: Settings, places: Iterable[Mapping[str, Any]], targets: Iterable[Mapping[str, Any]], user: str
) -> list[dict[str, Any]]:
    """P10: for a hybrid user the same ways, of which the policy's hosts and the services that name it are its own."""
    ports = {str(entry["host"]): int(entry["port"]) for entry in settings.hybrid_egress.get(user, ())}
    own = {(str(place["address"]), ports[host]) for place in places for host in place["hosts"] if host in ports}
    own |= {("127.0.0.1", int(one["port"])) for one in settings.loopback_services if user in one["users"]}
    return [
        {**one, "rule": "P10", "allowed": one["proto"] == "tcp" and (str(one["address"]), one["port"]) in own}
        for one in targets
    ]


# ---- pull


def pull_targets(machine: Machine, settings: Settings, user: str, running: Mapping[str, str]) -> list[dict[str, Any]]:
    """P2: every address of the LAN, every port of a service and every one that is open there, for one user of the
    host.
    """
    ways = {(str(way["address"]), int(way["port"])) for way in settings.plane_clients if way["user"] == user}
    open_there = open_ports(machine, settings)
    found: list[dict[str, Any]] = []
    for host in sorted({settings.namespace_address, *settings.engines(), *running.values()}):
        absent = host != settings.namespace_address and host not in running.values()
        named = {*PLANE_PORTS, *open_there}
        for port in sorted(named | set(range(1, 1025) if user == "nobody" and not absent else ())):
            way = {
                "proto": "tcp",
                "address": host,
                "port": port,
                "path": f"→ plane {host} tcp {port}",
                "kind": "pull",
                "rule": "P2",
            }
            found.append(
                {
                    **way,
                    "allowed": (host, port) in ways,
                    **({} if port in named else {"sweep": f"→ plane {host} tcp 1 to 1024"}),
                }
            )
        for proto, port in (("udp", 53), ("udp", 443), ("icmp", 0)):
            found.append(
                {
                    "proto": proto,
                    "address": host,
                    "port": port,
                    "path": f"→ plane {host} {proto} {port or ''}".rstrip(),
                    "kind": "pull",
                    "rule": "P2",
                }
            )
    return found


def open_ports(machine: Machine, settings: Settings) -> set[int]:
    """TCP ports that are open inside the plane."""
    words = [line.split() for line in machine.run(*machine.inside(settings.namespace, "ss", "-Hltn")).splitlines()]
    return {
        int(entry[3].rpartition(":")[2]) for entry in words if len(entry) > 3 and entry[3].rpartition(":")[2].isdigit()
    }


def door_targets(settings: Settings) -> list[dict[str, Any]]:
    """P2: what the engine door must not pass to the hybrid side, for each engine."""
    shared = {route["backend"] for route in settings.door_routes if "hybrid" in route["planes"]}
    base = {
        "proto": "http",
        "address": settings.namespace_address,
        "port": settings.door_port,
        "kind": "pull",
        "rule": "P2",
    }
    found = []
    for route in settings.door_routes:
        name = route["backend"]
        ends = [
            "metrics",
            "health",
            "slots",
            "props",
            "history",
            "v1/completions",
            "v1/embeddings",
            "v1/../metrics",
            "v1/models/",
            "/metrics",
            "tokenize",
            "v1/models?x=1/../../slots",
        ]
        ends += [] if name in shared else ["v1/models", "v1/chat/completions"]
        for end in ends:
            # A query is dropped by the door, and the model list is what is left.
            if "?" not in end:
                found.append({**base, "url": f"/{name}/{end}", "path": f"→ engine door GET /{name}/{end}"})
        found.append(
            {**base, "method": "DELETE", "url": f"/{name}/v1/models", "path": f"→ engine door DELETE /{name}/v1/models"}
        )
    for url in ("/", "/v1/models", "/admin", "/stats", "/haproxy?stats", "/metrics"):
        found.append({**base, "url": url, "path": f"→ engine door GET {url}"})
    return found


def file_targets(machine: Machine, settings: Settings, running: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """P7 and P8: every sovereign file tree, process and log, each entry by name, since root knows the names."""
    found: list[dict[str, Any]] = []

    def add(kind: str, rule: str, name: str, files: Iterable[str]) -> None:
        listed = sorted(set(files))[:4000]
        if listed:
            found.append(
                {
                    "proto": "read",
                    "files": listed,
                    "path": f"→ {name} ({len(listed)} entries)",
                    "kind": kind,
                    "rule": rule,
                }
            )

    add("files", "P7", settings.secrets, tree(settings.secrets))
    add(
        "files",
        "P7",
        "credentials of sovereign units",
        (path for top in glob.glob("/run/credentials/mushishi-sovereign-*") for path in tree(top)),
    )
    for top in t1_trees(machine, settings):
        add("files", "P7", top, tree(top))
    names = machine.units("mushishi-sovereign-*")
    pids = [
        pid
        for have in machine.properties(names, "ControlGroup").values()
        for pid in group(have.get("ControlGroup", ""))
    ]
    pids += [
        pid for one in running if one["State"]["Pid"] for pid in group(cgroup_of(int(one["State"]["Pid"]), machine))
    ]
    add(
        "files",
        "P7",
        "memory and files of sovereign processes",
        (
            f"/proc/{pid}/{name}"
            for pid in pids
            for name in ("environ", "mem", "maps", "fd", "root", "cwd", "auxv", "stack")
        ),
    )
    for one in running:
        shared = [mount["Source"] for mount in one["Mounts"] if mount.get("RW")]
        for top in shared:
            add("files", "P7", f"volume {top} of {one['Name'].lstrip('/')}", tree(top))
        add(
            "files",
            "P7",
            f"file system of {one['Name'].lstrip('/')}",
            [one.get("GraphDriver", {}).get("Data", {}).get("UpperDir", "/var/lib/docker")],
        )
        add("logs", "P8", f"Docker's log of {one['Name'].lstrip('/')}", glob.glob(f"{one.get('LogPath') or '/none'}*"))
    add(
        "logs",
        "P8",
        "journals",
        (path for top in ("/var/log/journal", "/run/log/journal") for path in tree(top) if os.path.isfile(path)),
    )
    add(
        "logs",
        "P8",
        "crashes",
        (path for top in ("/var/crash", "/var/lib/systemd/coredump") for path in tree(top) if os.path.isfile(path)),
    )
    for unit in names:
        for space in ("", "sovereign"):
            argv = [
                "journalctl",
                "--quiet",
                "--no-pager",
                "--output=cat",
                "--lines=1",
                f"--unit={unit}",
                *([f"--namespace={space}"] if space else []),
            ]
            found.append(
                {
                    "proto": "run",
                    "argv": argv,
                    "path": f"→ {' '.join(argv[-2:] if space else argv[-1:])} by journalctl",
                    "kind": "logs",
                    "rule": "P8",
                }
            )
    for one in running:
        argv = ["docker", "logs", "--tail", "1", one["Name"].lstrip("/")]
        found.append({"proto": "run", "argv": argv, "path": f"→ {' '.join(argv)}", "kind": "logs", "rule": "P8"})
    for path in ("/run/docker.sock", "/run/containerd/containerd.sock"):
        found.append({"proto": "unix", "file": path, "path": f"→ socket {path}", "kind": "files", "rule": "P7"})
    return found


def tree(top: str) -> list[str]:
    """Everything below a folder, itself included."""
    found = [top] if os.path.lexists(top) else []
    for folder, dirs, files in os.walk(top):
        found += [os.path.join(folder, name) for name in (*dirs, *files)]
        if len(found) > 4000:
            break
    return found


# ---- all of it


class Echo:
    """The audit's own ears: datagrams that reach the host or the namespace on a port that nobody may reach."""

    def __init__(self, machine: Machine, settings: Settings) -> None:
        self.machine, self.settings = machine, settings
        self.ears: list[Any] = []

    def __enter__(self) -> Echo:
        from .control import Listener

        door = {"proto": "udp", "address": "0.0.0.0", "port": ECHO_PORT}  # noqa: S104  # on every address, to hear what should not come
        self.ears = [Listener([door]), Listener([door], self.settings.namespace)]
        return self

    def __exit__(self, *_error: object) -> None:
        self.heard()

    def heard(self) -> list[str]:
        """Tokens that came; ends the listening."""
        tokens = [token for ear in self.ears for token in ear.close()]
        self.ears = []
        return tokens


def collect(
    machine: Machine,
    settings: Settings,
    running: Sequence[Mapping[str, Any]],
    parts: Sequence[str] | None = None,
    workers: int = 3,
) -> list[Row]:
    """Every attack. ``parts``: ``units``, ``containers``, ``users``, ``egress``, ``pull``, ``files`` (all of them
    without).
    """
    wanted = set(parts or ("units", "containers", "users", "egress", "pull", "files"))
    there = {
        one["Name"].lstrip("/"): address_of(one, settings)
        for one in running
        if one["State"].get("Pid") and address_of(one, settings)
    }
    places = addresses(machine, settings) if wanted & {"units", "containers", "users", "egress"} else []
    abstract, seen = listening(machine, abstract=True), listening(machine)
    query = next(iter(settings.providers()), "example.com")
    work: list[Place] = []
    rows: list[Row] = []
    if "units" in wanted:
        work += unit_places(machine)
    if "containers" in wanted:
        work += container_places(machine, running)
        if not running:
            why = "no engine's container runs; start a GPU mode and audit again"
            rows.append(Row("attack", "P1", "engine containers", "every way", "not tested", detail=why))
    for place in work:
        if place.kind == "down":
            rows.append(Row("attack", place.rule, place.source, "every way", "not tested", detail="it does not run"))
        elif place.kind == "twin":
            place.targets = as_it_is(seen)
        else:
            place.targets = [*network(places, settings, place, query), *inside_plane(settings, place, there)]
            if place.kind != "group":
                place.targets += local(machine, place, abstract, seen)
    if "users" in wanted:
        for name, argv in host_users(machine, "mushishi-sovereign-"):
            place = Place(
                f"user {name} on the host", "P4", argv, plane=False, user=name, link=settings.bridge, kind="user"
            )
            place.targets = [
                *network(places, settings, place, query),
                *({**one, "allowed": False, "rule": "P4"} for one in inside_plane(settings, place, there)),
            ]
            work.append(place)
    if "egress" in wanted:
        for prefix in ("mushishi-hybrid-", "mushishi-ingress-"):
            for name, argv in host_users(machine, prefix):
                place = Place(
                    f"user {name} on the host", "P10", argv, plane=False, user=name, link=settings.bridge, kind="user"
                )
                place.targets = beyond_policy(settings, places, network(places, settings, place, query), name)
                work.append(place)
    hybrid = [
        name for prefix in ("mushishi-hybrid-", "mushishi-ingress-") for name, _argv in host_users(machine, prefix)
    ]
    for name in [*hybrid, "nobody", "root", str(STRANGER)] if wanted & {"pull", "files"} else ():
        place = Place(f"user {name} on the host", "P2", as_user(name), plane=False, user=name, kind="pull")
        if "pull" in wanted and name != str(STRANGER):
            place.targets += pull_targets(machine, settings, name, there)
            if any(way["user"] == name and int(way["port"]) == settings.door_port for way in settings.plane_clients):
                place.targets += door_targets(settings)
        # Root reads everything, which the report says. Nobody is also who a container may run as: its number is no
        # stranger's.
        if "files" in wanted and name not in ("root", "nobody"):
            place.targets += file_targets(machine, settings, running)
        work.append(place)
    with Echo(machine, settings) as echo, ThreadPoolExecutor(workers) as pool:
        for found in pool.map(lambda place: attack(machine, place, place.targets), work):
            rows += found
        heard = echo.heard()
    for token in heard:
        source, _bar, address = token.partition("|")
        rows.append(
            Row("attack", "P3", source, f"→ {address} udp {ECHO_PORT}", "leaked", detail="the datagram was received")
        )
    return rows


def address_of(one: Mapping[str, Any], settings: Settings) -> str:
    """A container's address on the sovereign network."""
    about = one["NetworkSettings"]["Networks"].get(settings.network) or {}
    return str(about.get("IPAddress") or (about.get("IPAMConfig") or {}).get("IPv4Address") or "")
