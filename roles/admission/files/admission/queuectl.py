# SPDX-License-Identifier: MIT
"""python -m admission.queuectl: look at the private queue and steer it, as root or as admission's user.

It reads and writes the queue's file beside the running service, which notices within a second. It shows when, how large
and how often; what was asked and answered it never reads.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from admission import journal
from admission.config import ConfigError, load_config
from admission.journal import Ended, Job, JournalError
from admission.tell import duration

DEFAULT_CONFIG = Path("/etc/mushishi/admission/config.json")
POLL_SECONDS = 0.5
Row = dict[str, object]


class ToldError(Exception):
    """What went wrong, for a person: the thing, what was seen, the remedy."""


def folder_of(config: Path) -> Path:
    """Where the queue's file lies. Raises ConfigError, ToldError."""
    queue = load_config(config).queue
    if queue is None:
        raise ToldError(f"{config}: names no queue; end a T1 chain of the policy with queue and run site.yml")
    path = Path(queue.directory)
    if not (path / journal.FILE).is_file():
        raise ToldError(f"{path / journal.FILE}: is not there; the service makes it, if a chain ends in queue")
    return path


def row(job: Job, now: float, position: int | None) -> Row:
    """A job without its content."""
    return {
        "number": job.seq,
        "id": job.id,
        "profile": job.profile,
        "state": job.state,
        "position": position,
        "route": job.route,
        "stream": job.stream,
        "accepted": datetime.fromtimestamp(job.accepted, UTC).isoformat(timespec="seconds"),
        "age_seconds": round(max(0.0, now - job.accepted), 1),
        "ended_unix": job.ended,
        "waited_seconds": None if job.ended is None else round(max(0.0, job.ended - job.accepted), 1),
        "fetched": job.fetched is not None,
        "attempts": job.attempts,
        "bytes": job.size,
        "backend": job.backend,
        "status": job.status,
    }


def rows(jobs: Sequence[Job], now: float) -> list[Row]:
    """All of them, with their place in their profile's line."""
    places: dict[str, int] = {}
    found = []
    for job in jobs:
        place = None
        if job.waits:
            place = places[job.profile] = places.get(job.profile, 0) + 1
        found.append(row(job, now, place))
    return found


def table(found: Iterable[Row]) -> str:
    """The rows for a person."""
    lines = [("no", "profile", "state", "place", "age", "waited", "tries", "bytes", "answered by", "fetched")]
    for one in found:
        waited = one["waited_seconds"]
        lines.append(
            (
                str(one["number"]), str(one["profile"]), str(one["state"]), str(one["position"] or "-"),
                duration(float(str(one["age_seconds"]))), "-" if waited is None else duration(float(str(waited))),
                str(one["attempts"]), str(one["bytes"]), str(one["backend"] or "-"), "yes" if one["fetched"] else "-",
            )
        )  # fmt: skip
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def chosen(jobs: Sequence[Job], name: str) -> Job:
    """The job of that number or id. Raises ToldError."""
    for job in jobs:
        if name in (str(job.seq), job.id):
            return job
    raise ToldError(f"job {name!r}: is not in the queue; list shows what is")


def do_list(folder: Path, options: argparse.Namespace) -> tuple[int, list[Row]]:
    """Every job that is known, or those that wait."""
    found = rows(_read(folder), time.time())
    return 0, [one for one in found if not options.waiting or one["state"] == "queued"]


def do_show(folder: Path, options: argparse.Namespace) -> tuple[int, list[Row]]:
    """One job."""
    jobs = _read(folder)
    wanted = chosen(jobs, options.job)
    return 0, [one for one in rows(jobs, time.time()) if one["number"] == wanted.seq]


def do_cancel(folder: Path, options: argparse.Namespace) -> tuple[int, list[Row]]:
    """End jobs that wait, and wipe their requests. One that has ended already is an error."""
    jobs = [chosen(_read(folder), name) for name in options.job]
    late = [job for job in jobs if not job.waits]
    if late:
        raise ToldError(f"job {late[0].seq}: is {late[0].state} already; nothing was cancelled")
    db = journal.connect(folder / journal.FILE)
    try:
        now = time.time()
        journal.commit(db, [journal.finish(job.id, Ended("cancelled"), now, wipe=True) for job in jobs])
    finally:
        db.close()
    numbers = {job.seq for job in jobs}
    return 0, [one for one in rows(_read(folder), time.time()) if one["number"] in numbers]


def do_drain(folder: Path, options: argparse.Namespace) -> tuple[int, list[Row]]:
    """What waits now is served before live requests, until none of it is left or the time is over (status 1)."""
    waiting = [job for job in _read(folder) if job.waits]
    if waiting:
        db = journal.connect(folder / journal.FILE)
        try:
            journal.commit(db, [journal.give_order("drain", waiting[-1].seq)])
        finally:
            db.close()
    numbers = {job.seq for job in waiting}
    until, said = time.monotonic() + options.wait, -1
    while True:
        now = _read(folder)
        left = sum(job.waits for job in now if job.seq in numbers)
        if left != said and not options.json:
            print(f"{left} of {len(numbers)} wait", file=sys.stderr, flush=True)
        said = left
        if not left or time.monotonic() >= until:
            return (1 if left else 0), [one for one in rows(now, time.time()) if one["number"] in numbers]
        time.sleep(POLL_SECONDS)


def _read(folder: Path) -> list[Job]:
    db = journal.connect(folder / journal.FILE, read_only=True)
    try:
        return journal.every(db)
    finally:
        db.close()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="queuectl", description="Look at the private queue, and steer it.")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="admission's config.json")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="for programs")
    verbs = parser.add_subparsers(dest="verb", required=True)
    listing = verbs.add_parser("list", parents=[common], help="every job that is known")
    listing.add_argument("--waiting", action="store_true", help="only those without an answer")
    listing.set_defaults(run=do_list)
    show = verbs.add_parser("show", parents=[common], help="one job")
    show.add_argument("job", help="its number or id")
    show.set_defaults(run=do_show)
    cancel = verbs.add_parser("cancel", parents=[common], help="end jobs that wait, and wipe them")
    cancel.add_argument("job", nargs="+", help="number or id")
    cancel.set_defaults(run=do_cancel)
    drain = verbs.add_parser("drain", parents=[common], help="serve what waits before live requests, and watch")
    drain.add_argument("--wait", type=float, default=3600.0, metavar="SECONDS", help="watch no longer than this")
    drain.set_defaults(run=do_drain)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 jobs are left (drain), 2 it cannot be done; the last line says why."""
    options = _arguments(argv)
    try:
        status, found = options.run(folder_of(options.config), options)
    except (ConfigError, ToldError) as error:
        print(f"queuectl: {error}", file=sys.stderr)
        return 2
    except (JournalError, sqlite3.Error) as error:
        cause = str(error) if isinstance(error, JournalError) else journal.cause_of(error)
        print(f"queuectl: the queue's file: {cause}. Is this root, or admission's user?", file=sys.stderr)
        return 2
    print(json.dumps({"jobs": found}) if options.json else table(found))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
