# SPDX-License-Identifier: MIT
"""The desktop picker: zenity's windows around the same core.

It runs as the person at the desk and reads what everybody may read. The switch itself is another process, which polkit
makes root's once an administrator has said so; it tells its steps, and ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Step

from sovereignctl import preview
from sovereignctl.attempt import DONE, REFUSED
from sovereignctl.card import Look
from sovereignctl.follow import Follow, clock
from sovereignctl.say import mib

TITLE = "GPU mode"
TICK = 1.0
WAIT, FORCE = (words for _on_busy, words in preview.answers(True))
#: What polkit's pkexec ends with when nobody was allowed: the window was closed, or the password was wrong.
_PKEXEC_NO = (126, 127)
#: zenity reads marks and backslashes in some of its texts and not in others, differently by version: none get there.
_PLAIN = str.maketrans({"&": "+", "<": "(", ">": ")", "\\": "/", "\r": " ", "\t": " "})


def plain(text: str) -> str:
    """A text that every zenity shows as it is."""
    return text.translate(_PLAIN)


def asking_for_root(switch: Sequence[str]) -> list[str]:
    """The same command, as root, when an administrator says so.

    Raises:
        SovereignError: nothing on this machine could ask.
    """
    found = shutil.which("pkexec")
    if found is None:
        raise SovereignError(
            "program pkexec", "it is not installed", "Set sovereignctl_desktop to true and run site.yml, or use sudo."
        )
    return [found, *switch]


class Windows:
    """zenity."""

    def __init__(self) -> None:
        found = shutil.which("zenity")
        if found is None:
            raise SovereignError(
                "program zenity", "it is not installed", "Set sovereignctl_desktop to true and run site.yml."
            )
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise SovereignError(
                "sovereignctl desktop", "there is no desktop here (DISPLAY is not set)", "Use sovereignctl pick."
            )
        self._zenity = found

    def argv(self, kind: str, text: str, *more: str) -> list[str]:
        """One window's command."""
        return [self._zenity, f"--{kind}", f"--title={TITLE}", f"--text={plain(text)}", *more]

    def ask(self, kind: str, text: str, *more: str) -> tuple[int, str]:
        """A window, until it is closed: its exit status and what it printed."""
        done = subprocess.run(
            self.argv(kind, text, *more), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False
        )
        return done.returncode, done.stdout.strip()

    def progress(self, text: str, *more: str) -> Bar:
        """A window with a bar."""
        return Bar(self.argv("progress", text, "--percentage=0", "--auto-close", "--width=560", *more))


