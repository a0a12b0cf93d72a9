# SPDX-License-Identifier: MIT
"""What a probe's results mean; the probe itself, on this machine's loopback alone; holes that are not found make a run
invalid.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit import attack, control, model, probe, table
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.attack import Place, judge
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.facts import Machine, Settings
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.model import Row

PLANE = Place("unit x (bare)", "P1", ("python3",))
GROUP = Place("unit x (in its group)", "P1", ("python3",), kind="group")
HOST = Place("user x on the host", "P4", ("python3",), plane=False, kind="user")
BEYOND = {"proto": "tcp", "path": "→ internet v4", "beyond": True}
LAN = {"proto": "tcp", "path": "→ host on the LAN"}


def seen(state: str, code: str = "", ms: float = 0.1, detail: str = "") -> dict[str, Any]:
    return {"state": state, "errno": code, "ms": ms, "detail": detail}


@pytest.mark.parametrize(
    ("place", "target", "result", "outcomes"),
    [
        (PLANE, BEYOND, seen("error", "ENETUNREACH"), ["refused"]),
        # Beyond a LAN without a router any other answer means that there is one.
        (PLANE, BEYOND, seen("error", "ECONNREFUSED"), ["leaked"]),
        (PLANE, BEYOND, seen("error", "EPERM"), ["leaked"]),
        (HOST, BEYOND, seen("error", "ECONNREFUSED"), ["refused"]),
        (PLANE, LAN, seen("error", "ECONNREFUSED"), ["refused"]),
        (PLANE, LAN, seen("open"), ["leaked"]),
        (PLANE, {**LAN, "allowed": True}, seen("open"), ["holds"]),
        (HOST, BEYOND, seen("silent", "ETIMEDOUT", 1500), ["leaked"]),
        (HOST, BEYOND, seen("sent", ms=1500), ["leaked"]),
        (PLANE, {**LAN, "silent": True}, seen("sent", ms=300), ["refused"]),
        # A unit's own filter of addresses is silent, on the LAN alone.
        (GROUP, LAN, seen("silent", "ETIMEDOUT", 1500), ["refused"]),
        (GROUP, BEYOND, seen("silent", "ETIMEDOUT", 1500), ["leaked"]),
        (PLANE, LAN, seen("error", "EHOSTUNREACH", 3000), ["refused", "leaked"]),
        (PLANE, {**LAN, "proto": "http"}, seen("open", detail="404"), ["refused"]),
        (PLANE, {**LAN, "proto": "http"}, seen("open", detail="200"), ["leaked"]),
        (PLANE, {**LAN, "proto": "http"}, seen("open", detail="401"), ["leaked"]),
        (
            PLANE,
            {**BEYOND, "proto": "icmp"},
            seen("error", "EPERM", detail="this user has no ICMP socket"),
            ["refused"],
        ),
        (PLANE, {"proto": "read", "path": "→ files"}, seen("error", "EACCES", 4000), ["refused"]),
    ],
)
def test_what_a_result_means(place: Place, target: dict[str, Any], result: dict[str, Any], outcomes: list[str]) -> None:
    assert [row.outcome for row in judge(place, target, result)] == outcomes


class Answers(Machine):
    """A machine on which each probe answers the next of these."""

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self.answers, self.asked = list(answers), 0

    def done(self, *argv: str, stdin: str = "", timeout: float = 30) -> tuple[int, str, str]:
        self.asked += 1
        answer = self.answers.pop(0)
        return (1, "", answer) if isinstance(answer, str) else (0, attack.json.dumps(answer), "")


def test_a_late_refusal_is_tried_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attack.time, "sleep", lambda _seconds: None)
    machine = Answers([seen("error", "EPERM", 2000), seen("error", "EPERM")], [seen("error", "EPERM", 0.2)])
    rows = attack.attack(machine, PLANE, [LAN, LAN])
    assert [(row.outcome, row.ms) for row in rows] == [("refused", 0.2), ("refused", 0.1)] and machine.asked == 2


def test_what_stays_silent_is_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attack.time, "sleep", lambda _seconds: None)
    silent = seen("sent", ms=1500)
    assert [row.outcome for row in attack.attack(Answers([silent], [silent], [silent], [silent]), HOST, [BEYOND])] == [
        "leaked"
    ]
    told = attack.attack(Answers([silent], [seen("error", "EPERM")]), HOST, [BEYOND])
    assert [row.outcome for row in told] == ["refused"]


def test_a_probe_that_did_not_run_is_not_tested() -> None:
    (row,) = attack.attack(Answers("no python here"), PLANE, [LAN])
    assert row.outcome == "not tested" and "no python here" in row.detail
    assert model.verdict([row]) == "invalid"
    (row,) = attack.attack(Answers([]), PLANE, [LAN])
    assert row.outcome == "not tested" and "less than it was asked" in row.detail


def test_without_an_engines_container_the_audit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def heard(self) -> list[str]:
            return []

    monkeypatch.setattr(attack, "addresses", lambda *_words: [])
    monkeypatch.setattr(attack, "listening", lambda *_words, **_more: [])
    monkeypatch.setattr(attack, "Echo", lambda *_words: contextlib.nullcontext(Silent()))
    (row,) = attack.collect(Answers(), Settings(), [], ["containers"])
    assert (row.source, row.outcome) == ("engine containers", "not tested") and "start a GPU mode" in row.detail
    assert attack.collect(Answers(), Settings(), [], ["egress"]) == [], "control: it is said of containers alone"


def test_a_sweep_is_one_row_and_each_leak_its_own() -> None:
    targets = [{**LAN, "path": f"→ port {port}", "sweep": "→ ports 1 to 3"} for port in (1, 2, 3)]
    rows = attack.attack(Answers([seen("error", "EPERM"), seen("open"), seen("error", "EPERM")]), HOST, targets)
    assert [(row.path, row.outcome) for row in rows] == [("→ port 2", "leaked"), ("→ ports 1 to 3", "refused")]


def test_a_hybrid_user_has_the_policys_hosts_and_nothing_else() -> None:
    settings = Settings(
        hybrid_egress={"gw": [{"host": "api.example", "port": 443}]},
        loopback_services=[{"comment": "", "port": 4000, "users": ["ingress"]}],
    )
    places = [{"address": "192.0.2.1", "hosts": ["api.example"]}, {"address": "192.0.2.2", "hosts": []}]
    ways = [
        ("tcp", "192.0.2.1", 443),
        ("tcp", "192.0.2.1", 80),
        ("udp", "192.0.2.1", 443),
        ("tcp", "192.0.2.2", 443),
        ("tcp", "127.0.0.1", 4000),
    ]
    targets = [{"proto": proto, "address": address, "port": port} for proto, address, port in ways]
    assert [one["allowed"] for one in attack.beyond_policy(settings, places, targets, "gw")] == [
        True,
        False,
        False,
        False,
        False,
    ]
    assert [one["allowed"] for one in attack.beyond_policy(settings, places, targets, "ingress")] == [False] * 4 + [
        True
    ]


def test_the_engine_door_is_asked_for_what_it_must_not_pass() -> None:
    routes = [
        {"backend": "gpu", "prefix": "/gpu/v1", "planes": ["sovereign", "hybrid"]},
        {"backend": "gpu-forensic", "prefix": "/gpu-forensic/v1", "planes": ["sovereign"]},
    ]
    asked = {one["url"] for one in attack.door_targets(Settings(door_routes=routes)) if "method" not in one}
    assert {"/gpu/metrics", "/gpu-forensic/v1/models", "/gpu/slots", "/metrics"} <= asked
    assert "/gpu/v1/models" not in asked


def test_from_each_place_enough_is_tried_by_both_versions() -> None:
    places = [
        {"name": f"place {n}", "address": address, "beyond": True, "ports": [], "hosts": []}
        for n, address in enumerate(("192.0.2.1", "2001:db8::1") * 3)
    ]
    ways = attack.network(places, Settings(), PLANE, "example.com")
    six = [way for way in ways if ":" in way["address"]]
    assert len(ways) >= 60 and len(six) >= 20 and {way["proto"] for way in ways} == {"tcp", "udp", "dns", "icmp"}


# ---- the probe


@contextmanager
def answering() -> Iterator[int]:
    """A port on loopback that somebody listens at."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        yield int(door.getsockname()[1])


