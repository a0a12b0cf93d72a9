# SPDX-License-Identifier: MIT
"""Phases with elapsed time, one log per run, and the last lines of it when something fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .paths import LOGS, ROOT

TAIL_LINES = 30


class Failed(Exception):
    """Something that the user has to read: one message that names the thing and the remedy."""


def clock(seconds: float) -> str:
    """``75`` → ``1:15``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Run:
    """One run of a tool: numbered phases on the terminal, everything else in one log file."""

    def __init__(self, name: str, phases: int) -> None:
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log_path = LOGS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.log"
        self._log = self.log_path.open("a", encoding="utf-8", errors="replace")
        self._phases = phases
        self._number = 0
        self._begun = time.monotonic()
        self._live = sys.stdout.isatty()
        self._took: list[tuple[str, float]] = []

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """Announce a phase, and say how long it took or that it failed."""
        self._number += 1
        head = f"[{self._number}/{self._phases}] {title}"
        print(f"{head} …", flush=True)
        print(f"\n===== {head}", file=self._log, flush=True)
        begun = time.monotonic()
        try:
            yield
        except BaseException:
            print(f"{head}: failed after {clock(time.monotonic() - begun)}", flush=True)
            raise
        finally:
            self._took.append((title, time.monotonic() - begun))
        self._clear()
        print(f"{head}: done in {clock(time.monotonic() - begun)} (total {self.elapsed()})", flush=True)

    @property
    def log(self) -> TextIO:
        """The log file, for output that a caller reads line by line itself."""
        return self._log

    def elapsed(self) -> str:
        """Time since the run began."""
        return clock(time.monotonic() - self._begun)

    def phases(self) -> str:
        """How long each phase took, a line each; what took no time is left out."""
        return "\n".join(f"  {clock(seconds):>6}  {title}" for title, seconds in self._took if seconds >= 1)

    def note(self, text: str) -> None:
        """A line for the user, and for the log."""
        self._clear()
        print(f"      {text}", flush=True)
        print(text, file=self._log, flush=True)

    def command(
        self,
        argv: Sequence[str | Path],
        *,
        why: str,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        progress: re.Pattern[str] | None = None,
        stdin: str | None = None,
        check: bool = True,
        show: bool = False,
    ) -> int:
        """Run a command with its output in the log.

        ``progress``: lines that match are shown as they come (group ``what``); ``show``: every line is shown.
        Returns the exit status. Raises :class:`Failed` with the log's last lines when it is not 0 and ``check`` is set.
        """
        words = [str(word) for word in argv]
        print(f"$ {' '.join(words)}", file=self._log, flush=True)
        begun = time.monotonic()
        spoken = begun
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if stdin is not None and process.stdin is not None:
            process.stdin.write(stdin)
            process.stdin.close()
        for line in process.stdout or ():
            self._log.write(line)
            self._log.flush()
            if show:
                self._clear()
                print(line.rstrip("\n"), flush=True)
            elif progress and (match := progress.search(line)):
                text = f"      {clock(time.monotonic() - begun)}  {match.group('what')}"
                if self._live:
                    print(f"\r\x1b[2K{text[:150]}", end="", flush=True)
                elif time.monotonic() - spoken > 20:
                    print(text, flush=True)
                    spoken = time.monotonic()
        status = process.wait()
        self._clear()
        if status != 0 and check:
            raise Failed(f"{why}: `{words[0]}` ended with status {status}.")
        return status

    def output(self, argv: Sequence[str | Path], *, why: str, env: Mapping[str, str] | None = None) -> str:
        """Standard output of a command; its errors go to the log. Raises :class:`Failed` when it fails."""
        words = [str(word) for word in argv]
        print(f"$ {' '.join(words)}", file=self._log, flush=True)
        done = subprocess.run(
            words, cwd=ROOT, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        self._log.write(done.stderr)
        self._log.flush()
        if done.returncode != 0:
            raise Failed(f"{why}: `{' '.join(words[:4])}` ended with {done.returncode}: {done.stderr.strip()[-400:]}")
        return done.stdout

    def tail(self) -> str:
        """The last lines of the log."""
        self._log.flush()
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def _clear(self) -> None:
        if self._live:
            print("\r\x1b[2K", end="", flush=True)
