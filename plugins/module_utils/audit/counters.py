# SPDX-License-Identifier: MIT
"""Standing evidence: the guard's counters kept across reloads and reboots, and whether its rules are in force.

One file, standard library alone: the role ``guard`` puts it on the machine, where a timer runs ``check``. A packet that
a sovereign process sent beyond its plane is an alarm; so are rules that are not the ones that were loaded. What an
audit provokes is kept apart by marks (:func:`audit_in_progress`). Numbers alone are written.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

HOST, PLANE = "host", "plane"
TABLE = "inet mushishi_guard"
#: Refusals that are no attempt of a sovereign process to reach anything beyond the plane are counted, and no alarm.
EGRESS = {HOST: ("sovereign_to_host", "sovereign_to_elsewhere", "sovereign_user_"), PLANE: ("out_of_namespace",)}
#: What becomes of a packet in the counts: an ordinary day's, or an audit's.
TRAFFIC, AUDIT = "traffic", "audit"
EXIT_EGRESS, EXIT_RULES, EXIT_BLIND = 1, 2, 3
#: Rules that differ are looked at once more after this time: a service that is just being started is no alarm.
SECOND_LOOK_SECONDS = 2.0

Counts = dict[str, dict[str, int]]
Runner = Callable[[Sequence[str], str], str]
State = dict[str, Any]


@dataclass(frozen=True)
class Places:
    """Where things lie; tests have others."""

    state: Path = Path("/var/lib/mushishi-guard/evidence.json")
    metrics: Path = Path("/var/lib/mushishi-guard/metrics/mushishi_guard.prom")
    marks: Path = Path("/run/mushishi-guard/audits")
    rules: Path = Path("/etc/mushishi/guard")
    namespace: Path = Path("/run/netns/sovereign")
    boot: Path = Path("/proc/sys/kernel/random/boot_id")
    proc: Path = Path("/proc")


class Blind(Exception):
    """Something could not be read, so nothing can be said."""


def run_program(argv: Sequence[str], text: str) -> str:
    """Run a program; its output.

    Raises:
        Blind: it failed.
    """
    done = subprocess.run(list(argv), input=text, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise Blind(f"{' '.join(argv)}: {done.stderr.strip()[:200] or done.returncode}")
    return done.stdout


# ---- pure parts
def is_egress(plane: str, counter: str) -> bool:
    """Whether a counter counts what sovereign processes sent beyond the plane."""
    return counter.startswith(EGRESS[plane])


def counters_of(listing: str) -> dict[str, int]:
    """Counter → packets, from ``nft --json list table``."""
    objects = [item["counter"] for item in json.loads(listing)["nftables"] if "counter" in item]
    return {str(item["name"]): int(item["packets"]) for item in objects}


def digest(listing: str) -> str:
    """A hash of a listing's chains and rules, without counts, handles, elements of sets and empty open chains."""
    chains: dict[str, Any] = {}
    for item in json.loads(listing)["nftables"]:
        if "chain" in item:
            chain = item["chain"]
            kept = {key: chain[key] for key in ("type", "hook", "prio", "policy") if key in chain}
            chains.setdefault(chain["name"], {"chain": {}, "rules": []})["chain"] = kept
        elif "rule" in item:
            rule = item["rule"]
            chains.setdefault(rule["chain"], {"chain": {}, "rules": []})["rules"].append(rule["expr"])
    wanted = {name: it for name, it in chains.items() if it["rules"] or it["chain"].get("policy") == "drop"}
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()


def rises(last: Mapping[str, int], now: Mapping[str, int], *, same: bool) -> dict[str, int]:
    """Packets since the last reading. ``same``: the table is the one of that time; else it began at zero, as it did
    where a count is smaller than it was."""
    risen = {}
    for name, packets in now.items():
        before = last.get(name, 0) if same else 0
        risen[name] = packets - before if packets >= before else packets
    return {name: packets for name, packets in risen.items() if packets}


def new_state(now: float) -> State:
    """Nothing seen so far."""
    return {"version": 1, "since": now, "egress": {}, "rules": {}, "totals": {}, "last": {}, "good": {}, "checked": now}