class Bar:
    """A window with a bar; closed by its end, or by the person."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    @property
    def closed(self) -> bool:
        """Whether nobody sees it any more."""
        return self._process.poll() is not None

    def show(self, share: float, text: str) -> None:
        """How far it is; 1 closes it."""
        stream = self._process.stdin
        assert stream is not None  # noqa: S101 - a pipe was asked for
        with contextlib.suppress(OSError, ValueError):
            stream.write(f"# {plain(text)}\n{share * 100:.0f}\n".replace("\n\n", "\n"))
            stream.flush()

    def end(self) -> None:
        """Close it."""
        self.show(1.0, "done")
        with contextlib.suppress(OSError, ValueError):
            if self._process.stdin:
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()


def run(look: Look, switch: Sequence[str]) -> int:
    """Ask for a mode and bring it about; the exit status.

    Raises:
        SovereignError: there is no desktop, no zenity, or no registry.
    """
    windows = Windows()
    name = _chosen(windows, look)
    on_busy = "fail"
    while name is not None:
        status, end = _watched(windows, [*switch, name, "--steps", "--on-busy", on_busy], name)
        if end.get("working") and on_busy == "fail":
            again = _busy(windows, name, str(end["working"]))
            if again is None:
                return REFUSED
            on_busy = again
            continue
        return _told(windows, name, status, end)
    return DONE


def _chosen(windows: Windows, look: Look) -> str | None:
    """The mode that was chosen; None when the window was closed, or it is there already."""
    registry, current = look.registry(), look.current()
    cells = []
    for name, mode in registry.modes.items():
        takes = look.expected(name)
        tenants = ", ".join(tenant.name for tenant in mode.tenants)
        cells += [name, mib(mode.vram_mib), "-" if takes is None else clock(takes), tenants or "-"]
    columns = [f"--column={head}" for head in ("Mode", "Budget", "Takes", "Who holds the card")]
    text = f"The mode is {current or 'not known'}. Choose the one that shall hold the card."
    size = ("--width=640", f"--height={180 + 30 * len(registry.modes)}")
    while True:
        status, name = windows.ask("list", text, *size, "--print-column=1", *columns, *map(plain, cells))
        if status != 0:
            return None
        if name in registry.modes:
            return name


def _busy(windows: Windows, name: str, working: str) -> str | None:
    text = "\n".join([f"{name} was not switched to.", *preview.busy_words([working])])
    labels = (f"--ok-label={WAIT}", f"--extra-button={FORCE}", "--cancel-label=Cancel")
    status, said = windows.ask("question", text, *labels)
    if status == 0:
        return "wait"
    return "force" if said == FORCE else None


def _watched(windows: Windows, argv: Sequence[str], name: str) -> tuple[int, dict[str, Any]]:
    """Run the switch under a bar; its exit status, and its last document ({} when it had none)."""
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said: queue.Queue[dict[str, Any] | None] = queue.Queue()
    errors: list[str] = []

    def read() -> None:
        assert child.stdout is not None  # noqa: S101 - a pipe was asked for
        for line in child.stdout:
            with contextlib.suppress(ValueError):
                said.put(json.loads(line))
        said.put(None)

    def read_errors() -> None:
        assert child.stderr is not None  # noqa: S101 - a pipe was asked for
        errors.extend(child.stderr)

    readers = [threading.Thread(target=each, daemon=True) for each in (read, read_errors)]
    for reader in readers:
        reader.start()
    end = _followed(windows, name, child, said)
    status = child.wait()
    for reader in readers:
        reader.join()
    if not end:
        end = {"error": _silent(argv[0], status, "".join(errors).strip())}
    return status, end


def _followed(
    windows: Windows, name: str, child: subprocess.Popen[str], said: queue.Queue[dict[str, Any] | None]
) -> dict[str, Any]:
    """Show the steps as they come; the last document, {} when there was none. Who closes the window calls it off."""
    follow, end, over, called_off = Follow(), dict[str, Any](), False, False
    window = windows.progress(f"Switching to {name}")
    try:
        while not over:
            try:
                found = said.get(timeout=TICK)
            except queue.Empty:
                found = {}
            if found is None:
                over = True
            elif found.get("kind") == "step":
                left = found["left"]
                expected = None if left is None else found["elapsed"] + left
                follow.step(Step(found["phase"], found["detail"], found["elapsed"], expected), time.monotonic())
            elif found:
                end = found
            if window.closed and not over and not end and not called_off:
                called_off = True
                if child.stdin:
                    child.stdin.close()
                window = windows.progress("It is called off at its next step", "--no-cancel")
            shown = follow.shown(time.monotonic())
            words = "called off: " if called_off else ""
            window.show(shown.share, f"{words}{shown.title} ({shown.times})")
    finally:
        window.end()
    return end


def _silent(program: str, status: int, errors: str) -> Mapping[str, str]:
    """The error of a switch that has said nothing."""
    if program.endswith("pkexec") and status in _PKEXEC_NO:
        seen, remedy = "no administrator allowed it", "Try again with an administrator's password."
    else:
        seen = f"{program} ended with {status}: {errors[-1000:] or 'it said nothing'}"
        remedy = "Try sovereignctl mode switch in a terminal."
    return {"thing": "switch of the GPU mode", "seen": seen, "remedy": remedy}


def _told(windows: Windows, name: str, status: int, end: Mapping[str, Any]) -> int:
    """The last window; the exit status."""
    error = end.get("error")
    if error:
        text = preview.failure(error["thing"], error["seen"], error["remedy"], end.get("outcome", "refused"))
        windows.ask("error", text, "--no-markup", "--width=560")
        return status or REFUSED
    took = clock(end["total_seconds"])
    words = f"{name} serves, after {took}." if end["changed"] else f"{name} serves already."
    windows.ask("info", "\n".join([words, *(f"Warning: {what}." for what in end["warnings"])]), "--timeout=15")
    return status
