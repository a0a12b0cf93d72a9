# SPDX-License-Identifier: MIT
"""A short life of a queue, always the same, and what the file must say after each step. As a program: lives it, and

is killed at a given operation of the disk: ``queue_history.py FOLDER NUMBER [torn]``; says each step that was promised.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from admission import journal
from admission.journal import Bounds, Ended, Journal, NewJob

BOUNDS = Bounds(jobs=100, bytes=1 << 30, free_bytes=0, expiry=500, retention=1000)
Dump = dict[str, list[tuple[Any, ...]]]
Step = Callable[[Journal], Any]


def new(number: int, size: int = 300, key: bytes | None = None, profile: str = "private") -> NewJob:
    """A job whose content says which one it is."""
    body = (f"body-{number}-".encode() * (size // 7 + 1))[:size]
    return NewJob(
        f"job-{number}", profile, "/v1/chat/completions", bool(number % 2), body, b'{"state":{}}', body[:32], key
    )


def done(number: int, size: int = 200) -> Ended:
    """Its answer."""
    return Ended("completed", (f"answer-{number}-".encode() * (size // 7 + 1))[:size], 200, "cpu")


STEPS: tuple[Step, ...] = (
    lambda one: one.accept(new(1)).result(),
    lambda one: one.accept(new(2, 40_000, b"k" * 32)).result(),
    lambda one: one.write(journal.begin("job-1")).result(),
    lambda one: one.accept(new(3, 9_000)).result(),
    lambda one: one.finish("job-1", done(1), wipe=False).result(),
    lambda one: one.accept(new(2, 40_000, b"k" * 32)).result(),
    lambda one: one.fetched("job-1").result(),
    lambda one: one.finish("job-2", done(2, 30_000), wipe=True).result(),
    lambda one: one.tidy().result(),
    lambda one: one.finish("job-2", done(9), wipe=True).result(),
    lambda one: one.finish("job-3", Ended("cancelled"), wipe=True).result(),
    lambda one: one.write(journal.give_order("drain", 3)).result(),
    lambda one: one.accept(new(4)).result(),
    lambda one: one.write(journal.sweep(BOUNDS, 1_000_600)).result(),
    lambda one: one.write(journal.sweep(BOUNDS, 1_001_700)).result(),
    lambda one: one.accept(new(5)).result(),
    lambda one: one.tidy().result(),
    lambda one: one.write(journal.remove("job-5")).result(),
)


def dump(folder: Path) -> Dump:
    """All that the file says; it must be whole."""
    db = journal.connect(folder / journal.FILE)
    try:
        db.execute("PRAGMA synchronous = OFF")  # of the reader, who has nothing to lose
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return said(db)
    finally:
        db.close()


def said(db: sqlite3.Connection) -> Dump:
    """All rows of all tables."""
    for job in journal.every(db):
        journal.result_of(db, job.id)  # raises when it is torn
    return {name: db.execute("SELECT * FROM " + name + " ORDER BY 1").fetchall() for name in journal.TABLES}  # noqa: S608 - constants


def opened(folder: Path) -> Journal:
    """The journal below a folder, in which it is always the same time."""
    return Journal(folder, BOUNDS, lambda: 1_000_000.0)


if __name__ == "__main__":
    import queue_disk

    where = Path(sys.argv[1])
    disk = queue_disk.Disk(where, queue_disk.kill_at(int(sys.argv[2]), torn="torn" in sys.argv))
    with queue_disk.watched(disk):
        life = opened(where)
        for at, step in enumerate(STEPS):
            step(life)
            os.write(1, f"{at}\n".encode())
        life.close()
    os.write(1, b"ended\n")