def book(state: State, plane: str, identity: str, counts: Mapping[str, int], cause: str) -> dict[str, int]:
    """Add a reading to the totals; what of it was egress outside of an audit, by counter."""
    last = state["last"].get(plane, {"identity": "", "counts": {}})
    risen = rises(last["counts"], counts, same=last["identity"] == identity)
    state["last"][plane] = {"identity": identity, "counts": dict(counts)}
    totals = state["totals"].setdefault(plane, {})
    for name in counts:
        totals.setdefault(name, {TRAFFIC: 0, AUDIT: 0})
    for name, packets in risen.items():
        totals[name][cause] += packets
    found = {f"{plane}/{name}": n for name, n in risen.items() if cause == TRAFFIC and is_egress(plane, name)}
    for name, packets in found.items():
        state["egress"][name] = state["egress"].get(name, 0) + packets
    return found


def sentences(state: State) -> list[str]:
    """What is wrong, one sentence each: fixed words, names of counters, numbers, dates."""
    since = date(state["since"])
    found = [f"sovereign egress: {n} packets refused at {name} since {since}" for name, n in state["egress"].items()]
    for plane, what in state["rules"].items():
        found.append(f"guard rules of the {plane} were not in force: {what['times']} times, last {date(what['last'])}")
    return found


def summary(state: State) -> dict[str, Any]:
    """What ``totals`` gives: numbers, dates and names of counters."""
    return {
        "since": date(state["since"]),
        "checked": date(state["checked"]),
        "egress": sum(state["egress"].values()),
        "line": f"sovereign egress: {sum(state['egress'].values())} packets since {date(state['since'])}",
        "problems": sentences(state),
        "planes": state["totals"],
    }


def metrics(state: State, in_force: Mapping[str, bool]) -> str:
    """The same for Prometheus' textfile collector."""
    lines = [
        "# HELP mushishi_guard_refused_packets_total Packets that the guard refused, by rule.",
        "# TYPE mushishi_guard_refused_packets_total counter",
    ]
    for plane, counters in sorted(state["totals"].items()):
        for name, causes in sorted(counters.items()):
            for cause, packets in sorted(causes.items()):
                labels = f'plane="{plane}",direction="{name}",cause="{cause}"'
                lines.append(f"mushishi_guard_refused_packets_total{{{labels}}} {packets}")
    values = {
        "sovereign_egress_packets": ("Sovereign packets beyond their plane", sum(state["egress"].values())),
        "sovereign_egress_since_seconds": ("When that count began", int(state["since"])),
        "alarm": ("Whether something waits for an acknowledgement", int(bool(state["egress"] or state["rules"]))),
        "checked_seconds": ("When this was read", int(state["checked"])),
    }
    for name, (what, value) in values.items():
        lines += [f"# HELP mushishi_guard_{name} {what}.", f"# TYPE mushishi_guard_{name} gauge"]
        lines.append(f"mushishi_guard_{name} {value}")
    lines += ["# HELP mushishi_guard_in_force Whether the rules are the ones that were loaded."]
    lines += ["# TYPE mushishi_guard_in_force gauge"]
    lines += [f'mushishi_guard_in_force{{plane="{plane}"}} {int(value)}' for plane, value in sorted(in_force.items())]
    return "\n".join(lines) + "\n"


