# SPDX-License-Identifier: MIT
"""The command. Progress and errors go to standard error, what was asked for to standard output.

Root is needed to ask Docker and the plane's network namespace; nobody is given rights by this program. On a terminal it
begins again through sudo, which asks as this machine's sudo is set; elsewhere it says so and ends with 5.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TextIO

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Step

from sovereignctl import attempt, card, documents, queue, say, words
from sovereignctl.attempt import How
from sovereignctl.follow import Follow

#: Where the role has placed the command; what sudo is given, whatever the caller's folder and search path are.
COMMAND = "/usr/local/bin/sovereignctl"
#: ``sovereignctl mode switch`` and nothing else: the one thing that polkit is told about.
SWITCH = "/opt/mushishi/sovereignctl/switch"


def _replace(argv: Sequence[str]) -> object:
    return os.execv(argv[0], list(argv))  # noqa: S606 - sudo, found in the system's own folders


def _opened() -> AbstractContextManager[card.Card]:
    # Docker's library takes a quarter of a second to read, and who presses the tab key waits.
    from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.machine import opened

    return opened()


@dataclass
class Outside:
    """Everything outside of this program, so that tests can play it."""

    open_card: Callable[[], AbstractContextManager[card.Card]] = _opened
    look: Callable[[], card.Look] = card.Look
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    stdin: TextIO = field(default_factory=lambda: sys.stdin)
    root: bool = field(default_factory=lambda: os.geteuid() == 0)
    sudo: str | None = field(default_factory=lambda: shutil.which("sudo", path="/usr/bin:/usr/local/bin"))
    replace: Callable[[Sequence[str]], object] = _replace
    place: queue.Place = field(default_factory=queue.Place)
    queue_run: Callable[[Sequence[str], queue.Place], object] = queue.run
    #: What the desktop picker starts, with the mode and its options after it.
    switch: Sequence[str] = (SWITCH,)

    def live(self) -> bool:
        """Whether somebody sits at a terminal."""
        return self.err.isatty() and self.stdin.isatty()


def main(argv: Sequence[str], outside: Outside | None = None) -> int:
    """The exit status; see words.EXITS."""
    out = outside or Outside()
    as_json = "--json" in argv or "--steps" in argv
    try:
        return _main(list(argv), out)
    except SovereignError as error:
        if as_json and argv[:1] != ["queue"]:
            _print(out, documents.failed(error))
        else:
            _tell(out, say.error(error))
        return attempt.NOT_ALLOWED if isinstance(error, NeedsRoot) else attempt.REFUSED
    except BrokenPipeError:
        # Whoever read has gone. Nothing more can be written, not even at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return attempt.REFUSED
    except KeyboardInterrupt:
        _tell(out, "sovereignctl: ended in the middle. If that was a switch, the next one goes on from there.")
        return attempt.CANCELLED


class NeedsRoot(SovereignError):
    """It is not root who calls."""


def _main(argv: list[str], out: Outside) -> int:
    if argv[:1] == ["complete"]:
        for word in words.complete(argv[2:] if argv[1:2] == ["--"] else argv[1:], lambda: _names(out)):
            print(word, file=out.out)
        return 0
    if argv[:1] == ["queue"] and argv[1:2] not in (["-h"], ["--help"]):
        # What comes after belongs to admission's own program.
        _as_root(argv, out)
        out.queue_run(argv[1:], out.place)
        return 0
    options = words.parser().parse_args(argv)
    if words.COMMANDS[options.command].root:
        _as_root(argv, out)
    return _COMMANDS[options.command](options, out)


def _as_root(argv: Sequence[str], out: Outside) -> None:
    if out.root:
        return
    if out.live() and out.sudo:
        _tell(out, "sovereignctl: this needs root; beginning again through sudo.")
        out.replace([out.sudo, "--", COMMAND, *argv])
    raise NeedsRoot(f"sovereignctl {' '.join(argv)}", "it needs root", f"Say: sudo {COMMAND} {' '.join(argv)}")


def _names(out: Outside) -> list[str]:
    # Whoever types waits: nothing to offer is better than an error.
    with contextlib.suppress(SovereignError):
        return out.look().names()
    return []


def _print(out: Outside, document: Mapping[str, Any]) -> None:
    print(json.dumps(document, ensure_ascii=False), file=out.out, flush=True)


def _tell(out: Outside, text: str) -> None:
    # A terminal that is gone must not end a switch.
    with contextlib.suppress(OSError):
        print(text, file=out.err, flush=True)


def _show(out: Outside, as_json: bool, document: Mapping[str, Any], lines: Callable[[Any], list[str]]) -> int:
    if as_json:
        _print(out, document)
    else:
        print("\n".join(lines(document)), file=out.out)
    return 0


# ---- the commands
def _status(options: Any, out: Outside) -> int:
    with out.open_card() as found:
        return _show(out, options.json, documents.document("status", found.status()), say.status)


def _history(options: Any, out: Outside) -> int:
    entries = out.look().history()[-int(options.last) :]
    return _show(out, options.json, documents.history(entries), say.history)


def _mode_names(_options: Any, out: Outside) -> int:
    for name in out.look().names():
        print(name, file=out.out)
    return 0


def _gpu(options: Any, out: Outside) -> int:
    with out.open_card() as found:
        return _show(out, options.json, documents.document("gpu", found.info()), say.gpu)


def _switch(options: Any, out: Outside) -> int:
    drain = None if options.drain is None else float(options.drain)
    how = How(options.on_busy, drain, not options.no_rollback, options.wait)
    with out.open_card() as found:
        if options.check:
            plan = documents.plan(found.plan(options.name), found.status())
            return _show(out, options.json or options.steps, plan, say.plan)
        cancel = threading.Event()
        with _heard(cancel, out):
            if options.steps:
                return _steps(found, options.name, how, cancel, out)
            with say.Progress(_Quiet(out.err), out.live()) as progress:
                end = attempt.attempt(found, options.name, how, progress.step, cancel)
    for line in say.ended(options.name, end):
        _tell(out, line)
    if end.error:
        _tell(out, say.error(end.error))
    if options.json:
        _print(out, documents.ended(options.name, end))
    return end.code


def _steps(found: card.Card, name: str, how: How, cancel: threading.Event, out: Outside) -> int:
    follow, lock = Follow(), threading.Lock()

    def told(step: Step) -> None:
        with lock:
            follow.step(step, time.monotonic())
            # Who does not read any more has also closed our standard input: that is heard below.
            with contextlib.suppress(OSError):
                _print(out, documents.step(step, follow.shown(time.monotonic())))

    def listen() -> None:
        with contextlib.suppress(OSError, ValueError):
            while out.stdin.read(1024):
                pass
        cancel.set()

    threading.Thread(target=listen, daemon=True).start()
    end = attempt.attempt(found, name, how, told, cancel)
    with contextlib.suppress(OSError):
        _print(out, documents.ended(name, end))
    return end.code


class _Quiet:
    """A stream that may be gone: what cannot be written is not written, and nothing ends because of it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


@contextlib.contextmanager
def _heard(cancel: threading.Event, out: Outside) -> Iterator[None]:
    """Ctrl-C and an order to end call the switch off; a second one ends the program where it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(number: int, _frame: FrameType | None) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()
        name = signal.Signals(number).name
        _tell(out, f"\nsovereignctl: {name} was heard: the switch is called off at its next step.")

    # A line that breaks off ends no switch.
    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pick(_options: Any, out: Outside) -> int:
    from sovereignctl import picker

    if not out.live():
        seen = "standard input or standard error is no terminal"
        raise SovereignError("sovereignctl pick", seen, "Say it in a terminal, or use sovereignctl mode switch NAME.")
    with out.open_card() as found:
        return picker.run(found)


def _desktop(_options: Any, out: Outside) -> int:
    from sovereignctl import desktop

    return desktop.run(out.look(), out.switch if out.root else desktop.asking_for_root(out.switch))


_COMMANDS: Mapping[str, Callable[[Any, Outside], int]] = {
    "mode status": _status,
    "mode switch": _switch,
    "mode history": _history,
    "mode names": _mode_names,
    "gpu": _gpu,
    "pick": _pick,
    "desktop": _desktop,
}
