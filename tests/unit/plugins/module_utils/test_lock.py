# SPDX-License-Identifier: MIT
"""The converge lock: who gets it, whose owner is dead, and that of many at once one alone gets it."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils import _lock

FIRST = "boot-1 pid:[4026531836]"
ANNA = _lock.Owner("laptop", "m1", FIRST, 4711, "1000", "anna", "site.yml")
BEN = replace(ANNA, pid=4712, user="ben")
ELSEWHERE = replace(ANNA, controller="desk", machine="m2", kernel="boot-9 pid:[4026531836]")
HELD = _lock.Record("t1", ANNA, since=1000.0, refreshed=1000.0)


@pytest.mark.parametrize(
    ("record", "me", "now", "judged", "takeover", "verdict"),
    [
        (None, ANNA, 1000, "", False, "taken"),
        (HELD, ANNA, 9999999, "", False, "kept"),
        (HELD, replace(ANNA, playbook="mode.yml"), 1000, "", False, "kept"),
        (HELD, BEN, 1000, "", False, "refused"),
        (HELD, replace(ANNA, started="2000"), 1000, "", False, "refused"),
        (HELD, BEN, 1000, "t1", False, "dead"),
        (HELD, BEN, 1000, "t0", False, "refused"),
        (HELD, BEN, 1000, "t0", True, "refused"),
        (HELD, ELSEWHERE, 8199, "", False, "refused"),
        (HELD, ELSEWHERE, 8200, "", False, "lapsed"),
        (HELD, BEN, 8200, "", False, "refused"),
        (HELD, ELSEWHERE, 1000, "t1", True, "ordered"),
        (HELD, ELSEWHERE, 1000, "", True, "refused"),
    ],
)
def test_who_gets_it(
    record: _lock.Record | None, me: _lock.Owner, now: float, judged: str, takeover: bool, verdict: str
) -> None:
    assert _lock.judge(record, me, now, 7200, judged=judged, takeover=takeover) == verdict


def proc(tmp_path: Path, **states: str) -> str:
    """A /proc with processes ``p<pid>="<state> <start>"``."""
    for name, value in states.items():
        state, start = value.split()
        folder = tmp_path / name.removeprefix("p")
        folder.mkdir()
        rest = " ".join([state, *["0"] * 18, start, "0", "0"])
        (folder / "stat").write_text(f"{name.removeprefix('p')} (odd) name 7) {rest}\n")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("state", "dead"),
    [("S 1000", False), ("S 1001", True), ("Z 1000", True), (None, True)],
    ids=["alive", "PID used again", "zombie", "gone"],
)
def test_death_on_this_controller(tmp_path: Path, state: str | None, dead: bool) -> None:
    folder = proc(tmp_path, **({"p4711": state} if state else {}))
    assert _lock.owner_is_dead(ANNA, BEN, folder) is dead


def test_without_proc_the_pid_alone_has_to_do() -> None:
    mac = replace(ANNA, kernel="mac 1a2b", started="")
    assert _lock.owner_is_dead(replace(mac, pid=os.getpid()), mac) is False
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert _lock.owner_is_dead(replace(mac, pid=ended.pid), mac) is True


@pytest.mark.parametrize(
    ("here", "dead"),
    [
        (ELSEWHERE, None),
        (replace(ANNA, kernel="boot-2 pid:[4026531836]"), True),
        (replace(ANNA, kernel="boot-2 pid:[4026533000]"), None),
        (replace(ANNA, kernel="boot-2 pid:[4026531836]", controller="other"), None),
        (replace(ANNA, kernel="boot-2 pid:[4026531836]", machine="m3"), None),
    ],
    ids=["another machine", "rebooted", "a container", "renamed", "a namesake"],
)
def test_death_seen_from_elsewhere(here: _lock.Owner, dead: bool | None) -> None:
    assert _lock.owner_is_dead(ANNA, here) is dead


def test_this_run_is_alive_and_another_start_time_is_not() -> None:
    me = _lock.this_run(os.getpid(), "site.yml")
    assert me.started and me.user and me.controller
    assert _lock.owner_is_dead(me, me) is False
    assert _lock.owner_is_dead(replace(me, started=me.started + "0"), me) is True


def contend(path: str, pid: int, judged: str, start: Any, results: Any) -> None:
    """One of many runs that ask at the same moment."""
    start.wait()
    outcome = _lock.hold(path, replace(ANNA, pid=pid), 7200, judged=judged, takeover=False, look_only=False)
    results.put((pid, outcome.verdict))


@pytest.mark.parametrize("dead", [False, True], ids=["free lock", "dead owner's lock"])
def test_of_many_at_once_one_gets_it(tmp_path: Path, dead: bool) -> None:
    path = str(tmp_path / "lock")
    judged = ""
    if dead:
        first = _lock.hold(path, BEN, 7200, judged="", takeover=False, look_only=False)
        assert first.record
        judged = first.record.token
    fork = multiprocessing.get_context("fork")
    start, results = fork.Event(), fork.Queue()
    runs = [fork.Process(target=contend, args=(path, 100 + n, judged, start, results)) for n in range(12)]
    for run in runs:
        run.start()
    start.set()
    verdicts = dict(results.get(timeout=30) for _ in runs)
    for run in runs:
        run.join()
    winners = [pid for pid, verdict in verdicts.items() if verdict != "refused"]
    assert len(winners) == 1 and verdicts[winners[0]] == ("dead" if dead else "taken")
    record = _lock.read(path)
    assert record and record.owner.pid == winners[0]


def test_a_killed_writer_holds_nobody_up(tmp_path: Path) -> None:
    """Killed inside the guarded section: the kernel frees the guard, and the half record is overwritten."""
    path = str(tmp_path / "lock")
    Path(path + ".new").write_text('{"shape": 1, "tok')
    fork = multiprocessing.get_context("fork")
    inside = fork.Event()

    def stay() -> None:
        with _lock._alone(path):
            inside.set()
            time.sleep(60)

    held = fork.Process(target=stay)
    held.start()
    assert inside.wait(10)
    held.kill()
    held.join()
    assert _lock.hold(path, ANNA, 7200, judged="", takeover=False, look_only=False).verdict == "taken"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"shape": 2}', '{"shape": 1, "owner": {}}'])
def test_a_record_that_says_nothing_blocks_nobody(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock"
    path.write_text(text)
    assert _lock.hold(str(path), ANNA, 7200, judged="", takeover=False, look_only=False).verdict == "taken"


def test_free_takes_away_our_own_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    assert _lock.free(path, ANNA, look_only=False).verdict == "free"
    _lock.hold(path, ANNA, 7200, judged="", takeover=False, look_only=False)
    assert _lock.free(path, BEN, look_only=False).verdict == "not ours"
    assert _lock.read(path)
    assert _lock.free(path, ANNA, look_only=False).verdict == "freed"
    assert _lock.read(path) is None


def test_a_touch_is_a_sign_of_life(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    _lock.hold(path, ANNA, 7200, judged="", takeover=False, look_only=False)
    later = time.time() + 5000
    os.utime(path, (later, later))
    record = _lock.read(path)
    assert record and record.refreshed == pytest.approx(later, abs=1)
