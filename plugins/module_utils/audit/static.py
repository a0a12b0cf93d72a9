# SPDX-License-Identifier: MIT
"""Reads back what is in force: rules, namespaces, routes, units, processes, containers, files. It changes nothing."""

from __future__ import annotations

import glob
import hashlib
import ipaddress
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .facts import Machine, Process, Settings, containers, words
from .model import Row
from .ruleset import Ruleset, inside, plain, stops

#: Ports that are tried in thought beside those that the rules name: all others are alike to the rules.
IPV4 = re.compile(r"[0-9]+(\.[0-9]+){3}")
PORTS = (22, 443, 54321)
BEYOND = (
    ("127.0.0.1", 4),
    ("::1", 6),
    ("192.0.2.1", 4),
    ("2001:db8::1", 6),
    ("10.77.0.1", 4),
    ("169.254.169.254", 4),
    ("fe80::1", 6),
)
#: Words of an environment that lead a program elsewhere, and names of keys of the cloud.
PROXIES = re.compile(r"^(https?|all|ftp|socks|no)_proxy$", re.IGNORECASE)
CLOUD_NAMES = re.compile(
    r"(OPENAI|ANTHROPIC|GROQ|OPENROUTER|DEEPSEEK|NVIDIA_?NIM|MOONSHOT|GEMINI|GOOGLE|AZURE|AWS|MISTRAL|COHERE|TOGETHER|HUGGING_?FACE|HF|LANGFUSE|WANDB).*"
    r"(KEY|TOKEN|SECRET|CREDENTIAL)",
    re.IGNORECASE,
)
#: Socket files that act for others outside, beside those that listen on this machine.
SOCKETS = words(
    """
    /run/docker.sock /var/run/docker.sock /run/containerd/containerd.sock /run/dbus/system_bus_socket
    /run/systemd/private /run/systemd/resolve/io.systemd.Resolve /run/systemd/resolve/io.systemd.Resolve.Monitor
    /run/nscd/socket /run/avahi-daemon/socket /run/tailscale/tailscaled.sock /var/run/tailscale/tailscaled.sock
    /run/postgresql/.s.PGSQL.5432 /run/redis/redis-server.sock /run/podman/podman.sock /run/cups/cups.sock
    /run/snapd.socket /run/snapd-snap.socket /run/lxd.socket /run/libvirt/libvirt-sock
    /run/systemd/io.systemd.NamespaceResource /run/ssh-unix-local/socket /run/rpcbind.sock /run/acpid.socket
    """
)
#: Sockets that take a line or answer about this machine, and lead nowhere: the journal, PID 1's ear, users, host name.
INERT = re.compile(
    r"^/run/systemd/(journal(\.[a-z]+)?/(socket|stdout|dev-log|syslog)|notify|userdb/io\.systemd\.(DynamicUser|Multiplexer|DropIn)"
    r"|io\.systemd\.(sysext|ManagedOOM|Hostname|Credentials|BootControl|PCRExtend|PCRLock|Login|Machine|Network|Manager|Udev"
    r"|AskPassword|MuteConsole|JournalAccess))$"
)
#: Folders of the system that no container has a part of.
SYSTEM = words("/ /run /var/run /etc /var /root /home /var/lib /tmp /var/tmp")
BELOW = words("/proc /sys /dev /run/ /etc/ /var/lib/docker/ /root/")
PROPERTIES = ",".join(
    words(
        """
    ActiveState MainPID ControlGroup User NetworkNamespacePath NoNewPrivileges CapabilityBoundingSet
    AmbientCapabilities RestrictAddressFamilies IPAddressDeny IPAddressAllow BindsTo After LimitCORE ProtectSystem
    ProtectHome ProtectProc PrivateUsers PrivateTmp PrivateDevices PrivateIPC InaccessiblePaths BindReadOnlyPaths
    BindPaths ReadWritePaths Environment EnvironmentFiles SystemCallFilter SystemCallArchitectures
    RestrictNamespaces ExecStart ExecStartPre ExecStartPost ExecStopPost NeedDaemonReload FragmentPath DropInPaths
    SupplementaryGroups UMask LogNamespace Slice PassEnvironment MemoryDenyWriteExecute JoinsNamespaceOf
    """
    )
)


def row(rule: str, source: str, path: str, bad: str = "", detail: str = "") -> Row:
    """``holds``, or ``leaked`` with what is wrong."""
    return Row("static", rule, source, path, "leaked" if bad else "holds", detail=bad or detail)


def unread(rule: str, source: str, path: str, why: str) -> Row:
    """What could not be looked at."""
    return Row("static", rule, source, path, "not tested", detail=why)


def missing(wanted: Iterable[str], text: str) -> str:
    """Words that a property should hold and does not."""
    return " ".join(word for word in wanted if word not in text.split())


# ---- the guard