def closed() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def test_the_probe_tells_open_from_refused() -> None:
    with answering() as port:
        targets = [{"proto": "tcp", "address": "127.0.0.1", "port": at} for at in (port, closed())]
        results = probe.attempt(targets, 1.0)
    assert [(one["state"], one["errno"]) for one in results] == [("open", ""), ("error", "ECONNREFUSED")]


def test_the_probe_hears_a_datagram_refused_and_one_that_nobody_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("127.0.0.1", 0))
        deaf = {"proto": "udp", "address": "127.0.0.1", "port": ear.getsockname()[1], "wait": 0.1, "token": "x"}
        refused = {"proto": "udp", "address": "127.0.0.1", "port": closed(), "wait": 0.5}
        results = probe.attempt([deaf, refused], 1.0)
        assert ear.recv(10) == b"x"
    assert [one["state"] for one in results] == ["sent", "error"]


def test_the_probe_opens_socket_files_and_names(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "s"))
        door.listen()
        targets = [{"proto": "unix", "file": str(tmp_path / name)} for name in ("s", "none")]
        results = probe.attempt(targets, 1.0)
    assert [(one["state"], one["errno"]) for one in results] == [("open", ""), ("error", "ENOENT")]


def test_the_probe_reads_what_it_may(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    shut = {"proto": "read", "files": [str(tmp_path / "none")]}
    (opened, refused) = probe.attempt([{"proto": "read", "files": [str(tmp_path / "a"), str(tmp_path)]}, shut])
    assert opened["state"] == "open" and str(tmp_path / "a") in opened["detail"]
    assert (refused["state"], refused["errno"]) == ("error", "ENOENT")


def test_the_probe_runs_as_a_text_of_its_own() -> None:
    """As it is sent: with nothing of this collection in reach."""
    place = Place("here", "P1", ("python3", "-I", "-c"))
    (result,) = attack.knock(
        Machine(), place, [{"proto": "tcp", "address": "127.0.0.1", "port": closed(), "path": "→", "rule": "P1"}]
    )
    assert result["errno"] == "ECONNREFUSED"


def test_a_listener_hears_and_ends() -> None:
    port = closed()
    ear = control.Listener([{"proto": "udp", "address": "127.0.0.1", "port": port}])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
        mouth.sendto(b"a token", ("127.0.0.1", port))
    for _ in range(50):
        if ear.process.poll() is None:
            break
    probe.time.sleep(0.3)
    assert ear.close() == ["a token"] and ear.process.poll() == 0
    with pytest.raises(RuntimeError, match="cannot listen"):
        control.Listener([{"proto": "tcp", "address": "192.0.2.1", "port": port}])


# ---- the controls

GOOD = Row("attack", "P1", "unit x", "→ y", "refused", 0.1)
HOLE = Row("control", "P1", "unit x", "→ marked sink", "leaked", 0.1)


def test_a_hole_that_is_found_is_what_is_wanted() -> None:
    row = control.found(
        "P1", "unit x", "hole", [Row("attack", "P1", "unit x", "→ marked sink", "leaked", 0.2, "it got through")]
    )
    assert (row.kind, row.outcome, row.ms) == ("control", "leaked", 0.2) and control.proves([row]) is None
    assert model.verdict([GOOD, row]) == "green"


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [Row("attack", "P1", "unit x", "→ marked sink", "refused")],
        [Row("attack", "P1", "unit x", "→ marked sink", "not tested")],
    ],
)
def test_a_hole_that_is_not_found_is_invalid_and_not_green(rows: list[Row]) -> None:
    row = control.found("P1", "unit x", "hole", rows)
    assert row.outcome != "leaked" and "NOT found" in row.detail
    assert model.verdict([GOOD, HOLE, row]) == "invalid" and "NOT found" in str(control.proves([GOOD, HOLE, row]))


