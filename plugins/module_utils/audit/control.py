# SPDX-License-Identifier: MIT
"""Plants a hole for each kind of attack and requires that the very same probe finds it. A detector that has never
caught anything proves nothing.

Every hole is closed by three hands: ``finally`` here, a timer of systemd that runs when this process was killed, and
the rules' own date, after which they match nothing.
"""

from __future__ import annotations

import inspect
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from . import attack, probe, static
from .attack import Place
from .facts import Machine, Settings
from .model import Row

#: Seconds after which a hole closes by itself.
LIFE = 90
#: The marked sink: nobody else listens there.
SINK_PORT = 31998
#: For seconds, and the guard lets nobody but the holes' own attackers through to it.
EVERYWHERE = "0.0.0.0"  # noqa: S104 - for seconds, see above
FOLDER = "/run/mushishi-audit-control"


class Listener:
    """Somebody of the audit's own who answers at ports and files, in the host's namespace or another; it ends with
    this process.
    """

    def __init__(self, doors: Sequence[Mapping[str, Any]], namespace: str = "") -> None:
        program = inspect.getsource(probe) + f"\nlisten(json.loads({json.dumps(json.dumps(list(doors)))}), {LIFE})\n"
        enter = ("ip", "netns", "exec", namespace) if namespace else ()
        self.process = subprocess.Popen(
            [*enter, "/usr/bin/python3", "-I", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self.process.stdout is None or self.process.stdout.readline().strip() != "ready":
            said = self.process.stderr.read()[-300:] if self.process.stderr else ""
            self.process.kill()
            raise RuntimeError(f"the audit cannot listen: {said}")

    def close(self) -> list[str]:
        """End it; the tokens it heard."""
        try:
            out, _err = self.process.communicate(input="", timeout=10)
            return list(json.loads(out.strip() or "[]"))
        except (subprocess.TimeoutExpired, ValueError):
            self.process.kill()
            return []


class Holes:
    """Rules that let the marked sink through, in front of all others, and how they go away again."""

    def __init__(self, machine: Machine, settings: Settings) -> None:
        self.machine, self.settings = machine, settings
        self.name = f"mushishi-audit-{os.getpid()}-{secrets.token_hex(4)}"
        self.until = int(time.time()) + LIFE

    def rule(self, where: str, chain: str, *words: str) -> None:
        """Insert one accept. Raises RuntimeError when it cannot be."""
        enter = self.machine.inside(self.settings.namespace) if where == "plane" else ()
        family, table = self.settings.table
        let_on = f'meta time < {self.until} {" ".join(words)} accept comment "{self.name}"'
        text = f"insert rule {family} {table} {chain} {let_on}\n"
        status, _out, err = self.machine.done(*enter, "nft", "--file", "-", stdin=text)
        if status != 0:
            raise RuntimeError(f"the hole cannot be planted: {err.strip()[:300]}")

    def closing(self) -> str:
        """A shell program that takes every rule of this run away, and the planted files."""
        family, table = self.settings.table
        lines = []
        for enter in ("", f"ip netns exec {self.settings.namespace} "):
            pick = f'$1=="chain"{{c=$2}} /{self.name}/{{print "delete rule {family} {table} " c " handle " $NF}}'
            lines.append(f"{enter}nft -a list table {family} {table} | awk '{pick}' | {enter}nft --file -")
        return "; ".join([*lines, f"rm -rf {FOLDER}"])

    @contextmanager
    def open(self) -> Iterator[Holes]:
        """Holes may be planted until the end of the block; then all are gone, and it is looked whether they are."""
        timer = f"{self.name}.timer"
        status, _out, err = self.machine.done(
            "systemd-run",
            "--quiet",
            f"--unit={self.name}",
            f"--on-active={LIFE}",
            "--timer-property=AccuracySec=1s",
            "sh",
            "-c",
            # systemd would take a dollar for a variable of its own.
            self.closing().replace("$", "$$"),
        )
        if status != 0:
            raise RuntimeError(f"without a timer that closes it no hole is planted: {err.strip()[:300]}")
        try:
            shutil.rmtree(FOLDER, ignore_errors=True)  # there is none, but after a kill
            os.mkdir(FOLDER, 0o755)
            os.chmod(FOLDER, 0o755)  # noqa: S103  # the planted hole
            yield self
        finally:
            self.machine.done("sh", "-c", self.closing())
            if self.left():
                # Never silently: the guard's own files are the last word.
                self.machine.done("systemctl", "reload", "mushishi-guard.service", "mushishi-plane.service")
            self.machine.done("systemctl", "stop", timer)

    def left(self) -> bool:
        """Whether a rule of this run is still there."""
        table = self.settings.table
        shown = self.machine.run("nft", "list", "table", *table) + self.machine.run(
            *self.machine.inside(self.settings.namespace, "nft", "list", "table", *table)
        )
        return self.name in shown


def found(rule: str, source: str, path: str, rows: Sequence[Row]) -> Row:
    """The hole's row: ``leaked`` is what is wanted."""
    hit = next((one for one in rows if one.outcome == "leaked"), None)
    if hit:
        return Row("control", rule, source, path, "leaked", hit.ms, f"the planted hole was found: {hit.detail}"[:200])
    why = rows[0].detail if rows else "nothing was tried"
    outcome = rows[0].outcome if rows else "not tested"
    return Row(
        "control",
        rule,
        source,
        path,
        "not tested" if outcome == "not tested" else "refused",
        None,
        f"a planted hole was NOT found: {why}",
    )


def tcp(address: str, **more: Any) -> dict[str, Any]:
    """The marked sink as a target."""
    return {
        "proto": "tcp",
        "address": address,
        "port": SINK_PORT,
        "path": f"→ marked sink {address} tcp {SINK_PORT}",
        **more,
    }


def static_control(machine: Machine, settings: Settings) -> list[Row]:
    """A rule for a documentation address that nobody has, inside the plane: it opens nothing, and the static reading
    must see it.
    """
    path = "an accept for 192.0.2.254 inside the plane, read back"
    holes = Holes(machine, settings)
    with holes.open():
        holes.rule("plane", "output", f"ip daddr 192.0.2.254 tcp dport {SINK_PORT}")
        listings = {
            "plane": machine.json(*machine.inside(settings.namespace, "nft", "-j", "list", "ruleset")),
            "host": machine.json("nft", "-j", "list", "ruleset"),
        }
        guard = static.Guard(
            settings, machine.users(), {name: listing for name, listing in listings.items() if listing}
        )
        rows = [one for one in guard.plane_output() if holes.name in one.detail or "192.0.2.254" in one.path]
    return [
        found(
            "P3",
            "nft in the plane's namespace",
            path,
            rows or [Row("static", "P3", "", path, "holds", detail="it was not seen")],
        )
    ]


def collect(
    machine: Machine, settings: Settings, running: Sequence[Mapping[str, Any]], parts: Sequence[str]
) -> list[Row]:
    """A hole for each kind of attack that was asked for (``units``, ``containers``, ``users``, ``egress``, ``pull``,
    ``files``).
    """
    rows: list[Row] = []
    wanted = set(parts)
    if "static" in wanted:
        rows += guarded("static", lambda: static_control(machine, settings))
    if wanted - {"static"}:
        rows += guarded("every kind", lambda: network_controls(machine, settings, running, wanted))
    return rows


def guarded(what: str, plant: Callable[[], list[Row]]) -> list[Row]:
    """A hole that could not be planted is a control that did not run, and the audit is invalid."""
    try:
        return plant()
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        return [Row("control", "", what, "plant a hole", "not tested", detail=str(error)[:300])]


def network_controls(
    machine: Machine, settings: Settings, running: Sequence[Mapping[str, Any]], wanted: set[str]
) -> list[Row]:
    """All holes at once, each for its own attacker, so that the machine is open for the marked sink a few seconds."""
    units = (
        [place for place in attack.unit_places(machine) if place.kind in ("bare", "group", "twin")]
        if "units" in wanted
        else []
    )
    boxes = (
        [place for place in attack.container_places(machine, running) if place.kind == "container"]
        if "containers" in wanted
        else []
    )
    users = list(attack.host_users(machine, "mushishi-sovereign-"))[:1] if "users" in wanted else []
    holes, rows = Holes(machine, settings), []
    ears: list[Listener] = []
    with holes.open():
        try:
            secret, door = f"{FOLDER}/t1-file", f"{FOLDER}/socket"
            sink = {"proto": "tcp", "address": EVERYWHERE, "port": SINK_PORT}
            ears.append(Listener([sink, {"proto": "unix", "file": door}]))
            ears.append(Listener([sink], settings.namespace))
            holes.rule("host", "input", f'iifname "{settings.bridge}" tcp dport {SINK_PORT}')
            holes.rule("plane", "output", f"tcp dport {SINK_PORT}")
            holes.rule("plane", "input", f"tcp dport {SINK_PORT}")
            holes.rule("host", "output", f"tcp dport {SINK_PORT}")
            with open(secret, "w", encoding="utf-8") as stream:
                stream.write(f"{holes.name}\n")
            os.chmod(secret, 0o644)
            socket_file = {"proto": "unix", "file": door, "path": f"→ socket {door}"}
            # In its group a unit may be bound to loopback by its own filter; there its hole is.
            for place in units:
                if place.kind != "twin":
                    address = settings.host_address if place.kind == "bare" else "127.0.0.1"
                    rows.append(one_row(machine, place, tcp(address), "namespace attack", "P1"))
            rows += [
                one_row(machine, place, socket_file, "socket file", "P3") for place in units if place.kind == "bare"
            ]
            rows += [
                one_row(machine, twin(place), socket_file, "socket file and family, as it is", "P3")
                for place in units
                if place.kind == "twin"
            ][:1]
            rows += [one_row(machine, place, tcp(settings.host_address), "container attack", "P1") for place in boxes]
            for name, argv in users:
                rows.append(
                    one_row(
                        machine,
                        Place(f"user {name} on the host", "P4", argv, plane=False),
                        tcp("127.0.0.1"),
                        "user on the host",
                        "P4",
                    )
                )
            for name, argv in list(attack.host_users(machine, "mushishi-hybrid-"))[:1] if "egress" in wanted else ():
                rows.append(
                    one_row(
                        machine,
                        Place(f"user {name} on the host", "P10", argv, plane=False),
                        tcp("127.0.0.1"),
                        "hybrid user to a host that no policy names",
                        "P10",
                    )
                )
            if "pull" in wanted:
                rows.append(
                    one_row(
                        machine,
                        Place("user nobody on the host", "P2", attack.as_user("nobody"), plane=False),
                        tcp(settings.namespace_address, kind="pull"),
                        "pull",
                        "P2",
                    )
                )
            if "files" in wanted:
                for kind, rule in (("files", "P7"), ("logs", "P8")):
                    target = {"proto": "read", "files": [secret], "path": f"→ planted {kind}", "kind": kind}
                    rows.append(
                        one_row(
                            machine,
                            Place(
                                f"user {attack.STRANGER} on the host",
                                rule,
                                attack.as_user(str(attack.STRANGER)),
                                plane=False,
                            ),
                            target,
                            kind,
                            rule,
                        )
                    )
        finally:
            for ear in ears:
                ear.close()
    if "units" in wanted and not units:
        rows.append(Row("control", "P1", "units", "namespace attack", "not tested", detail="no sovereign unit runs"))
    return rows


def one_row(machine: Machine, place: Place, target: Mapping[str, Any], what: str, rule: str) -> Row:
    """One attacker at one hole."""
    return found(rule, place.source, f"{what}: {target['path']}", attack.attack(machine, place, [target]))


def twin(place: Place) -> Place:
    """The twin with one hole in its filter: the family of socket files."""
    argv = tuple(
        f"{word} AF_UNIX" if word.startswith("--property=RestrictAddressFamilies=") else word for word in place.argv
    )
    return Place(place.source, place.rule, argv, user=place.user, pid=place.pid, kind="twin")


def proves(rows: Sequence[Row]) -> str | None:
    """What the controls fail to prove, in words; None when each planted hole was found."""
    missed = [one for one in rows if one.kind == "control" and one.outcome != "leaked"]
    if not any(one.kind == "control" for one in rows):
        return "no hole was planted, so nothing is proven"
    return "; ".join(f"{one.source} {one.path}: {one.detail}" for one in missed[:5]) or None