class Guard:
    """The guard's tables in both namespaces, judged packet by packet."""

    def __init__(
        self,
        settings: Settings,
        users: Mapping[str, int],
        rules: Mapping[str, Mapping[str, Any]],
        interfaces: Iterable[str] = (),
    ) -> None:
        self.settings, self.users = settings, users
        self._ports: dict[str, list[int]] = {}
        self._addresses: dict[str, list[str]] = {}
        self.sets = {name: Ruleset(listing, users) for name, listing in rules.items()}
        self.interfaces = sorted({"lo", "eth0", "docker0", settings.ingress_interface, *interfaces} - {settings.bridge})
        self.sovereign = {name: uid for name, uid in users.items() if name.startswith("mushishi-sovereign-")}

    def rows(self) -> list[Row]:
        """Everything."""
        found = [*self.shape("host"), *self.shape("plane")]
        if any(one.outcome == "leaked" for one in found):
            return found
        found += [
            *self.host_input(),
            *self.host_forward(),
            *self.host_output(),
            *self.sovereign_users(),
            *self.loopback(),
            *self.hybrid_users(),
        ]
        return [*found, *self.plane_output(), *self.plane_input(), *self.plane_forward(), *self.plane_alone()]

    def shape(self, where: str) -> list[Row]:
        """The table is there, hooked on all three ways before everybody else."""
        source, found = f"nft in the {where}'s namespace", []
        rules, table = self.sets.get(where), self.settings.table
        if rules is None or table not in rules.tables:
            return [row("P1", source, f"table {' '.join(table)}", "it is not loaded")]
        for hook in ("input", "forward", "output"):
            chains = rules.base(table, hook)
            first = min((int(chain["prio"]) for chain in chains), default=0)
            others = [
                f"{chain['table']} {chain['name']} at {chain['prio']}"
                for chain in rules.chains.values()
                if chain.get("hook") == hook
                and chain.get("type") == "filter"
                and int(chain["prio"]) <= first
                and (chain["family"], chain["table"]) != table
            ]
            bad = (
                "no chain on this hook" if not chains else f"priority {first}, not before others" if first > -10 else ""
            )
            if others and not bad and any("accept" not in other for other in others):
                # One that is earlier can only drop; its accept ends nothing. Said, not counted.
                found.append(row("P1", source, f"{hook}: chains before ours", detail=", ".join(others)))
            found.append(row("P1", source, f"{hook}: our chain is hooked at -10 or earlier", bad, f"priority {first}"))
        return found

    def ports(self, where: str) -> list[int]:
        """Ports that any rule names, and some that none does."""
        if where not in self._ports:
            named: set[int] = set()
            for word in self.sets[where].literals(self.settings.table, "dport"):
                named |= {int(end) for end in (word if isinstance(word, list) else [word]) if str(end).isdigit()}
            self._ports[where] = sorted(named | set(PORTS))
        return self._ports[where]

    def addresses(self, where: str) -> list[str]:
        """IPv4 addresses that any rule names, the plane's, and some that nobody has."""
        if where not in self._addresses:
            settings = self.settings
            named = {str(word) for word in self.sets[where].literals(settings.table, "daddr")}
            own = {settings.namespace_address, settings.host_address, str(ipaddress.ip_network(settings.lan)[77])}
            self._addresses[where] = sorted({*filter(IPV4.fullmatch, named), *own, *settings.engines()})
        return self._addresses[where]

    def packets(self, where: str, **fixed: Any) -> list[dict[str, Any]]:
        """One of each kind that the rules could tell apart: TCP and UDP by port, a ping, in the family of the address.
        """
        family = 6 if ":" in str(fixed.get("daddr", "")) else 4
        base = {"ct": "new", "family": family, "saddr": "198.51.100.200" if family == 4 else "2001:db8::200", **fixed}
        found = [
            {**base, "proto": proto, "dport": port, "sport": 40000}
            for proto in ("tcp", "udp")
            for port in self.ports(where)
        ]
        return [
            *found,
            {**base, "proto": "icmp" if family == 4 else "icmpv6"},
            {**base, "proto": "sctp", "dport": 9, "sport": 40000},
        ]

    def judged(
        self,
        rule: str,
        where: str,
        hook: str,
        path: str,
        packets: Iterable[dict[str, Any]],
        allowed: Callable[[dict[str, Any]], bool],
    ) -> list[Row]:
        """Each packet must be stopped unless it is allowed; what is open is told, at most five times."""
        source, total = f"nft in the {where}'s namespace", 0
        leaks: dict[str, str] = {}
        names = {uid: name for name, uid in self.users.items()}
        for packet in packets:
            total += 1
            outcomes = self.sets[where].outcomes(self.settings.table, hook, packet)
            if stops(outcomes) or allowed(packet):
                continue
            who = names.get(packet.get("uid", -1), packet.get("uid"))
            what = f"{packet['proto']} {packet.get('dport', '')}".strip()
            # One row for a rule, not for each packet that it lets on.
            leaks.setdefault(
                outcomes.get("accept", str(outcomes)),
                f"{who or packet.get('iif')} → {packet.get('daddr') or packet.get('oif')} {what}",
            )
        if not leaks:
            return [row(rule, source, path, detail=f"{total} kinds of packet judged")]
        return [row(rule, source, f"{path}: {what}", f"it is let on by: {by}") for by, what in list(leaks.items())[:5]]

    def host_input(self) -> list[Row]:
        """P3: nothing of the LAN opens anything on the host; the ingress answers on its own interface."""
        settings = self.settings
        beyond = [*BEYOND, (settings.host_address, 4)]
        here = [packet for address, _v in beyond for packet in self.packets("host", iif=settings.bridge, daddr=address)]
        found = self.judged("P3", "host", "input", "sovereign LAN → host", here, lambda _packet: False)
        other = [name for name in self.interfaces if name not in ("lo", settings.ingress_interface)]
        doors = [
            {
                "ct": "new",
                "family": family,
                "iif": name,
                "proto": "tcp",
                "dport": port,
                "saddr": address,
                "daddr": address,
            }
            for name in other
            for port in settings.ingress_ports
            for address, family in (("192.0.2.9", 4), ("2001:db8::9", 6))
        ]
        return found + self.judged(
            "P9", "host", "input", "elsewhere → ports of the ingress", doors, lambda _packet: False
        )

    def host_forward(self) -> list[Row]:
        """P1: nothing is routed out of the LAN or into it."""
        bridge = self.settings.bridge
        out = [
            packet
            for name in self.interfaces
            for address, _v in BEYOND
            for packet in self.packets("host", iif=bridge, oif=name, daddr=address)
        ]
        into = [
            packet
            for name in self.interfaces
            for address in self.addresses("host")
            for packet in self.packets("host", iif=name, oif=bridge, daddr=address)
        ]
        found = self.judged("P1", "host", "forward", "sovereign LAN → beyond", out, lambda _packet: False)
        return found + self.judged("P2", "host", "forward", "beyond → sovereign LAN", into, lambda _packet: False)

    def senders(self, where: str) -> list[int]:
        """Whose packets are tried: all that the rules name, every user of the product, root, nobody and a stranger."""
        words = [word for word in self.sets[where].literals(self.settings.table, "skuid") if not isinstance(word, list)]
        named = {self.users.get(str(word), int(word) if str(word).isdigit() else None) for word in words}
        ours = {uid for name, uid in self.users.items() if name.startswith("mushishi-")}
        others = {0, self.users.get("nobody", 65534), 54321}
        return sorted({uid for uid in named if uid is not None} | ours | others)

    def host_output(self) -> list[Row]:
        """P2: who on the host opens what of the LAN; and an address of the LAN is nowhere else."""
        settings = self.settings
        ways = {
            (self.users.get(str(way["user"])), str(way["address"]), int(way["port"])) for way in settings.plane_clients
        }
        packets = [
            packet
            for uid in self.senders("host")
            for address in [*self.addresses("host"), "ff02::1", str(ipaddress.ip_network(settings.lan)[-1])]
            for packet in self.packets("host", uid=uid, oif=settings.bridge, daddr=address, saddr=settings.host_address)
        ]
        found = self.judged(
            "P2",
            "host",
            "output",
            "host → sovereign LAN",
            packets,
            lambda packet: packet["proto"] == "tcp" and (packet["uid"], packet["daddr"], packet["dport"]) in ways,
        )
        lan = [address for address in self.addresses("host") if settings.on_lan(address)]
        astray = [
            packet
            for name in self.interfaces
            if name != "lo"
            for uid in (0, *(uid for uid, _a, _p in ways if uid is not None))
            for address in lan
            for packet in self.packets("host", uid=uid, oif=name, daddr=address)
        ]
        return found + self.judged(
            "P1", "host", "output", "an address of the LAN by another interface", astray, lambda _packet: False
        )

    def sovereign_users(self) -> list[Row]:
        """P4: no sovereign user has a network in the host's namespace."""
        found: list[Row] = []
        for name, uid in sorted(self.sovereign.items()):
            beyond = [*BEYOND, (self.settings.namespace_address, 4)]
            packets = [
                packet
                for way in (*self.interfaces, self.settings.bridge)
                for address, _v in beyond
                for packet in self.packets("host", uid=uid, oif=way, daddr=address)
            ]
            found += self.judged(
                "P4", "host", "output", f"{name} on the host → anywhere", packets, lambda _packet: False
            )
        return found or [row("P4", "passwd", "sovereign users", "there is none")]

    def loopback(self) -> list[Row]:
        """Services on loopback have named clients."""
        found: list[Row] = []
        for service in self.settings.loopback_services:
            named = {"root", *service["users"]}
            others = [uid for name, uid in self.users.items() if name.startswith("mushishi-") and name not in named] + [
                self.users.get("nobody", 65534)
            ]
            packets = [
                {
                    "ct": "new",
                    "family": 4,
                    "proto": "tcp",
                    "oif": "lo",
                    "saddr": address,
                    "daddr": address,
                    "dport": int(service["port"]),
                    "uid": uid,
                }
                for uid in others
                for address in ("127.0.0.1", "127.255.255.254")
            ]
            found += self.judged(
                "P10", "host", "output", f"{service['comment']} on loopback → others", packets, lambda _packet: False
            )
        return found

    def hybrid_users(self) -> list[Row]:
        """P10: a hybrid user opens what the policy names for it, and nothing else; without a policy for it nothing is
        asked.
        """
        settings, found = self.settings, []
        if not settings.hybrid_egress:
            return [
                unread(
                    "P10", "nft in the host's namespace", "egress of hybrid users", "the policy's hosts were not given"
                )
            ]
        own = {int(service["port"]): set(service["users"]) for service in settings.loopback_services}
        for name, uid in sorted(self.users.items()):
            if not name.startswith(("mushishi-hybrid-", "mushishi-ingress-")):
                continue
            packets = [
                packet
                for way in self.interfaces
                for address, _v in BEYOND
                for packet in self.packets("host", uid=uid, oif=way, daddr=address)
            ]
            found += self.judged(
                "P10",
                "host",
                "output",
                f"{name} → beyond what the policy names",
                packets,
                lambda packet, name=name: (
                    packet["proto"] == "tcp" and packet["daddr"] == "127.0.0.1" and name in own.get(packet["dport"], ())
                ),  # type: ignore[misc]  # mypy does not see the default's type
            )
        ports = {int(entry["port"]) for hosts in settings.hybrid_egress.values() for entry in hosts}
        elements = [
            plain(each)
            for key, listed in self.sets["host"].sets.items()
            if key[:2] == settings.table
            for each in listed
        ]
        pairs = [each["concat"] for each in elements if isinstance(each, dict) and "concat" in each]
        bad = [
            f"{address} {port}"
            for address, port in pairs
            if int(port) not in ports or settings.on_lan(str(address)) or inside(str(address), "127.0.0.0/8")
        ]
        return [
            *found,
            row(
                "P10",
                "nft in the host's namespace",
                f"addresses let on for the policy's hosts ({len(pairs)})",
                "; ".join(bad[:5]),
            ),
        ]

    def plane_output(self) -> list[Row]:
        """Inside the plane: the policy's flows, root's probes, and nothing else."""
        settings = self.settings
        flows = {
            (self.users.get(str(flow["user"])), str(flow["address"]), int(flow["port"]))
            for flow in settings.namespace_flows
        }
        doors = {int(way["port"]) for way in settings.plane_clients if way["address"] == settings.namespace_address}
        own = {(address, port) for _uid, address, port in flows} | {
            (settings.namespace_address, port) for port in doors
        }
        packets = [
            packet
            for uid in self.senders("plane")
            for address in [*self.addresses("plane"), *(address for address, _v in BEYOND)]
            for packet in self.packets(
                "plane",
                uid=uid,
                oif="lo" if address.startswith("127.") else "sov0",
                daddr=address,
                saddr=settings.namespace_address,
            )
        ]
        return self.judged(
            "P3",
            "plane",
            "output",
            "inside the plane → what the policy does not name",
            packets,
            lambda packet: (
                packet["proto"] == "tcp"
                and (
                    (packet["uid"], packet["daddr"], packet["dport"]) in flows
                    or (packet["uid"] == 0 and (packet["daddr"], packet["dport"]) in own)
                )
            ),
        )

    def plane_input(self) -> list[Row]:
        """Into the plane: from the host to what a client may open, and nothing from an engine."""
        settings = self.settings
        doors = {int(way["port"]) for way in settings.plane_clients if way["address"] == settings.namespace_address}
        callers = [settings.host_address, *settings.engines(), str(ipaddress.ip_network(settings.lan)[77]), "192.0.2.1"]
        packets = [
            packet
            for caller in callers
            for packet in self.packets("plane", iif="sov0", daddr=settings.namespace_address, saddr=caller)
        ]
        packets += self.packets("plane", iif="sov0", daddr="ff02::1")
        return self.judged(
            "P2",
            "plane",
            "input",
            "sovereign LAN → namespace",
            packets,
            lambda packet: (
                packet["proto"] == "tcp" and packet["saddr"] == settings.host_address and packet["dport"] in doors
            ),
        )

    def plane_forward(self) -> list[Row]:
        """The namespace routes nothing."""
        packets = [
            packet for address, _v in BEYOND for packet in self.packets("plane", iif="sov0", oif="sov0", daddr=address)
        ]
        return self.judged("P1", "plane", "forward", "through the namespace", packets, lambda _packet: False)

    def plane_alone(self) -> list[Row]:
        """No second table has a say inside, and none translates addresses."""
        others = [" ".join(table) for table in self.sets["plane"].tables if table != self.settings.table]
        return [row("P1", "nft in the plane's namespace", "no table but ours", ", ".join(others))]