def test_without_controls_nothing_is_proven() -> None:
    assert model.verdict([GOOD]) == "invalid" and control.proves([GOOD]) == "no hole was planted, so nothing is proven"


def test_a_hole_that_cannot_be_planted_is_invalid() -> None:
    """No timer that would close it, no hole: systemd-run fails here."""
    (row,) = control.guarded("static", lambda: control.static_control(Answers(*["no systemd"] * 9), Settings()))
    assert (
        row.outcome == "not tested" and "no hole is planted" in row.detail and model.verdict([GOOD, row]) == "invalid"
    )


class Commands(Machine):
    """A machine that takes every command and remembers it; the rules that were inserted are listed until deleted."""

    def __init__(self, *, stuck: bool = False) -> None:
        super().__init__()
        self.said: list[tuple[str, ...]] = []
        self.rules: list[str] = []
        self.stuck = stuck

    def done(self, *argv: str, stdin: str = "", timeout: float = 30) -> tuple[int, str, str]:
        self.said.append(argv)
        if "insert rule" in stdin:
            self.rules.append(stdin)
        if argv[:2] == ("sh", "-c") and not self.stuck:
            self.rules.clear()
        return 0, "\n".join(self.rules) if argv[-4:-2] == ("list", "table") else "", ""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(control, "FOLDER", str(tmp_path / "holes"))
    return tmp_path / "holes"


