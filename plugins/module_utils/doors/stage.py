# SPDX-License-Identifier: MIT
"""A stage for the scanner where no other machine is at hand: a network namespace that stands for the LAN or the
tailnet.

The namespace has no name. It belongs to one process, which the kernel kills when its parent ends, however that ends;
with the last process go the namespace and both ends of its wire. Its packets are led into the machine by an interface
that is really there (``tc … mirred ingress redirect``), so that rules which name that interface judge them as they
judge a stranger's.
"""

from __future__ import annotations

import contextlib
import inspect
import ipaddress
import json
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

from . import scan

#: The wire's end in the namespace. Its peer is made with it, so that it never stands in the host's own.
INNER = "doors0"


@dataclass(frozen=True)
class Side:
    """Who is played, and from which addresses. None of them is routed anywhere.

    LAN: documentation ranges (RFC 5737, RFC 3849). Tailnet: services look at the sender's address too, so it is one of
    the tailnet's ranges, which Tailscale hands out to nobody: 100.115.92.0/23 is reserved
    (https://tailscale.com/docs/reference/reserved-ip-addresses), and of fd7a:115c:a1e0::/48 (RFC 4193) a subnet that is
    not in use.
    """

    outer: str
    v4: tuple[str, str]
    v6: tuple[str, str]


SIDES = {
    "lan": Side("doors-lan0", ("192.0.2.65/30", "192.0.2.66/30"), ("2001:db8:d00f::1/64", "2001:db8:d00f::2/64")),
    "tailnet": Side(
        "doors-tail0",
        ("100.115.92.1/30", "100.115.92.2/30"),
        ("fd7a:115c:a1e0:d00f::1/64", "fd7a:115c:a1e0:d00f::2/64"),
    ),
}


def done(*argv: str, check: bool = True) -> str:
    """What a program says. Raises SovereignError when it fails and ``check`` is set."""
    try:
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise SovereignError(f"command {argv[0]}", str(error), "Install it, or name a probe host.") from error
    if check and ended.returncode != 0:
        raise SovereignError(
            f"command {' '.join(argv)}", (ended.stderr or ended.stdout).strip(), "Look at what it says."
        )
    return ended.stdout


def number_of(path: str) -> int:
    """The number in a file of /proc; 0 without one."""
    try:
        with open(path, encoding="ascii") as stream:
            return int(stream.read())
    except (OSError, ValueError):
        return 0


def link(name: str) -> dict[str, Any]:
    """What the kernel says of an interface, its counters included; empty when there is none."""
    found = json.loads(done("ip", "-stats", "-json", "link", "show", "dev", name, check=False) or "[]")
    return dict(found[0]) if found else {}


def in_use(side: Side) -> str:
    """The interface or route that has an address of the stage already; empty when it is free."""
    wanted = [ipaddress.ip_interface(text).network for text in (side.v4[0], side.v6[0])]
    for entry in json.loads(done("ip", "-json", "addr", "show") or "[]"):
        for address in entry.get("addr_info", []):
            there = ipaddress.ip_address(address["local"])
            if any(there.version == network.version and there in network for network in wanted):
                return f"{address['local']} on {entry.get('ifname')}"
    return ""


def strict(interface: str) -> bool:
    """Whether the kernel drops packets at an interface by which it would not answer (``rp_filter`` 1)."""
    folder = "/proc/sys/net/ipv4/conf"
    return max(number_of(f"{folder}/{name}/rp_filter") for name in ("all", interface)) == 1


def way_back(side: Side) -> str:
    """Let answers to the stage leave by its wire; why they do not, or empty.

    A tailnet's client sends all of the tailnet's IPv6 range to its own interface, by a table that is asked before the
    main one (tailscale: table 52; ``ipn/ipnlocal/local.go`` peerRoutes). Then a narrower route by the wire goes into
    that table. It is gone with the wire, however that ends.
    """
    for ours, theirs in (side.v4, side.v6):
        address, family = theirs.partition("/")[0], "-6" if ":" in theirs else "-4"
        network = str(ipaddress.ip_interface(ours).network)
        for turn in ("as it is", "with a route"):
            found = json.loads(done("ip", "-json", family, "route", "get", address, check=False) or "[{}]")[0]
            if found.get("dev") == side.outer:
                break
            if turn == "with a route":
                return f"answers to {address} would leave by {found.get('dev', 'nothing')}"
            by = ("dev", side.outer, "table", str(found.get("table", "main")))
            done("ip", family, "route", "add", network, *by, check=False)
    return ""


def lead(outer: str, enter: str) -> str:
    """Lead what comes out of the wire into the machine by another interface; why that is not possible, or empty."""
    there = link(enter)
    if not there:
        return f"there is no interface {enter}"
    if "UP" not in there["flags"]:
        return f"the interface {enter} is down"
    if strict(enter):
        return f"rp_filter of {enter} is strict, which would drop every packet"
    to = ("action", "mirred", "ingress", "redirect", "dev", enter)
    by = ("tc", "filter", "add", "dev", outer, "ingress")
    try:
        done("tc", "qdisc", "add", "dev", outer, "clsact")
        done(*by, "protocol", "ip", "prio", "1", "u32", "match", "u32", "0", "0", *to)
        # Neighbours must still find each other on the wire itself, so of IPv6 only what is scanned is led.
        for protocol in ("6", "17"):
            done(*by, "protocol", "ipv6", "prio", "2", "u32", "match", "ip6", "protocol", protocol, "0xff", *to)
    except SovereignError as error:
        done("tc", "qdisc", "del", "dev", outer, "clsact", check=False)
        return f"the kernel does not lead packets there ({error.seen})"
    return ""