def translations(machine: Machine, settings: Settings, listing: Mapping[str, Any] | None) -> list[Row]:
    """No address translation touches the LAN: in nft's own tables, and in both backends of iptables."""
    found: list[Row] = []
    for tool in ("iptables-nft-save", "iptables-legacy-save", "ip6tables-nft-save", "ip6tables-legacy-save"):
        status, text, _err = machine.done(tool, "-t", "nat")
        if status != 0:
            continue
        bad = [line for line in text.splitlines() if translated(line, settings)]
        found.append(row("P1", tool, "no address translation for the sovereign LAN", "; ".join(bad[:3])))
    users = machine.users()
    rules = Ruleset(listing or {}, users)
    hits = []
    for chain in rules.chains.values():
        if chain.get("type") != "nat":
            continue
        for hook, packet in (
            (
                "postrouting",
                {
                    "saddr": settings.namespace_address,
                    "daddr": "192.0.2.1",
                    "oif": "eth0",
                    "iif": settings.bridge,
                    "family": 4,
                    "proto": "tcp",
                    "dport": 443,
                },
            ),
            (
                "postrouting",
                {
                    "saddr": settings.namespace_address,
                    "daddr": "192.0.2.1",
                    "oif": "eth0",
                    "iif": settings.bridge,
                    "family": 4,
                    "proto": "udp",
                    "dport": 53,
                },
            ),
        ):
            if chain.get("hook") == hook:
                outcomes = rules.outcomes((chain["family"], chain["table"]), hook, packet)
                hits += [by for word, by in outcomes.items() if word in ("masquerade", "snat", "dnat", "redirect")]
    found.append(
        row(
            "P1",
            "nft in the host's namespace",
            "no address translation for the sovereign LAN",
            "; ".join(sorted(set(hits))[:3]),
        )
    )
    return found or [unread("P1", "iptables", "address translation", "no iptables on this machine")]


def translated(line: str, settings: Settings) -> bool:
    """Whether a rule of iptables translates addresses of the LAN, by its source, its target, or by naming nobody."""
    words = line.split()
    if "-j" not in words[:-1] or words[words.index("-j") + 1] not in (
        "MASQUERADE",
        "SNAT",
        "DNAT",
        "REDIRECT",
        "NETMAP",
    ):
        return False
    if any(settings.on_lan(word.partition(":")[0]) for word in words):
        return True
    lan = ipaddress.ip_network(settings.lan)
    for option in ("-s", "-d"):
        if option in words[:-1]:
            try:
                network = ipaddress.ip_network(words[words.index(option) + 1], strict=False)
            except ValueError:
                return True
            hit = network.version == lan.version and network.overlaps(lan)
            return hit != ("!" in words[max(0, words.index(option) - 1)])
    # A masquerade that names neither source nor mark would take the LAN's packets too.
    return (
        words[words.index("-j") + 1] in ("MASQUERADE", "SNAT")
        and not {"-m", "-i", "--mark"} & set(words)
        and ":" not in line.split("-j")[0].replace("::", "")
    )


# ---- the plane


def plane(machine: Machine, settings: Settings) -> list[Row]:
    """Routes, addresses, members and kernel settings of the bridge and the namespace."""
    found: list[Row] = []
    inner = machine.inside(settings.namespace, "ip", "-j")
    if not os.path.exists(f"/run/netns/{settings.namespace}"):
        return [unread("P1", "namespace", settings.namespace, "it does not exist: the plane is down")]
    found += routes(
        "namespace sovereign",
        settings,
        machine.json(*inner, "-4", "route", "show", "table", "all"),
        machine.json(*inner, "-6", "route", "show", "table", "all"),
    )
    links = machine.json(*inner, "link") or []
    names = sorted(link["ifname"] for link in links)
    found.append(
        row(
            "P1",
            "namespace sovereign",
            "interfaces",
            "" if set(names) <= {"lo", "sov0"} else f"also {names}",
            " ".join(names),
        )
    )
    rules = [
        entry for entry in machine.json(*inner, "rule") or [] if entry.get("table") not in ("local", "main", "default")
    ]
    found.append(row("P1", "namespace sovereign", "routing rules", json.dumps(rules) if rules else ""))
    for key, wanted in (
        ("net.ipv6.conf.all.disable_ipv6", "1"),
        ("net.ipv6.conf.default.disable_ipv6", "1"),
        ("net.ipv4.ip_forward", "0"),
        ("net.ipv4.conf.all.accept_redirects", "0"),
        ("net.ipv4.conf.all.send_redirects", "0"),
        ("net.ipv4.ip_unprivileged_port_start", "1024"),
    ):
        found.append(
            kernel(
                "P5",
                "namespace sovereign",
                key,
                wanted,
                machine.run(*machine.inside(settings.namespace, "sysctl", "-n", key)).strip(),
            )
        )
    for key, wanted in (
        (f"net.ipv6.conf.{settings.bridge}.disable_ipv6", "1"),
        (f"net.ipv4.conf.{settings.bridge}.proxy_arp", "0"),
        (f"net.ipv4.conf.{settings.bridge}.route_localnet", "0"),
        ("net.ipv4.conf.all.route_localnet", "0"),
    ):
        found.append(kernel("P5", "host", key, wanted, machine.text("/proc/sys/" + key.replace(".", "/")).strip()))
    shown = (machine.json("ip", "-j", "address", "show", "dev", settings.bridge) or [{}])[0]
    addresses = [f"{entry['local']}/{entry['prefixlen']}" for entry in shown.get("addr_info", [])]
    wanted_address = f"{settings.host_address}/{ipaddress.ip_network(settings.lan).prefixlen}"
    found.append(
        row(
            "P5",
            settings.bridge,
            "addresses of the host on it",
            "" if addresses == [wanted_address] else f"{addresses}, expected {wanted_address}",
        )
    )
    found += connections(machine, settings)
    return found


