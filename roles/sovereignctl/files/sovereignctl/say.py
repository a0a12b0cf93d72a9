# SPDX-License-Identifier: MIT
"""What a person reads: a bar on a terminal, lines elsewhere, tables, errors with their remedy."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Step

from sovereignctl.attempt import Ended
from sovereignctl.follow import Follow, Shown, clock

#: Between two drawings of a bar, seconds.
TICK = 0.5
_BAR = 20


def drawn(shown: Shown, width: int) -> str:
    """One line of a terminal, no longer than it is wide."""
    full = round(shown.share * _BAR)
    line = f"[{'#' * full}{'.' * (_BAR - full)}] {shown.share * 100:3.0f} %  {shown.times}  {shown.title}"
    return line if len(line) < width else f"{line[: max(0, width - 2)]}…"


class Stream(Protocol):
    """What is written to."""

    def write(self, text: str, /) -> object:
        """More of it."""

    def flush(self) -> object:
        """Now."""


class Progress:
    """Shows a switch on a stream: a bar that moves on a terminal, a line for each new phase elsewhere."""

    def __init__(self, out: Stream, live: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._out, self._live, self._now = out, live, now
        self._follow, self._lock = Follow(), threading.Lock()
        self._said = ""
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Progress:
        if self._live:
            self._thread = threading.Thread(target=self._tick, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()
            self._out.write("\r\x1b[2K")
            self._out.flush()

    def step(self, step: Step) -> None:
        """Take a step in and show it."""
        with self._lock:
            self._follow.step(step, self._now())
        if self._live:
            self._draw()
            return
        shown = self._follow.shown(self._now())
        if shown.title != self._said:
            self._said = shown.title
            self._out.write(f"{shown.times}  {shown.title}\n")
            self._out.flush()

    def _tick(self) -> None:
        while not self._over.wait(TICK):
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            shown = self._follow.shown(self._now())
            self._out.write(f"\r\x1b[2K{drawn(shown, shutil.get_terminal_size().columns)}")
            self._out.flush()


def error(found: SovereignError) -> str:
    """An error as three facts."""
    return f"sovereignctl: {found.thing}\n  what is wrong: {found.seen}\n  what to do:    {found.remedy}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as what stands in them."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def mib(value: int | None) -> str:
    """Memory, or a dash for nobody knows."""
    return "-" if value is None else f"{value} MiB"


def status(found: Mapping[str, Any]) -> list[str]:
    """The document of ``mode status``, for a person."""
    lines = [f"mode: {found['mode'] or 'not known yet: no switch was made'}"]
    now, intent = found["progress"], found["intent"]
    if now:
        lines.append(f"a switch is under way: {now['who']}; {now['phase']} {now['detail']}".rstrip())
    elif intent:
        lines.append(
            f"a switch from {intent['origin']} to {intent['target']} did not end ({intent['phase']}): the next one"
            " goes on from there"
        )
    if found["card"]:
        memory = found["card"]["memory_mib"]
        lines.append(f"card: {memory['used']} of {memory['total']} MiB are taken")
    lines += [f"at work: {what}" for what in found["busy_reasons"]]
    lines += [
        f"no tenant of ours: {each['name']} (pid {each['pid']}, user {each['user']}, {each['mib']} MiB)"
        for each in found["foreign"]
    ]
    lines += [f"not known: {what}" for what in found["problems"]]
    rows = [
        [
            f"{'*' if name == found['mode'] else ' '} {name}",
            mib(mode["vram_mib"]),
            mib(mode["peak_mib"]),
            "-" if mode["expected_seconds"] is None else clock(mode["expected_seconds"]),
            ", ".join(mode["tenants"]) or "-",
        ]
        for name, mode in found["modes"].items()
    ]
    return [*lines, "", *table(["  MODE", "BUDGET", "MEASURED", "TAKES", "WHO HOLDS THE CARD"], rows)]


def history(found: Mapping[str, Any]) -> list[str]:
    """The document of ``mode history``, for a person; the newest stands last."""
    rows = [
        [
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each["ended"])),
            each["origin"],
            each["target"],
            clock(each["total_seconds"]),
            each["outcome"],
        ]
        for each in found["switches"]
    ]
    return table(["ENDED", "FROM", "TO", "TOOK", "OUTCOME"], rows) if rows else ["no switch was made yet"]


def plan(found: Mapping[str, Any]) -> list[str]:
    """The document of ``--check``, for a person."""
    lines = list(found["steps"]) if found["changed"] else ["nothing to do"]
    lines += [f"at work: {what}" for what in found["working"]]
    lines += [f"warning: {what}" for what in found["warnings"]]
    if found["changed"] and found["expected_seconds"] is not None:
        lines.append(f"it took about {clock(found['expected_seconds'])} before")
    return lines


def ended(target: str, how: Ended) -> list[str]:
    """What became of a switch, for a person; an error is told apart from it."""
    if how.result is None:
        return []
    result = how.result
    lines = [f"warning: {what}" for what in result.warnings]
    took = clock(sum(result.seconds.values()))
    if how.error is None:
        lines.append(f"mode {target} serves, {took}" if result.changed else f"mode {target} serves already")
        lines += [f"  {phase:<8} {seconds:8.2f} s" for phase, seconds in result.seconds.items()]
    return lines


def gpu(found: Mapping[str, Any]) -> list[str]:
    """The document of ``gpu``, for a person: plain values by name, lists of objects as tables."""
    lines: list[str] = []
    for name, value in found.items():
        if name in ("schema", "kind"):
            continue
        lines += _part(name.replace("_", " "), value)
    return lines


def _part(name: str, value: Any, indent: str = "") -> list[str]:
    if isinstance(value, Mapping):
        inner = [line for key, each in value.items() for line in _part(key.replace("_", " "), each, indent + "  ")]
        return [f"{indent}{name}:", *inner] if inner else [f"{indent}{name}: -"]
    if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        flat = all(not isinstance(cell, (Mapping, list)) for each in value for cell in each.values())
        if flat:
            heads = list(value[0])
            rows = [["-" if each.get(head) is None else str(each.get(head)) for head in heads] for each in value]
            shown = table([head.upper() for head in heads], rows)
            return [f"{indent}{name}:", *(f"{indent}  {line}" for line in shown)]
        return [line for at, each in enumerate(value) for line in _part(f"{name} {at}", each, indent)]
    words = ", ".join(map(str, value)) if isinstance(value, list) else "-" if value is None else str(value)
    return [f"{indent}{name}: {words or '-'}"]
