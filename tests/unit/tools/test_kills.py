# SPDX-License-Identifier: MIT
"""The parts of the kills that decide something: what is drawn, what is killed, what a run's output says."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

from labkit import kills

LINES = [
    (0.5, "PLAY [x] ****\n"),
    (1.0, "TASK [first] ****\n"),
    (1.2, "ok: [hub]\n"),
    (3.0, "RUNNING HANDLER [role : Restart it] ****\n"),
    (3.5, "TASKS RECAP ***\n"),
    (4.0, "hub : ok=2\n"),
]


def test_the_tasks_of_a_run_and_their_seconds() -> None:
    assert kills.tasks_of(LINES) == [kills.Task(0, "first", 2.0), kills.Task(1, "role : Restart it", 1.0)]
    assert kills.tasks_of([]) == []


def test_the_same_seed_draws_the_same() -> None:
    tasks = [kills.Task(n, str(n), 1.0 + n) for n in range(100)]

    def drawn(seed: int) -> list[object]:
        dice = random.Random(seed)  # noqa: S311 - dice, not secrets
        return [(kills.draw(dice, tasks, n), kills.wreckage(dice)) for n in range(10)]

    assert drawn(7) == drawn(7) != drawn(8)


def test_a_moment_lies_within_its_task_and_long_ones_are_met() -> None:
    tasks = [*(kills.Task(n, str(n), 0.1) for n in range(99)), kills.Task(99, "the environment", 60.0)]
    dice = random.Random(1)  # noqa: S311 - dice, not secrets
    moments = [kills.draw(dice, tasks, n) for n in range(200)]
    assert all(0 <= moment.after <= moment.task.seconds for moment in moments)
    by_time, evenly = (sum(m.task.number == 99 for m in moments[start::2]) for start in (1, 0))
    assert by_time > 60 > 10 > evenly
    assert {moment.machine_too for moment in moments} == {True, False}


def test_every_part_is_taken_away_sometimes_and_the_parts_are_shell() -> None:
    dice = random.Random(1)  # noqa: S311 - dice, not secrets
    assert {name for _ in range(30) for name in kills.wreckage(dice)} == set(kills.PARTS)
    script = kills.PRELUDE + "\n".join(kills.PARTS.values())
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0


def test_children_in_their_own_sessions_are_found_and_killed() -> None:
    """Workers of Ansible call setsid(), so that a kill of the process group would leave them."""
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout
    child = int(process.stdout.readline())
    assert kills.descendants(process.pid) == [child]
    kills.kill(process)
    deadline = time.monotonic() + 10
    stat = Path(f"/proc/{child}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_that_hangs_in_silence_has_an_end() -> None:
    for seconds, hangs in ((60.0, False), (0.2, True)):
        code = "import time; time.sleep(60)" if hangs else "pass"
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout
        with kills.deadline(process, seconds) as passed:
            assert list(process.stdout) == []
            status = process.wait()
        assert (passed.is_set(), status == 0) == (hangs, not hangs)


def test_the_program_that_kills_in_the_machine_compiles() -> None:
    compile(kills.REAPER, "reaper", "exec")


@pytest.mark.parametrize("name", ["the keys", "the units", "half of each environment"])
def test_the_cached_binary_stays(name: str) -> None:
    assert "/var/cache" not in kills.PARTS[name]