def kernel(rule: str, source: str, key: str, wanted: str, value: str) -> Row:
    """One kernel setting."""
    if not value:
        return unread(rule, source, key, "the kernel has no such setting")
    return row(rule, source, f"{key} = {wanted}", "" if value == wanted else f"it is {value}", value)


def routes(source: str, settings: Settings, four: Any, six: Any) -> list[Row]:
    """One connected route, no default route; nothing of IPv6 but loopback."""
    beyond = [entry for entry in four or [] if not local_route(entry, settings)]
    beyond_six = [
        entry
        for entry in six or []
        if entry.get("dev") != "lo" and entry.get("type") not in ("unreachable", "blackhole", "prohibit")
    ]
    return [
        row(
            "P1",
            source,
            "IPv4: no route but the LAN's own",
            "; ".join(f"{entry.get('dst')} via {entry.get('gateway', entry.get('dev'))}" for entry in beyond[:4]),
        ),
        row(
            "P1",
            source,
            "IPv6: no route",
            "; ".join(f"{entry.get('dst')} dev {entry.get('dev')}" for entry in beyond_six[:4]),
        ),
    ]


def local_route(entry: Mapping[str, Any], settings: Settings) -> bool:
    """Whether an IPv4 route stays on the LAN or in the namespace."""
    if entry.get("type") in ("unreachable", "blackhole", "prohibit"):
        return True
    if entry.get("gateway") or entry.get("via") or entry.get("nexthops") or entry.get("dst") == "default":
        return False
    try:
        network = ipaddress.IPv4Network(str(entry.get("dst")))
    except ValueError:
        return False
    return any(network.subnet_of(ipaddress.IPv4Network(wide)) for wide in ("127.0.0.0/8", settings.lan))


def connections(machine: Machine, settings: Settings) -> list[Row]:
    """No connection of the namespace has its other end beyond the LAN."""
    bad = []
    for line in machine.run(*machine.inside(settings.namespace, "ss", "-Hntu", "state", "connected")).splitlines():
        words = line.split()
        peer = words[-1] if words else ""
        address = peer.rpartition(":")[0].strip("[]").partition("%")[0]
        if address and address not in ("*", "::1") and not narrow(address, settings):
            bad.append(peer)
    return [row("P1", "namespace sovereign", "open connections stay on the LAN", " ".join(bad[:5]))]


