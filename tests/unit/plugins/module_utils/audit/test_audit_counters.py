# SPDX-License-Identifier: MIT
"""The standing evidence: what is counted, what is an alarm, what an audit is forgiven, and that rules are mended."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit import counters
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.counters import Evidence, Places

Rules = tuple[str, ...]
GOOD: dict[str, Rules] = {"host": ("reject",), "plane": ("accept", "reject")}


def listing(rules: Rules, counts: dict[str, int], **more: Any) -> str:
    """What ``nft --json list table`` prints, as far as it is read."""
    chain = {"name": "output", "type": "filter", "hook": "output", "prio": -10, "policy": "accept", "handle": 3} | more
    objects: list[dict[str, Any]] = [{"metainfo": {}}, {"table": {"name": "mushishi_guard"}}, {"chain": chain}]
    objects += [{"counter": {"name": name, "packets": packets}} for name, packets in counts.items()]
    objects += [{"rule": {"chain": "output", "handle": n, "expr": [{word: None}]}} for n, word in enumerate(rules)]
    return json.dumps({"nftables": objects})


class Kernel:
    """Two tables; ``unshare`` shows what the file of a plane would make."""

    def __init__(self, folder: Path) -> None:
        self.counts = {"host": {"sovereign_to_host": 0, "host_to_sovereign": 0}, "plane": {"out_of_namespace": 0}}
        self.rules: dict[str, Rules | None] = dict(GOOD)
        self.files = dict(GOOD)
        self.loaded: list[str] = []
        self.places = Places(
            folder / "state/evidence.json",
            folder / "metrics/x.prom",
            folder / "run/audits",
            folder,
            folder / "ns",
            folder / "boot",
            folder / "proc",
        )
        self.places.namespace.touch()
        self.boot("one")
        for plane in GOOD:
            (folder / f"{plane}.nft").write_text("rules")

    def boot(self, name: str) -> None:
        self.places.boot.write_text(f"{name}\n")

    def alive(self, pid: int, start: str = "77") -> None:
        """A process as /proc shows it."""
        (self.places.proc / str(pid)).mkdir(parents=True, exist_ok=True)
        words = " ".join(["S"] + ["0"] * 18 + [start, "0"])
        (self.places.proc / str(pid) / "stat").write_text(f"{pid} (a ) b) {words}\n")

    def dead(self, pid: int) -> None:
        (self.places.proc / str(pid) / "stat").unlink()

    def run(self, argv: Sequence[str], text: str) -> str:
        if argv[0] == "unshare":
            return listing(self.files[Path(argv[-1]).stem], {})
        plane = "plane" if argv[0] == "nsenter" else "host"
        if "--file" in argv:
            self.loaded.append(f"{plane} {'anew' if 'delete table' in text else 'again'}")
            self.rules[plane] = self.files[plane]
            return ""
        rules = self.rules[plane]
        if "tables" in argv:
            return json.dumps({"nftables": [{"table": {"name": "mushishi_guard"}}] if rules is not None else []})
        assert rules is not None
        return listing(rules, self.counts[plane])

    def evidence(self) -> Evidence:
        return Evidence(self.places, self.run)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr(counters, "SECOND_LOOK_SECONDS", 0)
    return Kernel(tmp_path)


@pytest.mark.parametrize(
    ("plane", "name", "wanted"),
    [
        ("host", "sovereign_to_host", True),
        ("host", "sovereign_to_elsewhere", True),
        ("host", "sovereign_user_gateway", True),
        ("plane", "out_of_namespace", True),
        ("host", "host_to_sovereign", False),
        ("host", "elsewhere_to_sovereign", False),
        ("host", "ingress_sovereign_to_elsewhere", False),
        ("host", "out_of_namespace", False),
        ("plane", "into_namespace", False),
        ("plane", "stray", False),
        ("host", "stray", False),
    ],
)
def test_what_is_egress(plane: str, name: str, wanted: bool) -> None:
    assert counters.is_egress(plane, name) is wanted


def test_a_quiet_day_is_no_alarm(kernel: Kernel) -> None:
    kernel.counts["host"]["host_to_sovereign"] = 12
    assert kernel.evidence().check() == []
    assert kernel.evidence().totals()["line"].startswith("sovereign egress: 0 packets since 20")
    text = kernel.places.metrics.read_text()
    assert (
        'mushishi_guard_refused_packets_total{plane="host",direction="host_to_sovereign",cause="traffic"} 12\n' in text
    )
    assert "mushishi_guard_alarm 0\n" in text and 'mushishi_guard_in_force{plane="plane"} 1\n' in text
    assert kernel.places.metrics.stat().st_mode & 0o777 == 0o644 and kernel.loaded == []


@pytest.mark.parametrize(("plane", "name"), [("host", "sovereign_to_host"), ("plane", "out_of_namespace")])
def test_one_packet_is_an_alarm_until_it_is_acknowledged(kernel: Kernel, plane: str, name: str) -> None:
    kernel.evidence().check()
    kernel.counts[plane][name] += 1
    for _again in range(2):
        (said,) = kernel.evidence().check()
        assert said.startswith(f"sovereign egress: 1 packets refused at {plane}/{name} since 20")
    assert "mushishi_guard_sovereign_egress_packets 1\n" in kernel.places.metrics.read_text()
    assert said in kernel.evidence().acknowledge()
    assert kernel.evidence().check() == [] and kernel.evidence().totals()["egress"] == 0
    assert kernel.evidence().totals()["planes"][plane][name] == {"traffic": 1, "audit": 0}, "the total goes on"


def test_totals_know_what_was_not_written_yet(kernel: Kernel) -> None:
    kernel.evidence().check()
    before = kernel.places.state.read_text()
    kernel.counts["host"]["sovereign_to_host"] = 3
    assert kernel.evidence().totals()["egress"] == 3
    assert kernel.places.state.read_text() == before


def test_totals_grow_across_reboots_and_new_namespaces(kernel: Kernel) -> None:
    kernel.counts["plane"]["out_of_namespace"] = 5
    kernel.evidence().check()
    kernel.boot("two")
    kernel.counts["plane"]["out_of_namespace"] = 7  # more than before, and all of it new
    kernel.evidence().check()
    assert kernel.evidence().totals()["planes"]["plane"]["out_of_namespace"]["traffic"] == 12
    kernel.places.namespace.unlink()
    assert "plane" not in kernel.evidence().planes()
    kernel.evidence().check()
    kernel.places.namespace.with_name("other").touch()
    kernel.places.namespace.with_name("other").rename(kernel.places.namespace)
    kernel.counts["plane"]["out_of_namespace"] = 1
    kernel.evidence().check()
    assert kernel.evidence().totals()["planes"]["plane"]["out_of_namespace"]["traffic"] == 13


def test_what_an_audit_provokes_is_its_own(kernel: Kernel) -> None:
    kernel.alive(4242)
    kernel.evidence().begin_audit(4242)
    kernel.counts["host"]["sovereign_to_host"] = 40
    kernel.rules["host"] = ("accept", "reject")  # a planted hole
    assert kernel.evidence().check() == [] and kernel.loaded == []
    assert 'mushishi_guard_in_force{plane="host"} 0\n' in kernel.places.metrics.read_text()
    kernel.counts["host"]["sovereign_to_host"] = 41
    kernel.rules["host"] = GOOD["host"]
    kernel.evidence().end_audit(4242)
    assert kernel.evidence().check() == []
    assert kernel.evidence().totals()["planes"]["host"]["sovereign_to_host"] == {"traffic": 0, "audit": 41}
    kernel.counts["host"]["sovereign_to_host"] = 42
    assert len(kernel.evidence().check()) == 1, "afterwards it is an alarm again"


@pytest.mark.parametrize("start", ["gone", "another"])
def test_a_mark_ends_with_its_process(kernel: Kernel, start: str) -> None:
    kernel.alive(4242)
    kernel.evidence().begin_audit(4242)
    kernel.dead(4242)
    if start == "another":
        kernel.alive(4242, "78")
    kernel.rules["host"] = ("accept", "reject")
    said = kernel.evidence().check()
    assert said and "rules of the host" in said[0] and kernel.loaded == ["host again"]
    assert list(kernel.places.marks.iterdir()) == []


def test_an_audit_within_an_audit_ends_alone(kernel: Kernel) -> None:
    for pid in (41, 42):
        kernel.alive(pid)
        kernel.evidence().begin_audit(pid)
    kernel.evidence().end_audit(42)
    kernel.counts["host"]["sovereign_to_host"] = 3
    assert kernel.evidence().check() == []
    kernel.evidence().end_audit(41)
    kernel.counts["host"]["sovereign_to_host"] = 4
    assert len(kernel.evidence().check()) == 1


def test_what_came_before_an_audit_is_not_forgiven(kernel: Kernel) -> None:
    kernel.evidence().check()
    kernel.counts["host"]["sovereign_to_host"] = 1
    kernel.alive(4242)
    kernel.evidence().begin_audit(4242)
    kernel.evidence().end_audit(4242)
    assert len(kernel.evidence().check()) == 1


@pytest.mark.parametrize("found", [None, ("accept", "reject"), (), ("accept",)])
def test_rules_of_another_hand_are_mended(kernel: Kernel, found: Rules | None) -> None:
    assert kernel.evidence().check() == []
    kernel.rules["host"] = found
    (said,) = kernel.evidence().check()
    assert said.startswith("guard rules of the host were not in force: 1 times")
    assert kernel.rules["host"] == GOOD["host"] and kernel.loaded == ["host again"]
    assert kernel.evidence().check() == [said], "it stays said"
    assert kernel.loaded == ["host again"]
    kernel.evidence().acknowledge()
    assert kernel.evidence().check() == []


def test_a_table_that_a_reload_does_not_mend_is_made_anew(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, real = kernel.evidence(), kernel.run

    def stubborn(argv: Sequence[str], text: str) -> str:
        if "--file" in argv and "delete table" not in text and argv[0] != "unshare":
            kernel.loaded.append("in vain")
            return ""
        return real(argv, text)

    monkeypatch.setattr(evidence, "_run", stubborn)
    kernel.rules["plane"] = ("reject",)
    assert len(evidence.check()) == 1 and kernel.loaded == ["in vain", "plane anew"]


def test_a_new_file_that_waits_for_its_reload_is_no_alarm(kernel: Kernel) -> None:
    assert kernel.evidence().check() == []
    kernel.files["host"] = ("drop",)
    assert kernel.evidence().check() == [] and kernel.loaded == []
    kernel.rules["host"] = ("drop",)
    assert kernel.evidence().check() == []
    kernel.rules["host"] = GOOD["host"]
    assert len(kernel.evidence().check()) == 1, "the rules of the old file are no longer good"


def test_a_digest_is_of_rules_and_chains() -> None:
    one = counters.digest(listing(("a", "b"), {"x": 1}))
    assert one == counters.digest(listing(("a", "b"), {"y": 7}, handle=99))
    others = [listing(("b", "a"), {}), listing(("a",), {}), listing(("a", "b"), {}, policy="drop")]
    assert one not in [counters.digest(text) for text in [*others, listing(("a", "b"), {}, prio=10)]]


def test_nothing_readable_is_no_zero(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    (kernel.places.rules / "host.nft").unlink()
    with pytest.raises(counters.Blind, match=r"host\.nft is missing"):
        kernel.evidence().check()
    with pytest.raises(counters.Blind):
        counters.run_program(["sh", "-c", "echo no >&2; exit 3"], "")


@pytest.mark.parametrize(("said", "status"), [([], 0), (["sovereign egress: 1"], 1), (["guard rules of"], 2)])
def test_the_program_ends_with_what_it_found(
    said: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Evidence, "check", lambda self: said)
    assert counters.main(["check"]) == status
    assert capsys.readouterr().err == "".join(f"ALARM {text}\n" for text in said)


def test_the_program_says_that_it_is_blind(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def blind(self: Evidence) -> dict[str, Any]:
        raise counters.Blind("nft: no such program")

    monkeypatch.setattr(Evidence, "totals", blind)
    assert counters.main(["totals"]) == counters.EXIT_BLIND
    assert "cannot be read: nft" in capsys.readouterr().err


def test_the_mark_knows_a_real_process() -> None:
    assert Evidence().start_of(os.getpid()).isdigit() and Evidence().start_of(2**22 + 1) == ""