def test_a_hole_has_a_date_a_timer_and_an_end(folder: Path) -> None:
    machine = Commands()
    holes = control.Holes(machine, Settings())
    with contextlib.suppress(ZeroDivisionError), holes.open():
        timer = machine.said[0]
        assert timer[0] == "systemd-run" and f"--on-active={control.LIFE}" in timer, "the timer comes first"
        assert holes.name in timer[-1] and "$NF" not in timer[-1].replace("$$NF", "") and os.path.isdir(folder)
        holes.rule("plane", "output", "tcp dport 9")
        assert f"meta time < {holes.until}" in machine.rules[0] and holes.left()
        _ = 1 / 0
    assert not machine.rules and not holes.left()
    assert ("systemctl", "stop", f"{holes.name}.timer") in machine.said
    assert not any("reload" in argv for argv in machine.said), "closed by its own hand"


def test_rules_that_stay_are_taken_away_by_the_guards_own_files(folder: Path) -> None:
    machine = Commands(stuck=True)
    holes = control.Holes(machine, Settings())
    with holes.open():
        holes.rule("host", "input", "tcp dport 9")
    assert any("reload" in argv for argv in machine.said)


# ---- the table


def test_the_table_says_leaks_first_and_counts_the_rest() -> None:
    rows = [
        GOOD,
        HOLE,
        Row("attack", "P3", "unit y", "→ z", "leaked", 1.0, "it got through"),
        Row("pull", "P2", "user", "→ q", "not tested", None, "why"),
    ]
    said = "\n".join(table.lines(rows, "red"))
    assert said.startswith("Verdict: red. 3 paths and settings, 1 leaked, 1 not tested; 1 of 1 planted holes found.")
    assert said.index("LEAKED (1)") < said.index("not tested (1)") < said.index("Held")
    assert "unit y · → z (it got through)" in said and "unit x: 1, refused in 0.10 ms (median)" in said
    many = [Row("attack", "P3", "unit y", f"→ {n}", "leaked") for n in range(50)]
    assert "… and 10 more" in "\n".join(table.lines(many, "red"))


def test_rows_are_chosen_by_kind_and_pattern() -> None:
    assert table.chosen([GOOD, HOLE], ["control"], []) == [HOLE]
    assert table.chosen([GOOD, HOLE], [], ["marked*"]) == [HOLE] and table.chosen([GOOD, HOLE], [], []) == [GOOD, HOLE]
    assert table.chosen([GOOD, HOLE], [], ["nothing"]) == []