def members(machine: Machine, settings: Settings, running: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Only registered veths are on the bridge: the namespace's, and one for each container of the network."""
    links = machine.json("ip", "-j", "link", "show", "master", settings.bridge) or []
    known: set[int] = set()
    for one in running:
        if one["State"]["Pid"]:
            inner = machine.json("nsenter", f"--target={one['State']['Pid']}", "--net", "ip", "-j", "link") or []
            known |= {int(link["link_index"]) for link in inner if "link_index" in link}
    strangers = [
        link["ifname"] for link in links if link["ifname"] != "sov0-host" and int(link["ifindex"]) not in known
    ]
    return [row("P5", settings.bridge, f"registered members alone ({len(links)})", " ".join(strangers))]


# ---- units and processes


def units(machine: Machine, settings: Settings) -> list[Row]:
    """What is in force for each sovereign unit, and for the processes in it."""
    names = machine.units("mushishi-sovereign-*")
    if not names:
        return [row("P1", "systemd", "sovereign units", "there is none")]
    found: list[Row] = []
    shown = machine.properties(names, PROPERTIES)
    keys = cloud_keys(settings)
    try:
        inode = os.stat(f"/run/netns/{settings.namespace}").st_ino
    except OSError:
        inode = 0
    for name in names:
        found += unit(
            f"unit {name.removesuffix('.service') if hasattr(name, 'removesuffix') else name}",
            shown.get(name, {}),
            settings,
        )
        source = "unit " + name[: -len(".service")]
        if shown.get(name, {}).get("ActiveState") != "active":
            found.append(
                unread("P1", source, "its processes", f"it is {shown.get(name, {}).get('ActiveState', 'gone')}")
            )
            continue
        for pid in group(shown[name].get("ControlGroup", "")):
            found += process(source, pid, shown[name], inode, keys, machine)
    found += slices(machine)
    return [*found, *foundations(machine)]


def unit(source: str, have: Mapping[str, str], settings: Settings) -> list[Row]:
    """Properties of one unit as systemd has them loaded."""
    exact = {
        "NetworkNamespacePath": f"/run/netns/{settings.namespace}",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "AmbientCapabilities": "",
        "LimitCORE": "0",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "ProtectProc": "invisible",
        "PrivateUsers": "yes",
        "PrivateTmp": "yes",
        "PrivateDevices": "yes",
        "PrivateIPC": "yes",
        "NeedDaemonReload": "no",
        "SystemCallArchitectures": "native",
        "UMask": "0077",
        "SupplementaryGroups": "",
        "MemoryDenyWriteExecute": "yes",
        "JoinsNamespaceOf": "",
        "PassEnvironment": "",
        "EnvironmentFiles": "",
        "LogNamespace": "sovereign",
        "Slice": "sovereign.slice",
    }
    rules = {
        "NetworkNamespacePath": "P1",
        "Slice": "P1",
        "LimitCORE": "P8",
        "LogNamespace": "P8",
        "UMask": "P7",
        "SupplementaryGroups": "P7",
    }
    found = [
        row(
            rules.get(key, "P3"),
            source,
            f"{key}={wanted}",
            "" if have.get(key, "") == wanted else f"it is {have.get(key, '')!r}",
        )
        for key, wanted in exact.items()
    ]
    user = have.get("User", "")
    found.append(
        row("P4", source, "User of its own", "" if user.startswith("mushishi-sovereign-") else f"it is {user!r}", user)
    )
    families = have.get("RestrictAddressFamilies", "").split()
    found.append(
        row(
            "P3",
            source,
            "RestrictAddressFamilies: AF_INET alone",
            "" if families == ["AF_INET"] else f"it is {families}",
        )
    )
    found.append(
        row(
            "P1",
            source,
            "IPAddressDeny=any",
            "lacks " + lacks if (lacks := missing(("0.0.0.0/0", "::/0"), have.get("IPAddressDeny", ""))) else "",
        )
    )
    wide = [word for word in have.get("IPAddressAllow", "").split() if not narrow(word, settings)]
    found.append(row("P1", source, "IPAddressAllow: the LAN and loopback alone", " ".join(wide)))
    for key in ("BindsTo", "After"):
        found.append(
            row(
                "P1",
                source,
                f"{key}=mushishi-plane.service",
                "it does not" if missing(["mushishi-plane.service"], have.get(key, "")) else "",
            )
        )
    hidden = {word.lstrip("-+") for word in have.get("InaccessiblePaths", "").split()}
    gone = [
        path
        for path in (
            settings.secrets,
            "/run/docker.sock",
            "/run/docker",
            "/run/containerd",
            "/run/dbus",
            "/run/tailscale",
            "/run/nscd",
            "/run/avahi-daemon",
            "/run/systemd/resolve",
            "/run/systemd/private",
            "/var/lib/docker",
        )
        if path not in hidden
    ]
    found.append(row("P3", source, "InaccessiblePaths: what acts outside", " ".join(gone)))
    bound = have.get("BindReadOnlyPaths", "")
    names = [
        path
        for path in ("/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/hosts")
        if f":{path}:" not in f"{bound} ".replace(" ", ": ")
    ]
    found.append(row("P3", source, "names come from the plane's own files", " ".join(names)))
    found.append(row("P3", source, "BindPaths: none", have.get("BindPaths", "")))
    calls = have.get("SystemCallFilter", "")
    open_calls = [
        word for word in ("mount", "bpf", "ptrace", "kexec_load", "init_module", "pivot_root") if word in calls.split()
    ]
    found.append(
        row(
            "P3",
            source,
            "SystemCallFilter",
            "there is none" if not calls else "inverted" if calls.startswith("~") else " ".join(open_calls),
        )
    )
    found.append(
        row(
            "P3",
            source,
            "RestrictNamespaces=yes",
            "" if have.get("RestrictNamespaces") == "yes" else f"it is {have.get('RestrictNamespaces')!r}",
        )
    )
    commands = " ".join(have.get(key, "") for key in ("ExecStart", "ExecStartPre", "ExecStartPost", "ExecStopPost"))
    raised = [word for word in re.findall(r"path=(\S+)", commands) if not word.startswith("/")]
    found.append(row("P3", source, "no command with the rights of root", " ".join(raised)))
    found.append(
        environment(
            source,
            "its Environment=",
            dict(word.split("=", 1) for word in have.get("Environment", "").split() if "=" in word),
            {},
        )
    )
    return found


def narrow(word: str, settings: Settings) -> bool:
    """Whether a network of IPAddressAllow= is loopback or of the LAN."""
    try:
        network = ipaddress.IPv4Network(word, strict=False)
    except ValueError:
        return word in ("::1", "::1/128")
    return any(network.subnet_of(ipaddress.IPv4Network(wide)) for wide in ("127.0.0.0/8", settings.lan))


def group(path: str) -> list[int]:
    """Processes of a control group and of those below it."""
    found: list[int] = []
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        for folder, _dirs, files in os.walk(root + path) if path else ():
            if "cgroup.procs" in files:
                try:
                    with open(f"{folder}/cgroup.procs", encoding="ascii") as stream:
                        found += [int(word) for word in stream.read().split()]
                except OSError:
                    continue
        if found:
            break
    return found


def process(
    source: str, pid: int, have: Mapping[str, str], inode: int, keys: Mapping[str, str], machine: Machine
) -> list[Row]:
    """One process of a unit: namespace, user, rights, filter, environment, credentials, and what it sees of names and
    sockets.
    """
    alive = Process.read(pid)
    if alive is None:
        return []
    source, status = f"{source}, process {alive.status.get('Name', pid)}", alive.status
    try:
        net = os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return []
    caps = [name for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") if int(status.get(name, "0"), 16)]
    users = set(status.get("Uid", "").split())
    expected = str(machine.users().get(have.get("User", ""), -1))
    limits = machine.text(f"/proc/{pid}/limits")
    core = re.search(r"^Max core file size\s+(\S+)\s+(\S+)", limits, re.MULTILINE)
    found = [
        row("P1", source, "it is in the sovereign namespace", "" if inode and net == inode else "it is in another"),
        row(
            "P4",
            source,
            "it runs as its unit's user alone",
            "" if users == {expected} else f"users {sorted(users)}, expected {expected}",
        ),
        row("P3", source, "no capability", " ".join(caps)),
        row("P3", source, "no new privileges", "" if status.get("NoNewPrivs") == "1" else "it may gain some"),
        row(
            "P3",
            source,
            "system calls are filtered",
            "" if status.get("Seccomp") == "2" else f"seccomp mode {status.get('Seccomp')}",
        ),
        row("P8", source, "no core dump", "" if core and set(core.groups()) == {"0"} else "its limit is not 0"),
        environment(source, "its environment", alive.environment(), keys),
        row("P3", source, "its credentials", "; ".join(credentials(alive, keys))),
        *names(source, pid, machine),
    ]
    seen = []
    for path in {*SOCKETS, *listening(machine)}:
        try:
            about = os.lstat(f"/proc/{pid}/root{path}")
        except OSError:
            continue
        if (
            stat.S_ISSOCK(about.st_mode)
            and stat.S_IMODE(about.st_mode) & 0o222
            and not INERT.match(path)
            and reachable(pid, path, alive.uid)
        ):
            seen.append(path)
    found.append(row("P3", source, "no socket file that leads out is in sight", " ".join(sorted(seen))))
    return found


def reachable(pid: int, path: str, uid: int) -> bool:
    """Whether a user that owns nothing and is in no group gets through the folders to a file, and may write it."""
    parts = path.split("/")
    for end in range(2, len(parts)):
        try:
            about = os.stat(f"/proc/{pid}/root{'/'.join(parts[:end])}")
        except OSError:
            return False
        if about.st_uid != uid and not about.st_mode & 0o001:
            return False
    about = os.lstat(f"/proc/{pid}/root{path}")
    return bool(about.st_mode & (0o200 if about.st_uid == uid else 0o002))


def listening(machine: Machine, abstract: bool = False) -> list[str]:
    """Socket files (or abstract names) that somebody on the host listens at."""
    found = set()
    for line in machine.text("/proc/1/net/unix").splitlines()[1:]:
        words = line.split(None, 7)
        # Flags 00010000: it accepts connections.
        if len(words) == 8 and words[3] == "00010000" and words[7].startswith("@" if abstract else "/"):
            found.add(words[7])
    return sorted(found)


def environment(source: str, path: str, given: Mapping[str, str], keys: Mapping[str, str]) -> Row:
    """No proxy, no name of a key of the cloud, no value of one."""
    bad = [name for name, value in given.items() if (PROXIES.match(name) and value) or CLOUD_NAMES.search(name)]
    bad += [f"{name} holds the key {keys[hashed(value)]}" for name, value in given.items() if hashed(value) in keys]
    return row("P3", source, f"{path}: no proxy, no key of the cloud", " ".join(sorted(bad)))


def hashed(value: str) -> str:
    """To compare keys without having them."""
    return hashlib.sha256(value.strip().encode()).hexdigest()


def cloud_keys(settings: Settings) -> dict[str, str]:
    """Hash → name of each cloud key of the machine."""
    found = {}
    for path in glob.glob(f"{settings.secrets}/cloud/*.key"):
        try:
            with open(path, encoding="utf-8") as stream:
                found[hashed(stream.read())] = os.path.basename(path)
        except OSError:
            continue
    return found


def credentials(alive: Process, keys: Mapping[str, str]) -> list[str]:
    """Credentials that are, hold or are named like a key of the cloud."""
    folder = alive.environment().get("CREDENTIALS_DIRECTORY", "")
    bad = []
    for path in glob.glob(f"/proc/{alive.pid}/root{folder}/*") if folder else ():
        name = os.path.basename(path)
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                text = stream.read()
        except OSError:
            continue
        words = {hashed(text), *(hashed(word) for word in re.split(r"[\s\"',:=]+", text) if len(word) > 7)}
        if name.startswith("cloud") or words & set(keys):
            bad.append(f"{name} is {keys.get(next(iter(words & set(keys)), ''), 'named like a key of the cloud')}")
    return bad


def names(source: str, pid: int, machine: Machine) -> list[Row]:
    """Names come from a file that knows only this machine."""
    resolvers = re.findall(r"^\s*nameserver\s+(\S+)", machine.text(f"/proc/{pid}/root/etc/resolv.conf"), re.MULTILINE)
    switch = re.search(r"^\s*hosts:\s*(.*?)\s*$", machine.text(f"/proc/{pid}/root/etc/nsswitch.conf"), re.MULTILINE)
    lines = [
        line.split()
        for line in machine.text(f"/proc/{pid}/root/etc/hosts").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    known = [
        " ".join(words)
        for words in lines
        if not (inside(words[0], "127.0.0.0/8") or words[0] == "::1" or inside(words[0], "10.88.0.0/24"))
    ]
    return [
        row("P3", source, "/etc/resolv.conf names no server", " ".join(resolvers)),
        row(
            "P3",
            source,
            "/etc/nsswitch.conf: hosts from files alone",
            "" if switch and switch[1] == "files" else f"hosts: {switch[1] if switch else ''}",
        ),
        row("P3", source, "/etc/hosts knows this machine alone", "; ".join(known[:3])),
    ]


def slices(machine: Machine) -> list[Row]:
    """The slices that hold the plane's units and containers have a filter of addresses of their own."""
    found: list[Row] = []
    for name in ("sovereign.slice", "sovereign-engines.slice"):
        have = machine.properties([name], "IPAddressDeny,IPAddressAllow,ActiveState").get(name, {})
        if have.get("ActiveState") != "active":
            found.append(unread("P1", name, "IPAddressDeny=any", f"it is {have.get('ActiveState', 'gone')}"))
            continue
        # A slice inside another has its filter too.
        if name == "sovereign.slice":
            lacks = missing(("0.0.0.0/0", "::/0"), have.get("IPAddressDeny", ""))
            found.append(row("P1", name, "IPAddressDeny=any", lacks))
        wide = [word for word in have.get("IPAddressAllow", "").split() if not narrow(word, Settings())]
        found.append(row("P1", name, "IPAddressAllow: the LAN and loopback alone", " ".join(wide)))
    return found


def foundations(machine: Machine) -> list[Row]:
    """No guard, no plane, no Docker: asserted as what systemd has loaded."""
    shown = machine.properties(
        ["mushishi-guard.service", "mushishi-plane.service", "docker.service"],
        "ActiveState,BindsTo,Requires,After,Before,NeedDaemonReload",
    )
    guard, plane_unit, docker = (
        shown.get(f"{name}.service", {}) for name in ("mushishi-guard", "mushishi-plane", "docker")
    )
    return [
        row(
            "P1",
            "unit mushishi-guard",
            "it is loaded before every ordinary unit, the network and Docker",
            missing(["sysinit.target", "network-pre.target", "docker.service"], guard.get("Before", "")),
        ),
        row(
            "P1",
            "unit mushishi-guard",
            "active",
            "" if guard.get("ActiveState") == "active" else f"it is {guard.get('ActiveState')}",
        ),
        row(
            "P1",
            "unit mushishi-plane",
            "no guard, no bridge",
            missing(["mushishi-guard.service"], plane_unit.get("BindsTo", "")),
        ),
        row(
            "P1",
            "unit docker",
            "no guard, no containers",
            missing(["mushishi-guard.service", "mushishi-plane.service"], docker.get("Requires", "")),
        ),
        row(
            "P1",
            "unit docker",
            "after guard and plane",
            missing(["mushishi-guard.service", "mushishi-plane.service"], docker.get("After", "")),
        ),
    ]


# ---- containers


def container_rows(machine: Machine, settings: Settings, running: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Each container of the plane: one network, no right, no socket, no way to be more; and the network itself."""
    found: list[Row] = []
    shown = machine.json("docker", "network", "inspect", settings.network) or [{}]
    found.append(
        row("P1", f"Docker network {settings.network}", "internal", "" if shown[0].get("Internal") else "it is not")
    )
    bridge = shown[0].get("Options", {}).get("com.docker.network.bridge.name")
    found.append(
        row(
            "P5",
            f"Docker network {settings.network}",
            f"its bridge is {settings.bridge}",
            "" if bridge == settings.bridge else f"it is {bridge}",
        )
    )
    found.append(
        row("P5", f"Docker network {settings.network}", "no IPv6", "it has IPv6" if shown[0].get("EnableIPv6") else "")
    )
    keys = cloud_keys(settings)
    for one in running:
        found += container(machine, settings, one, keys)
    return found


def container(machine: Machine, settings: Settings, one: Mapping[str, Any], keys: Mapping[str, str]) -> list[Row]:
    """One container, as Docker has it and as the kernel has its first process."""
    source, host, config = f"container {one['Name'].lstrip('/')}", one["HostConfig"], one["Config"]
    networks = sorted(one["NetworkSettings"]["Networks"])
    bad_mounts = [mount["Source"] for mount in one["Mounts"] if not harmless_mount(mount)]
    options = " ".join(host.get("SecurityOpt") or [])
    servers = [server for server in host.get("Dns") or [] if not inside(server, "127.0.0.0/8")]
    found = [
        row(
            "P5",
            source,
            "one network, the plane's",
            "" if networks == [settings.network] else " ".join(networks) or "none",
        ),
        row(
            "P5",
            source,
            "every capability dropped",
            ""
            if host.get("CapDrop") == ["ALL"] and not host.get("CapAdd")
            else f"dropped {host.get('CapDrop')}, added {host.get('CapAdd')}",
        ),
        row("P5", source, "not privileged", "it is" if host.get("Privileged") else ""),
        row(
            "P5",
            source,
            "no namespace of the host",
            " ".join(
                f"{key}={host[key]}"
                for key in ("NetworkMode", "IpcMode", "PidMode", "UTSMode", "UsernsMode", "CgroupnsMode")
                if str(host.get(key, "")).startswith(("host", "container"))
            ),
        ),
        row("P5", source, "a file system that cannot be written", "" if host.get("ReadonlyRootfs") else "it can"),
        row(
            "P5",
            source,
            "no-new-privileges, filtered calls",
            "" if "no-new-privileges" in options and "unconfined" not in options else options or "none",
        ),
        row("P3", source, "no socket and no system folder mounted", " ".join(bad_mounts)),
        row(
            "P2", source, "no published port", json.dumps(host.get("PortBindings")) if host.get("PortBindings") else ""
        ),
        row("P3", source, "names resolve nowhere", " ".join([*servers, *(host.get("ExtraHosts") or [])])),
        row(
            "P5",
            source,
            "started by nobody but Docker and the mode",
            ""
            if host.get("RestartPolicy", {}).get("Name") in ("no", "", "unless-stopped")
            else str(host.get("RestartPolicy")),
        ),
        row(
            "P5",
            source,
            "its image by digest",
            "" if str(one.get("Image", "")).startswith("sha256:") else str(one.get("Image")),
            str(one.get("Image", ""))[:19],
        ),
        row(
            "P8",
            source,
            "no core dump",
            ""
            if any(limit["Name"] == "core" and limit["Hard"] == 0 for limit in host.get("Ulimits") or [])
            else "its limit is not 0",
        ),
        environment(
            source, "its environment", dict(word.split("=", 1) for word in config.get("Env") or [] if "=" in word), keys
        ),
        row(
            "P1",
            source,
            "in the plane's slice",
            ""
            if str(host.get("CgroupParent", "")).startswith("sovereign")
            else f"it is in {host.get('CgroupParent') or 'Docker'}",
        ),
        row(
            "P8",
            source,
            "its log stays on this machine",
            ""
            if host.get("LogConfig", {}).get("Type") in ("json-file", "local", "none")
            else str(host.get("LogConfig")),
        ),
        row(
            "P5",
            source,
            "no device but a graphics card's",
            " ".join(
                d.get("PathOnHost", "") for d in host.get("Devices") or [] if "nvidia" not in d.get("PathOnHost", "")
            ),
        ),
    ]
    found += composed(machine, source, config.get("Labels") or {})
    pid = int(one["State"].get("Pid") or 0)
    if not pid:
        return [*found, unread("P1", source, "its first process", "it does not run")]
    inner = ("nsenter", f"--target={pid}", "--net", "ip", "-j")
    found += routes(
        source,
        settings,
        machine.json(*inner, "-4", "route", "show", "table", "all"),
        machine.json(*inner, "-6", "route", "show", "table", "all"),
    )
    links = [
        link["ifname"]
        for link in machine.json(*inner, "link") or []
        if link["ifname"] != "lo" and "tunl" not in link["ifname"]
    ]
    found.append(row("P5", source, "one interface", "" if len(links) <= 1 else " ".join(links)))
    flag = machine.run("nsenter", f"--target={pid}", "--net", "cat", "/proc/sys/net/ipv6/conf/all/disable_ipv6").strip()
    found.append(kernel("P5", source, "net.ipv6.conf.all.disable_ipv6", "1", flag))
    for each in group(cgroup_of(pid, machine)) or [pid]:
        alive = Process.read(each)
        if alive is None:
            continue
        inside_it = f"{source}, process {alive.status.get('Name', each)}"
        caps = [
            name for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") if int(alive.status.get(name, "0"), 16)
        ]
        found.append(row("P5", inside_it, "no capability", " ".join(caps)))
        found.append(
            row(
                "P5",
                inside_it,
                "no new privileges, filtered calls",
                "" if alive.status.get("NoNewPrivs") == "1" and alive.status.get("Seccomp") == "2" else "they are not",
            )
        )
        found.append(environment(inside_it, "its environment", alive.environment(), keys))
    return found


def cgroup_of(pid: int, machine: Machine) -> str:
    """Path of a process's control group."""
    return next((line[3:] for line in machine.text(f"/proc/{pid}/cgroup").splitlines() if line.startswith("0::")), "")


def harmless_mount(mount: Mapping[str, Any]) -> bool:
    """A mount that is no socket, no device tree and no folder of the system."""
    path = os.path.realpath(str(mount.get("Source", "")))
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except OSError:
        return True
    return path not in SYSTEM and not path.startswith(BELOW)


def composed(machine: Machine, source: str, labels: Mapping[str, str]) -> list[Row]:
    """The container is what its compose file says; else the next start runs something that nobody looked at."""
    file, service = (
        labels.get("com.docker.compose.project.config_files", ""),
        labels.get("com.docker.compose.service", ""),
    )
    if not file:
        return [row("P5", source, "it was made by a compose file", "by hand")]
    said = machine.run("docker", "compose", "--file", file, "config", "--hash", service).split()
    if len(said) < 2:
        return [row("P5", source, f"made from {file} as it is", "the file cannot be read")]
    return [
        row(
            "P5",
            source,
            f"made from {file} as it is",
            "" if said[1] == labels.get("com.docker.compose.config-hash") else "the file is another",
        )
    ]


# ---- users, files, the rest


def users(machine: Machine, settings: Settings) -> list[Row]:
    """P4: a sovereign user has no login, no timer, no cron, no process outside the namespace."""
    found: list[Row] = []
    try:
        inode = os.stat(f"/run/netns/{settings.namespace}").st_ino
    except OSError:
        inode = 0
    everybody = {name: uid for name, uid in machine.users().items() if name.startswith("mushishi-sovereign-")}
    shells = {
        line.split(":")[0]: line.rstrip().split(":")[6]
        for line in machine.text("/etc/passwd").splitlines()
        if line.count(":") == 6
    }
    shadow = {
        line.split(":")[0]: line.split(":")[1] for line in machine.text("/etc/shadow").splitlines() if ":" in line
    }
    outside: dict[int, list[str]] = {}
    strangers = []
    for pid in machine.processes():
        alive = Process.read(pid)
        if alive is None:
            continue
        try:
            here = os.stat(f"/proc/{pid}/ns/net").st_ino == inode
        except OSError:
            continue
        if alive.uid in everybody.values() and not here:
            outside.setdefault(alive.uid, []).append(f"{alive.status.get('Name')} ({pid})")
        # Root's own look from the host (ip netns exec) is no member.
        if here and alive.uid not in (*everybody.values(), 0):
            strangers.append(f"{alive.status.get('Name')} ({pid}) of {alive.uid}")
    jobs = cron_lines(machine)
    for name, uid in sorted(everybody.items()):
        source = f"user {name}"
        groups = [
            line.split(":")[0]
            for line in machine.text("/etc/group").splitlines()
            if line.count(":") == 3 and name in line.rstrip().split(":")[3].split(",")
        ]
        spool = [
            path
            for path in (
                f"/var/spool/cron/crontabs/{name}",
                f"/var/spool/cron/{name}",
                f"/var/lib/systemd/linger/{name}",
            )
            if os.path.exists(path)
        ]
        spool += [path for path in glob.glob("/var/spool/cron/atjobs/*") if os.stat(path).st_uid == uid]
        found += [
            row(
                "P4",
                source,
                "no shell, no password",
                ""
                if shells.get(name, "").endswith(("nologin", "/false")) and shadow.get(name, "!")[:1] in "!*"
                else f"{shells.get(name)}",
            ),
            row("P4", source, "no further group", " ".join(groups)),
            row(
                "P4",
                source,
                "no linger, no cron, no at",
                "; ".join([*spool, *(line for line in jobs if re.search(rf"\b{re.escape(name)}\b", line))]),
            ),
            row("P4", source, "no process outside the namespace", " ".join(outside.get(uid, []))),
        ]
    found.append(row("P4", "namespace sovereign", "no process of another user", " ".join(strangers[:5])))
    names_of = set(everybody) | {str(uid) for uid in everybody.values()}
    services = [
        line.split()[0]
        for line in machine.run("systemctl", "list-unit-files", "--plain", "--no-legend", "--type=service").splitlines()
        if line.strip()
    ]
    services += [
        line.split()[0]
        for line in machine.run(
            "systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=service"
        ).splitlines()
        if line.strip()
    ]
    services = sorted({name for name in services if not name.endswith("@.service") and "-audit-" not in name})
    shown = machine.properties(services, "User,NetworkNamespacePath")
    stray = [
        name
        for name, have in shown.items()
        if have.get("User") in names_of and have.get("NetworkNamespacePath") != f"/run/netns/{settings.namespace}"
    ]
    found.append(row("P4", "systemd", "no unit runs a sovereign user on the host", " ".join(sorted(stray))))
    return found


def cron_lines(machine: Machine) -> list[str]:
    """Lines of the system's crontabs."""
    return [
        f"{path}: {line.strip()}"
        for path in ["/etc/crontab", *glob.glob("/etc/cron.d/*")]
        for line in machine.text(path).splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]


def files(machine: Machine, settings: Settings) -> list[Row]:
    """P7: secrets are root's alone, T1 trees their user's alone, and nobody writes what root runs."""
    bad = []
    total = 0
    for folder, dirs, names_in in os.walk(settings.secrets):
        for path in [
            folder,
            *(
                os.path.join(folder, name)
                for name in (*names_in, *(d for d in dirs if os.path.islink(os.path.join(folder, d))))
            ),
        ]:
            about = os.lstat(path)
            total += 1
            if (
                about.st_uid != 0
                or stat.S_IMODE(about.st_mode) & 0o077
                or not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode))
            ):
                bad.append(f"{path} {stat.filemode(about.st_mode)} {about.st_uid}")
    found = [
        row("P7", settings.secrets, f"root's alone ({total} entries)", "; ".join(bad[:5]) if total else "there is none")
    ]
    for tree in t1_trees(machine, settings):
        try:
            about = os.stat(tree)
        except OSError:
            continue
        found.append(
            row(
                "P7",
                tree,
                "its user's alone",
                f"mode {stat.S_IMODE(about.st_mode):o}" if stat.S_IMODE(about.st_mode) & 0o077 else "",
            )
        )
    for root in ("/etc/mushishi", "/opt/mushishi", "/etc/systemd/system", "/etc/docker"):
        loose, count = [], 0
        for folder, dirs, names_in in os.walk(root):
            for path in [folder, *(os.path.join(folder, name) for name in names_in)]:
                about = os.lstat(path)
                count += 1
                # uv's own lock: empty, and nobody reads it.
                if path.endswith("/.lock") and not about.st_size:
                    continue
                if not stat.S_ISLNK(about.st_mode) and (about.st_uid != 0 or stat.S_IMODE(about.st_mode) & 0o022):
                    loose.append(f"{path} {stat.filemode(about.st_mode)} {about.st_uid}")
            # A link inside a venv leads to the system's Python; folders of others are not walked.
            dirs[:] = [name for name in dirs if not os.path.islink(os.path.join(folder, name))]
        found.append(row("P7", root, f"written by root alone ({count} entries)", "; ".join(loose[:5])))
    return found


def t1_trees(machine: Machine, settings: Settings) -> list[str]:
    """Folders that hold T1 data: those that were named, and those that systemd keeps for sovereign units."""
    names_of = machine.units("mushishi-sovereign-*")
    shown = machine.properties(names_of, "StateDirectory,RuntimeDirectory,CacheDirectory,LogsDirectory")
    found = set(settings.t1_trees)
    for have in shown.values():
        for key, root in (
            ("StateDirectory", "/var/lib"),
            ("RuntimeDirectory", "/run"),
            ("CacheDirectory", "/var/cache"),
            ("LogsDirectory", "/var/log"),
        ):
            found |= {f"{root}/{word.split(':')[0]}" for word in have.get(key, "").split()}
    return sorted(found)


def configuration(machine: Machine, settings: Settings) -> list[Row]:
    """What the running services were given: no file is younger than its process, and every address in it is one of the
    policy.
    """
    found: list[Row] = []
    boot = next(
        (float(line.split()[1]) for line in machine.text("/proc/stat").splitlines() if line.startswith("btime")), 0.0
    )
    reads = {
        "mushishi-sovereign-admission": ["/etc/mushishi/admission/config.json"],
        "mushishi-sovereign-gateway": ["/etc/mushishi/gateway/sovereign.yaml"],
        "mushishi-sovereign-door": ["/etc/mushishi/gateway/haproxy.cfg"],
        "mushishi-sovereign-prober": ["/etc/mushishi/gateway/prober.json"],
        "mushishi-hybrid-gateway": ["/etc/mushishi/gateway/hybrid.yaml"],
        "mushishi-ingress-sovereign": ["/etc/mushishi/ingress-sovereign/Caddyfile"],
        "mushishi-ingress-hybrid": ["/etc/mushishi/ingress-hybrid/Caddyfile"],
    }
    shown = machine.properties([f"{name}.service" for name in reads], "ActiveState,MainPID")
    for name, paths in reads.items():
        have = shown.get(f"{name}.service", {})
        started = began(int(have.get("MainPID") or 0), boot, machine)
        for path in paths:
            if have.get("ActiveState") != "active" or not started or not os.path.exists(path):
                found.append(unread("P1", f"unit {name}", f"{path} is what runs", "the unit or the file is not there"))
                continue
            # The clock of a start is kept in hundredths since boot, and the boot in whole seconds.
            late = os.stat(path).st_mtime - started
            found.append(
                row(
                    "P1",
                    f"unit {name}",
                    f"{path} is what runs",
                    "it was changed after the process began" if late > 1.5 else "",
                )
            )
    haproxy = machine.text("/etc/mushishi/gateway/haproxy.cfg")
    servers = sorted(set(re.findall(r"^\s*server\s+\S+\s+(\S+)", haproxy, re.MULTILINE)))
    wanted = {f"{route['upstream_host']}:{route['upstream_port']}" for route in settings.door_routes}
    found.append(
        row(
            "P2",
            "engine door",
            "it leads to the policy's engines alone",
            " ".join(word for word in servers if word not in wanted) if wanted else "",
            " ".join(servers),
        )
    )
    hybrid_part = re.search(r"^frontend hybrid\n(.*?)(?=^\S)", haproxy, re.MULTILINE | re.DOTALL)
    allowed = {
        f"{route['prefix']}/{end}"
        for route in settings.door_routes
        if "hybrid" in route["planes"]
        for end in ("chat/completions", "models")
    }
    opened = set(re.findall(r"\bpath\s+(?:-m\s+\S+\s+)?(/\S+)", hybrid_part[1])) if hybrid_part else set()
    found.append(
        row(
            "P2",
            "engine door, hybrid side",
            "completions and models of the shared engines alone",
            " ".join(sorted(opened - allowed)) if allowed else "",
        )
    )
    default = re.findall(r"^\s*default_backend\s+(\S+)", haproxy, re.MULTILINE)
    found.append(
        row(
            "P2",
            "engine door",
            "everything else is refused",
            "" if set(default) == {"no-route"} else f"default_backend {default}",
        )
    )
    for side, upstream in (("sovereign", f"{settings.namespace_address}:4001"), ("hybrid", "127.0.0.1:")):
        leads = re.findall(
            r"^\s*reverse_proxy\s+(\S+)", machine.text(f"/etc/mushishi/ingress-{side}/Caddyfile"), re.MULTILINE
        )
        found.append(
            row(
                "P9",
                f"ingress {side}",
                "it leads to its plane alone",
                " ".join(word for word in leads if not word.startswith(upstream)),
                " ".join(sorted(set(leads))),
            )
        )
    text = machine.text("/etc/mushishi/admission/config.json")
    urls = re.findall(r"https?://([^/\":]+)", text)
    found.append(
        row(
            "P1",
            "admission",
            "it knows its gateway alone",
            " ".join(word for word in urls if not (inside(word, "127.0.0.0/8") or settings.on_lan(word))),
        )
    )
    return found


def began(pid: int, boot: float, machine: Machine) -> float:
    """When a process began, in seconds of the clock; 0 when it has ended."""
    words = machine.text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return boot + int(words[19]) / os.sysconf("SC_CLK_TCK") if len(words) > 19 else 0.0


def system(machine: Machine) -> list[Row]:
    """Crash dumps, and what may forward logs."""
    pattern = machine.text("/proc/sys/kernel/core_pattern").strip()
    found = []
    if pattern.startswith("|") and "systemd-coredump" not in pattern:
        found.append(
            unread(
                "P8",
                "host",
                "kernel.core_pattern",
                f"{pattern.split()[0]} itself decides whether it keeps a crash: a limit of 0 does not bind it",
            )
        )
    else:
        found.append(row("P8", "host", "kernel.core_pattern", detail=pattern))
    dumpable = machine.text("/proc/sys/fs/suid_dumpable").strip()
    found.append(row("P8", "host", "fs.suid_dumpable is not 1", "it is 1" if dumpable == "1" else "", dumpable))
    crashes = [
        path
        for pattern in ("/var/crash/*mushishi*", "/var/lib/systemd/coredump/*mushishi*")
        for path in glob.glob(pattern)
    ]
    found.append(row("P8", "host", "no crash of a sovereign service is kept", " ".join(crashes[:3])))
    forward = re.findall(
        r"^\s*(ForwardTo\w+)\s*=\s*yes",
        "\n".join(
            machine.text(path) for path in ["/etc/systemd/journald.conf", *glob.glob("/etc/systemd/journald.conf.d/*")]
        ),
        re.MULTILINE,
    )
    uploads = [
        name
        for name in ("systemd-journal-upload.service", "rsyslog.service", "syslog-ng.service")
        if machine.run("systemctl", "is-active", name).strip() == "active"
    ]
    if uploads:
        found.append(
            unread("P8", "host", "journals are not forwarded", f"{' '.join(uploads)} runs: its own rules decide")
        )
    found.append(
        row(
            "P8",
            "host",
            "journald forwards nothing",
            " ".join(word for word in forward if word != "ForwardToWall"),
        )
    )
    return found


def collect(machine: Machine, settings: Settings) -> list[Row]:
    """Everything static."""
    listings = {
        "host": machine.json("nft", "-j", "list", "ruleset"),
        "plane": machine.json(*machine.inside(settings.namespace, "nft", "-j", "list", "ruleset")),
    }
    interfaces = sorted(name for name in os.listdir("/sys/class/net") if not name.startswith(("veth", "sov0")))
    running = containers(machine, settings.network)
    rows = Guard(
        settings, machine.users(), {name: listing for name, listing in listings.items() if listing}, interfaces
    ).rows()
    rows += translations(machine, settings, listings["host"])
    rows += plane(machine, settings)
    rows += members(machine, settings, running)
    rows += units(machine, settings)
    rows += container_rows(machine, settings, running)
    rows += users(machine, settings)
    rows += files(machine, settings)
    rows += configuration(machine, settings)
    return [*rows, *system(machine)]
