# SPDX-License-Identifier: MIT
"""A crash at every write and every sync of the journal: what was promised is there, and nothing is there by half."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import queue_disk
import queue_history
from admission import journal
from admission.journal import JournalError
from queue_disk import Disk, after_power_cut, watched
from queue_history import STEPS, dump, new, opened

ALL = 1 << 30


def lived(folder: Path, disk: Disk) -> tuple[list[queue_history.Dump], list[int]]:
    """Live the history on a watched disk: what the file says after each step, and how many operations that took."""
    with watched(disk):
        one = opened(folder)
        dumps, counts = [one.read(queue_history.said).result()], [len(disk.ops)]
        for step in STEPS:
            step(one)
            dumps.append(one.read(queue_history.said).result())
            counts.append(len(disk.ops))
        one.close()
    return dumps, counts


def damage(
    tmp_path: Path, draw: Callable[[random.Random], Callable[[int], int]], pragma: str = ""
) -> tuple[int, list[str]]:
    """Cut the power after each operation: how many there are, and where the file then said something wrong."""
    folder, base = tmp_path / "queue", tmp_path / "base"
    folder.mkdir()
    opened(folder).close()
    shutil.copytree(folder, base)
    disk = Disk(folder)
    real = journal.connect
    if pragma:

        def careless(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
            db = real(path, read_only=read_only)
            db.execute(pragma)
            return db

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(journal, "connect", careless)
            dumps, counts = lived(folder, disk)
    else:
        dumps, counts = lived(folder, disk)
    wrong = []
    chance = random.Random(7)  # noqa: S311 - a test's draw
    for cut in range(len(disk.ops) + 1):
        promised = max((at for at, count in enumerate(counts) if count <= cut), default=0)
        after = tmp_path / f"cut-{cut}"
        after_power_cut(base, disk.ops[:cut], folder, after, draw(chance))
        try:
            found = dump(after)
        except (JournalError, sqlite3.Error, AssertionError) as error:
            wrong.append(f"after {cut}: {type(error).__name__}")
        else:
            # The step that was under way may have happened as a whole.
            if found not in dumps[promised : promised + 2]:
                wrong.append(f"after {cut}, step {promised}: another state")
        shutil.rmtree(after)
    return len(disk.ops), wrong


DRAWS: dict[str, Callable[[random.Random], Callable[[int], int]]] = {
    "nothing that was not synced": lambda _chance: lambda _at: 0,
    "all that was written": lambda _chance: lambda _at: ALL,
    "some of it, torn": lambda chance: lambda _at: chance.choice((0, 1, 3, ALL)),
    "every second": lambda chance: lambda _at: chance.choice((0, ALL)),
}


NIGHTLY = ("all that was written", "every second")


@pytest.mark.parametrize(
    "kept", [pytest.param(kept, marks=pytest.mark.nightly if kept in NIGHTLY else ()) for kept in DRAWS]
)
def test_power_cut_at_every_operation(tmp_path: Path, kept: str) -> None:
    count, wrong = damage(tmp_path, DRAWS[kept])
    assert count > 60
    assert wrong == []


def test_a_journal_that_does_not_sync_is_found_out(tmp_path: Path) -> None:
    """Control: the same cuts, with the sync taken away, find what was promised and is lost."""
    _count, wrong = damage(tmp_path, DRAWS["nothing that was not synced"], "PRAGMA synchronous = OFF")
    assert any("another state" in one for one in wrong)


def killed(folder: Path, number: int, *words: str) -> tuple[int, list[str]]:
    """Live the history in a process that is killed at that operation: its status and what it has said."""
    folder.mkdir()
    here = Path(queue_history.__file__)
    environment = {**os.environ, "PYTHONPATH": f"{Path(journal.__file__).parents[1]}:{here.parent}"}
    done = subprocess.run(
        [sys.executable, str(here), str(folder), str(number), *words],
        capture_output=True, text=True, env=environment, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout.split("\n")[:-1]


def killed_everywhere(tmp_path: Path, step: int, *words: str) -> int:
    """SIGKILL at every `step`-th operation; the number of kills."""
    plain = tmp_path / "plain"
    plain.mkdir()
    dumps, _counts = lived(plain, Disk(plain))
    number, kills = 1, 0
    while True:
        folder = tmp_path / f"kill-{number}"
        status, said = killed(folder, number, *words)
        if status == 0:
            assert said[-1].startswith("ended")
            return kills
        assert status == -9, said
        kills += 1
        promised = len([line for line in said if line.isdigit()])
        found = dump(folder)
        assert found in dumps[promised : promised + 2], f"killed at {number}, after step {promised}"
        shutil.rmtree(folder)
        number += step


def test_killed_at_a_write_or_sync(tmp_path: Path) -> None:
    assert killed_everywhere(tmp_path, 13) > 5


@pytest.mark.nightly
@pytest.mark.parametrize("words", [(), ("torn",)])
def test_killed_at_every_write_and_sync(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert killed_everywhere(tmp_path, 1, *words) > 80


@pytest.mark.parametrize("error", [queue_disk.FULL, queue_disk.IOERR])
def test_a_disk_that_fails_at_every_operation(tmp_path: Path, error: int) -> None:
    """A full disk: the job is refused, nothing of it is there, and when there is room again all goes on."""
    refused = 0
    for number in range(1, 200):
        folder = tmp_path / f"full-{number}"
        folder.mkdir()
        opened(folder).close()
        disk = Disk(folder)
        with watched(disk):
            one = opened(folder)
            kept = one.accept(new(1)).result()
            before = len(disk.ops)
            disk.hook = queue_disk.fail_at(before + number, error)
            try:
                one.accept(new(2, 40_000)).result()
                ended = True
            except JournalError:
                ended, refused = False, refused + 1
            names = [job.id for job in one.read(journal.every).result()]
            assert names == ([kept.id, "job-2"] if ended else [kept.id])
            disk.hook = None
            one.accept(new(3)).result()
            one.close()
        names = [row[1] for row in dump(folder)["jobs"]]
        assert names == ([kept.id, "job-2", "job-3"] if ended else [kept.id, "job-3"])
        if ended:
            break
        shutil.rmtree(folder)
    assert ended and refused > 5
