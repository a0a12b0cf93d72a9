# SPDX-License-Identifier: MIT
"""The policy for published ports: what comes in for a container passes by a door of the tailnet, or not at all.

One file, standard library alone: the role ``firewall`` puts it on the machine, where ``mushishi-docker-user.service``
runs it each time that Docker starts. The rules stand in a chain of their own, ``MUSHISHI-DOORS``, to which DOCKER-USER
jumps first, so that rules of another hand in DOCKER-USER stay. They match the port that the client asked for, not the
one that Docker has translated it to. Written in one step, read back from the kernel, and an error when they are not
there. The guard holds the same by itself; this is the second lock.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

CHAIN = "MUSHISHI-DOORS"
DOORS = Path("/etc/mushishi/doors.json")
#: Program of each family, and how it refuses what is not TCP.
FAMILIES = {"iptables": "icmp-admin-prohibited", "ip6tables": "icmp6-adm-prohibited"}
#: What Docker's own packet filter of nftables calls its tables.
DOCKER_TABLE = "docker-bridges"
EXIT_FAULT = 1

# Runs a program: argument list and standard input in; exit status, standard output and standard error out.
Runner = Callable[[Sequence[str], str], "tuple[int, str, str]"]


class Fault(Exception):
    """The policy is not in force; the message says why and what to do."""


def run_program(argv: Sequence[str], text: str = "") -> tuple[int, str, str]:
    """Run a program in the C locale."""
    try:
        done = subprocess.run(
            list(argv), input=text, capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT
        )
    except FileNotFoundError:
        return 127, "", f"{argv[0]} is not installed"
    return done.returncode, done.stdout, done.stderr


ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "LANG": "C"}


# ---- pure parts
@dataclass
class Filter:
    """A filter table as ``iptables -S`` prints it: policies of the built-in chains, and the rules of each chain."""

    policies: dict[str, str] = field(default_factory=dict)
    chains: dict[str, list[list[str]]] = field(default_factory=dict)

    def jumps(self, chain: str, target: str) -> list[int]:
        """Places (from 0) at which a chain jumps to another without a condition."""
        return [place for place, rule in enumerate(self.chains.get(chain, [])) if rule == ["-j", target]]


def filter_from(text: str) -> Filter:
    """Read ``iptables -S``."""
    found = Filter()
    for line in text.splitlines():
        words = shlex.split(line)
        if len(words) == 3 and words[0] == "-P":
            found.policies[words[1]] = words[2]
            found.chains.setdefault(words[1], [])
        elif len(words) == 2 and words[0] == "-N":
            found.chains.setdefault(words[1], [])
        elif len(words) > 2 and words[0] == "-A":
            found.chains.setdefault(words[1], []).append(words[2:])
    return found


def rules(family: str, interface: str, doors: Iterable[Mapping[str, Any]], inside: Iterable[str]) -> list[list[str]]:
    """The rules of the chain, in the words in which the kernel's are printed."""
    made = [["-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "RETURN"]]
    # What the machine itself made, loopback and bridges of containers, is not outside.
    made += [["-i", f"{name[:-1]}+" if name.endswith("*") else name, "-j", "RETURN"] for name in inside]
    for door in doors:
        asked = ["--ctstate", "DNAT", "--ctorigdstport", str(door["port"]), "--ctdir", "ORIGINAL"]
        comment = ["-m", "comment", "--comment", f"door {door['name']}"]
        made.append(["-i", interface, "-p", door["protocol"], "-m", "conntrack", *asked, *comment, "-j", "RETURN"])
    made.append(["-i", interface, "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"])
    made.append(["-i", interface, "-j", "REJECT", "--reject-with", FAMILIES[family]])
    made.append(["-j", "DROP"])
    return made


def hook(now: Filter) -> str:
    """The chain that jumps to ours: Docker's for its user, or FORWARD where Docker has none in this family."""
    return "DOCKER-USER" if "DOCKER-USER" in now.chains else "FORWARD"


def differences(now: Filter, wanted: Sequence[Sequence[str]] | None) -> list[str]:
    """What is not as wanted, one sentence each. ``wanted`` None: nothing of ours is."""
    places = {chain: now.jumps(chain, CHAIN) for chain in now.chains}
    if wanted is None:
        found = [f"{chain} jumps to {CHAIN}" for chain, at in places.items() if at]
        return found + ([f"{CHAIN} is there"] if CHAIN in now.chains else [])
    found = []
    if now.chains.get(CHAIN) != [list(rule) for rule in wanted]:
        found.append(f"{CHAIN} has other rules" if CHAIN in now.chains else f"{CHAIN} is missing")
    if places.get(hook(now)) != [0]:
        found.append(f"{hook(now)} does not begin with the jump to {CHAIN}")
    found += [f"{chain} jumps to {CHAIN}" for chain, at in places.items() if at and chain != hook(now)]
    return found


def script(now: Filter, wanted: Sequence[Sequence[str]] | None) -> str:
    """For ``iptables-restore --noflush``: one step from what is there to what is wanted."""
    lines = ["*filter"]
    for chain in now.chains:
        lines += [f"-D {chain} -j {CHAIN}"] * len(now.jumps(chain, CHAIN))
    if wanted is not None:
        # Named in this way a chain is made, or emptied where it is there.
        lines.insert(1, f":{CHAIN} - [0:0]")
        lines += [f"-A {CHAIN} {shlex.join(rule)}" for rule in wanted]
        lines.append(f"-I {hook(now)} 1 -j {CHAIN}")
    elif CHAIN in now.chains:
        lines += [f"-F {CHAIN}", f"-X {CHAIN}"]
    return "\n".join([*lines, "COMMIT", ""]).replace("'", '"')


def unguarded(now: Filter, family: str) -> str:
    """Why Docker does not ask DOCKER-USER in this family; empty when it does, or filters nothing there."""
    if "DOCKER-USER" not in now.chains:
        if family == "ip6tables" and "DOCKER" not in now.chains:
            # Docker before 27 leaves IPv6 to its proxy, which is a service of the host: our chain hangs in FORWARD.
            return ""
        return (
            f"{family} has no chain DOCKER-USER although Docker runs. Is \"iptables\": false in its settings, or has "
            "somebody flushed the table? Restart Docker: systemctl restart docker"
        )
    if not now.jumps("FORWARD", "DOCKER-USER"):
        return f"{family}: FORWARD does not jump to DOCKER-USER. Restart Docker: systemctl restart docker"
    return ""


# ---- the machine
class Policy:
    """The policy on this machine."""

    def __init__(self, inside: Sequence[str], doors: Path = DOORS, run: Runner = run_program) -> None:
        self._inside = list(inside)
        self._doors = doors
        self._run = run

    def families(self) -> dict[str, Filter]:
        """The filter table of each family that this machine has.

        Raises:
            Fault: a table cannot be read, or is not in the packet filter that Docker uses.
        """
        found = {}
        for family in FAMILIES:
            status, out, _err = self._run([family, "-V"], "")
            if status == 0 and "legacy" in out:
                raise Fault(
                    f"{family} writes to the legacy packet filter, of which Docker and UFW see the other half. "
                    f"update-alternatives --set {family} /usr/sbin/{family}-nft"
                )
            status, out, err = self._run([family, "-S"], "")
            if status != 0 and family == "ip6tables" and not Path("/proc/sys/net/ipv6").exists():
                continue
            if status != 0:
                raise Fault(f"{family} -S: {err.strip()[:200] or status}")
            found[family] = filter_from(out)
        return found

    def wanted(self, family: str) -> list[list[str]] | None:
        """The rules of a family; None without a list of doors."""
        try:
            given = json.loads(self._doors.read_text(encoding="utf-8"))
            return rules(family, given["interface"], given["doors"], self._inside)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise Fault(f"{self._doors} is no list of doors ({error}). Run the playbook again") from None

    def faults(self) -> list[str]:
        """What is not in force, one sentence each."""
        found = []
        for family, now in self.families().items():
            wanted = self.wanted(family)
            found += [f"{family}: {what}" for what in differences(now, wanted)]
            if wanted is not None and (why := unguarded(now, family)):
                found.append(why)
        return found

    def apply(self) -> bool:
        """Write what differs, and read it back; whether something did.

        Raises:
            Fault: it could not be written, or is not in force afterwards.
        """
        changed = False
        for family, now in self.families().items():
            wanted = self.wanted(family)
            if not differences(now, wanted):
                continue
            status, _out, err = self._run([f"{family}-restore", "--noflush", "--wait", "10"], script(now, wanted))
            if status != 0:
                raise Fault(f"{family}-restore: {err.strip()[:300]}")
            changed = True
        self.prove()
        return changed

    def prove(self) -> None:
        """Read back what is in force.

        Raises:
            Fault: it is not what was written, or Docker does not ask it.
        """
        found = self.faults()
        if found and self.docker_is_elsewhere():
            found.append(
                "Docker filters with nftables by itself, which has no DOCKER-USER and is not tested here. "
                'Take "firewall-backend" out of /etc/docker/daemon.json and restart Docker'
            )
        if found:
            raise Fault("; ".join(found))

    def docker_is_elsewhere(self) -> bool:
        """Whether Docker's own tables of nftables are there."""
        status, out, _err = self._run(["nft", "list", "tables"], "")
        return status == 0 and DOCKER_TABLE in out.split()


def say(stream: TextIO, text: str) -> None:
    """One line."""
    stream.write(text + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """``apply`` (without a list of doors: take ours away), ``check``."""
    parser = argparse.ArgumentParser(description="The policy of the doors in DOCKER-USER.")
    parser.add_argument("word", choices=["apply", "check"])
    parser.add_argument("--doors", type=Path, default=DOORS)
    parser.add_argument("--inside", action="append", default=[], help="an interface that is not outside; may end in *")
    given = parser.parse_args(argv)
    policy = Policy(given.inside, given.doors)
    try:
        if given.word == "apply":
            say(sys.stdout, "DOCKER-USER: written and read back" if policy.apply() else "DOCKER-USER: as it shall be")
        else:
            policy.prove()
    except (Fault, OSError, subprocess.TimeoutExpired) as error:
        say(sys.stderr, f"The doors of containers are not locked a second time: {error}")
        return EXIT_FAULT
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