def wire(side: Side, pid: int, addresses: Sequence[str]) -> None:
    """Make the wire between this namespace and that of a process, with a way from there to some addresses alone."""
    inside = ("nsenter", f"--target={pid}", "--net", "--")
    done("ip", "link", "add", "dev", side.outer, "type", "veth", "peer", "name", INNER, "netns", str(pid))
    for name, where in ((side.outer, ()), (INNER, inside)):
        done(*where, "sysctl", "-q", "-w", f"net.ipv6.conf.{name}.disable_ipv6=0", f"net.ipv6.conf.{name}.accept_ra=0")
    done("ip", "addr", "add", side.v4[0], "dev", side.outer)
    done("ip", "-6", "addr", "add", side.v6[0], "dev", side.outer, "nodad")
    done("ip", "link", "set", side.outer, "up")
    done(*inside, "ip", "link", "set", "lo", "up")
    done(*inside, "ip", "addr", "add", side.v4[1], "dev", INNER)
    done(*inside, "ip", "-6", "addr", "add", side.v6[1], "dev", INNER, "nodad")
    done(*inside, "ip", "link", "set", INNER, "up")
    for address in addresses:
        six = ":" in address
        by = (side.v6 if six else side.v4)[0].partition("/")[0]
        done(*inside, "ip", *(["-6"] if six else []), "route", "add", f"{address}/{128 if six else 32}", "via", by)


@contextmanager
def ended_in_order() -> Iterator[None]:
    """A signal that would end this process at once lets it put things away first."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signals = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = [signal.signal(number, end) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before):
            signal.signal(number, handler)


@contextmanager
def stage(name: str, addresses: Sequence[str], enter: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The scanner in a namespace of its own, waiting for a job; why its packets do not come in by ``enter``; and why no
    answer would come back.

    Raises:
        SovereignError: the stage cannot be made; nothing of it is left.
    """
    side = SIDES[name]
    done("ip", "link", "delete", "dev", side.outer, check=False)
    if taken := in_use(side):
        raise SovereignError(
            f"the stage of the {name}", f"{taken} is in the way", "Name a probe host in the group probes."
        )
    program = inspect.getsource(scan) + "\nmain()\n"
    argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "/usr/bin/python3", "-I", "-c", program]
    with (
        ended_in_order(),
        subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child,
    ):
        try:
            if child.stdout is None or json.loads(child.stdout.readline() or "{}") != {"ready": True}:
                said = child.stderr.read()[-300:] if child.stderr else ""
                raise SovereignError(
                    f"the stage of the {name}", f"no namespace: {said}", "Run as root, with util-linux."
                )
            wire(side, child.pid, addresses)
            yield child, lead(side.outer, enter) if enter else "no interface was named", way_back(side)
        finally:
            child.kill()
            done("ip", "link", "delete", "dev", side.outer, check=False)
            # What the process has still to say is of no interest; its pipes must not fill.
            with contextlib.suppress(OSError, ValueError):
                child.communicate(timeout=10)


def played(name: str, job: Mapping[str, Any], enter: str, tell: scan.Tell) -> tuple[list[dict[str, Any]], str, str]:
    """Results of a job that is done from a stage; the interface by which its packets came in; and why not by ``enter``.

    Raises:
        SovereignError: the stage cannot be made, or the scanner ended without a result.
    """
    addresses = [str(address) for address in job["addresses"]]
    outer = SIDES[name].outer
    with stage(name, addresses, enter) as (child, why_not, lost):
        # Without a way back everything is silent, whatever is open.
        if lost or (why_not and name == "tailnet"):
            return [], "", lost or why_not
        if child.stdin is None or child.stdout is None:
            raise SovereignError(f"the stage of the {name}", "no pipes", "Run it again.")
        child.stdin.write(json.dumps(job) + "\n")
        child.stdin.flush()
        results: list[dict[str, Any]] | None = None
        for line in child.stdout:
            event = json.loads(line)
            if "result" in event:
                results = event["result"]
                break
            tell(event)
        came = int(link(outer).get("stats64", {}).get("rx", {}).get("packets", 0))
        if results is None:
            said = child.stderr.read()[-300:] if child.stderr else ""
            raise SovereignError(f"the scan from the {name}", f"it ended without a result: {said}", "Run it again.")
    tried = len(addresses) * (len(job["tcp"]) + len(job["udp"]))
    by = outer if why_not else enter
    for result in results:
        # Nothing was between: what the scanner sent has arrived, or it has not.
        if not result["evidence"] and came >= tried:
            result["evidence"] = f"{came} packets came in by {by}"
    return results, by, why_not