def date(moment: float) -> str:
    """A moment in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


# ---- the machine
class Evidence:
    """The tables of this machine, and what is remembered of them."""

    def __init__(self, places: Places | None = None, run: Runner = run_program) -> None:
        self._places = places or Places()
        self._run = run

    def planes(self) -> list[str]:
        """Those that exist now: without a namespace there is nothing to guard in it."""
        return [HOST, *([PLANE] if self._places.namespace.exists() else [])]

    def _inside(self, plane: str) -> list[str]:
        return [] if plane == HOST else ["nsenter", f"--net={self._places.namespace}", "--"]

    def listing(self, plane: str) -> str | None:
        """The table as it is, or None when there is none."""
        tables = self._run([*self._inside(plane), "nft", "--json", "list", "tables", "inet"], "")
        names = [item["table"]["name"] for item in json.loads(tables)["nftables"] if "table" in item]
        if TABLE.split()[1] not in names:
            return None
        return self._run([*self._inside(plane), "nft", "--json", "list", "table", *TABLE.split()], "")

    def identity(self, plane: str) -> str:
        """Changes with each boot, and with each new namespace: there the counters begin at zero."""
        boot = self._places.boot.read_text(encoding="ascii").strip()
        return boot if plane == HOST else f"{boot}/{self._places.namespace.stat().st_ino}"

    def expected(self, plane: str) -> str:
        """The digest of what the file of rules makes: loaded into a namespace that lives as long as the question."""
        path = self._places.rules / f"{plane}.nft"
        if not path.is_file():
            raise Blind(f"{path} is missing")
        script = 'nft --file "$1" && exec nft --json list table inet mushishi_guard'
        return digest(self._run(["unshare", "--net", "--", "sh", "-c", script, "sh", str(path)], ""))

    def load(self, plane: str, *, anew: bool) -> None:
        """Load the rules in one atomic step; ``anew``: without whatever somebody has put into the table."""
        text = (self._places.rules / f"{plane}.nft").read_text(encoding="utf-8")
        first = f"table {TABLE}\ndelete table {TABLE}\n" if anew else ""
        self._run([*self._inside(plane), "nft", "--file", "-"], first + text)

    def in_force(self, state: State, plane: str) -> bool:
        """Whether the rules are those of the file, or those of the file before it, which waits for a reload."""
        listing = self.listing(plane)
        if listing is None:
            return False
        found, wanted = digest(listing), self.expected(plane)
        if found == wanted:
            state["good"][plane] = wanted
        return bool(found == state["good"].get(plane))

    def read(self, state: State, cause: str) -> None:
        """Book the counters of both tables."""
        for plane in self.planes():
            listing = self.listing(plane)
            book(state, plane, self.identity(plane), counters_of(listing) if listing else {}, cause)
        state["checked"] = time.time()

    def mend(self, state: State, plane: str) -> None:
        """Load the rules again and remember that it was necessary."""
        self.load(plane, anew=False)
        if not self.in_force(state, plane):
            self.load(plane, anew=True)
        times = state["rules"].get(plane, {"times": 0})["times"] + 1
        state["rules"][plane] = {"times": times, "last": time.time()}

    @contextlib.contextmanager
    def state(self) -> Iterator[State]:
        """What is remembered, for one reader and writer at a time; written in one step at the end, whatever happens."""
        path = self._places.state
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.remembered()
            try:
                yield state
            finally:
                replace(path, json.dumps(state, sort_keys=True) + "\n")

    def remembered(self) -> State:
        """The state file, or a fresh beginning where there is none that can be read."""
        try:
            state: State = json.loads(self._places.state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return new_state(time.time())
        return state if state.get("version") == 1 else new_state(time.time())

    # ---- the marks of audits, a file for each process
    def start_of(self, pid: int) -> str:
        """When a process began, in the kernel's words; empty when there is none."""
        try:
            text = (self._places.proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return text.rpartition(")")[2].split()[19]

    def marks(self) -> dict[Path, bool]:
        """Each mark, and whether the audit that set it still lives."""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for path in self._places.marks.glob("[0-9]*"):
                with contextlib.suppress(OSError, ValueError):
                    start = path.read_text(encoding="ascii").strip()
                    found[path] = start != "" and self.start_of(int(path.name)) == start
        return found

    def cause(self) -> str:
        """Whose a packet is that was counted since the last reading. The last one of a dead audit is still its own."""
        return AUDIT if self.marks() else TRAFFIC

    def begin_audit(self, pid: int) -> None:
        """From now on refusals are an audit's, and its planted holes stay open, as long as the process lives."""
        with self.state() as state:
            self.read(state, self.cause())
            self._places.marks.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace(self._places.marks / str(pid), f"{self.start_of(pid)}\n", 0o600)

    def end_audit(self, pid: int) -> None:
        """Book what the audit has caused, and take its mark away; those of others stay."""
        with self.state() as state:
            self.read(state, AUDIT)
            (self._places.marks / str(pid)).unlink(missing_ok=True)

    # ---- what is called
    def check(self) -> list[str]:
        """Read, mend, write the metrics; what is wrong, one sentence each."""
        with self.state() as state:
            marks = self.marks()
            self.read(state, AUDIT if marks else TRAFFIC)
            for path in [path for path, alive in marks.items() if not alive]:
                path.unlink(missing_ok=True)
            force = {plane: self.in_force(state, plane) for plane in self.planes()}
            if not any(marks.values()) and not all(force.values()):
                time.sleep(SECOND_LOOK_SECONDS)
                for plane in [plane for plane in self.planes() if not self.in_force(state, plane)]:
                    self.mend(state, plane)
                force = {plane: self.in_force(state, plane) for plane in self.planes()}
            self._places.metrics.parent.mkdir(parents=True, exist_ok=True)
            replace(self._places.metrics, metrics(state, force))
            return sentences(state)

    def acknowledge(self) -> str:
        """Begin to count anew; what was acknowledged."""
        with self.state() as state:
            self.read(state, self.cause())
            said = "; ".join(sentences(state)) or "nothing was wrong"
            state.update(since=time.time(), egress={}, rules={})
        return said

    def totals(self) -> dict[str, Any]:
        """The summary of now: what is remembered and what was counted since. Writes nothing."""
        state = self.remembered()
        self.read(state, self.cause())
        return summary(state)


def replace(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file in one step."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    new.chmod(mode)
    new.replace(path)


def say(stream: TextIO, text: str) -> None:
    """One line."""
    stream.write(text + "\n")


def totals() -> dict[str, Any]:
    """``{since, checked, egress, line, problems, planes: {plane: {counter: {traffic, audit}}}}``. As root.

    Raises:
        Blind: a table cannot be read.
    """
    return Evidence().totals()


@contextlib.contextmanager
def audit_in_progress() -> Iterator[None]:
    """While an audit attacks: its refusals are booked as its own, and what it plants is not mended. As root."""
    evidence = Evidence()
    evidence.begin_audit(os.getpid())
    try:
        yield
    finally:
        evidence.end_audit(os.getpid())


def main(argv: Sequence[str] | None = None) -> int:
    """``check``, ``acknowledge``, ``totals``, ``audit begin --pid N``, ``audit end --pid N``."""
    parser = argparse.ArgumentParser(description="Standing evidence of the guard.")
    words = parser.add_subparsers(dest="word", required=True)
    words.add_parser("check", help="read, mend, write the metrics; ends with 1 (egress) or 2 (rules) in an alarm")
    words.add_parser("acknowledge", help="end an alarm and begin to count anew")
    words.add_parser("totals", help="what was counted so far, as JSON; writes nothing")
    audit = words.add_parser("audit", help="refusals are an audit's from begin to end")
    audit.add_argument("verb", choices=["begin", "end"])
    audit.add_argument("--pid", type=int, default=os.getppid(), help="as long as this process lives")
    given = parser.parse_args(argv)
    evidence = Evidence()
    try:
        if given.word == "totals":
            say(sys.stdout, json.dumps(evidence.totals(), sort_keys=True))
        elif given.word == "acknowledge":
            say(sys.stdout, f"Acknowledged: {evidence.acknowledge()}")
        elif given.word == "audit":
            evidence.begin_audit(given.pid) if given.verb == "begin" else evidence.end_audit(given.pid)
        else:
            problems = evidence.check()
            for problem in problems:
                say(sys.stderr, f"ALARM {problem}")
            return EXIT_EGRESS if any("egress" in text for text in problems) else EXIT_RULES if problems else 0
    except (Blind, OSError, ValueError, subprocess.TimeoutExpired) as error:
        say(sys.stderr, f"The guard's evidence cannot be read: {error}")
        return EXIT_BLIND
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
