# SPDX-License-Identifier: MIT
"""The desktop picker: its windows by a stand-in that speaks zenity's protocol, and the real zenity under Xvfb."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.journal import Journal, Places
from ctl_world import HERE, Desk
from gpu_world import MODES
from sovereignctl import attempt
from sovereignctl.desktop import plain

#: For anything to come, seconds. Generous: the machine has other things to do.
PATIENCE = 90.0


class Stage:
    """A machine in the mode agent and a person who answers windows."""

    def __init__(self, folder: Path, collections_root: Path) -> None:
        self.folder, self._root = folder, collections_root
        self.desk = Desk(folder)
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in ("zenity", "pkexec"):
            path = self.bin / name
            path.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE}/zenity_standin.py {name} "$@"\n')
            path.chmod(0o755)
        self.world()
        self.environment = {
            **os.environ,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PLAY": str(folder),
            "DISPLAY": ":0",
        }

    def world(self, **told: Any) -> None:
        """How the played machine is, for the process that switches."""
        (self.folder / "world.json").write_text(json.dumps({"pace": 0.05, **told}))

    def person(self, *answers: dict[str, Any]) -> None:
        """What the person answers, window by window."""
        (self.folder / "answers.json").write_text(json.dumps(list(answers)))

    def start(self, *words: str) -> subprocess.Popen[str]:
        argv = [sys.executable, str(HERE / "ctl_desktop.py"), str(self._root), str(self.folder), *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, *words: str) -> int:
        process = self.start(*words)
        self.out, self.err = process.communicate(timeout=PATIENCE)
        return process.returncode

    @property
    def windows(self) -> list[dict[str, Any]]:
        path = self.folder / "windows.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def text(self, kind: str) -> str:
        """The text of the only window of a kind."""
        (found,) = [each for each in self.windows if each["kind"] == kind]
        return next(word.removeprefix("--text=") for word in found["argv"] if word.startswith("--text="))

    @property
    def mode(self) -> str | None:
        return Journal(Places(self.folder / "state")).good()

    @property
    def up(self) -> list[str] | None:
        path = self.folder / "ended.json"
        return json.loads(path.read_text())["up"] if path.exists() else None


@pytest.fixture
def stage(tmp_path: Path, collections_root: Path) -> Stage:
    return Stage(tmp_path, collections_root)


LIST = {"kind": "list", "said": "forensic"}


def test_a_mode_is_chosen_and_switched_to(stage: Stage) -> None:
    stage.person(LIST)
    assert stage.run() == attempt.DONE, stage.err
    assert stage.mode == "forensic" and stage.up == MODES["forensic"]
    assert [each["kind"] for each in stage.windows] == ["list", "progress", "info"]
    listed = stage.windows[0]["argv"]
    assert listed[-4 * 7 :][:4] == ["agent", "26000 MiB", "-", "vllm-agent, tts"] and listed[-4] == "off"
    assert "The mode is agent." in stage.text("list") and "forensic serves, after 0:0" in stage.text("info")


def test_the_bar_moves_and_says_phase_elapsed_and_rest(stage: Stage) -> None:
    stage.person(LIST)
    stage.run()
    shown = stage.windows[1]["shown"]
    numbers = [int(line) for line in shown if not line.startswith("#")]
    texts = [line for line in shown if line.startswith("# ")]
    assert numbers == sorted(numbers) and numbers[-1] == 100 and max(numbers[:-1]) < 100
    assert any("starting: vllm-forensic (0:0" in text for text in texts)
    assert any("no switch to this mode was measured yet" in text for text in texts)


def test_nothing_is_chosen(stage: Stage) -> None:
    stage.person({"kind": "list", "status": 1})
    assert stage.run() == attempt.DONE
    assert [each["kind"] for each in stage.windows] == ["list"] and stage.up is None


def test_ok_without_a_choice_asks_again(stage: Stage) -> None:
    stage.person({"kind": "list"}, {"kind": "list", "status": 1})
    assert stage.run() == attempt.DONE and len(stage.windows) == 2


def test_a_failure_is_shown_with_its_remedy(stage: Stage) -> None:
    stage.world(die=["vllm-forensic"])
    stage.person(LIST)
    assert stage.run() == attempt.ROLLED_BACK
    assert stage.mode == "agent" and stage.up == sorted(MODES["agent"])
    text = stage.text("error")
    assert "tenant vllm-forensic" in text and "the last words of vllm-forensic" in text
    assert "What to do: Look at what its log says." in text and "The last good mode serves again." in text


def test_closing_the_bar_calls_it_off(stage: Stage) -> None:
    stage.world(slow={"vllm-forensic": 90})
    stage.person(LIST, {"kind": "progress", "close_at": "waiting for an answer"})
    assert stage.run() == attempt.CANCELLED
    assert stage.mode == "agent" and stage.up == sorted(MODES["agent"])
    assert [each["kind"] for each in stage.windows] == ["list", "progress", "progress", "error"]
    assert "--no-cancel" in stage.windows[2]["argv"] and "it was called off" in stage.text("error")


@pytest.mark.parametrize(
    ("answer", "mode", "status"),
    [
        ({"status": 0}, "forensic", attempt.DONE),
        ({"status": 1, "said": "End the work"}, "forensic", attempt.DONE),
        ({"status": 1}, "agent", attempt.REFUSED),
    ],
)
def test_who_is_at_work_is_asked_about(stage: Stage, answer: dict[str, Any], mode: str, status: int) -> None:
    stage.world(at_work={"vllm-agent": 5})
    stage.person(LIST, {"kind": "progress"}, {"kind": "question", **answer})
    assert stage.run() == status, stage.err
    assert stage.mode == mode
    assert "vllm-agent: 2 requests run" in stage.text("question")


# ---- root
def test_anybody_asks_polkit_for_the_switch_alone(stage: Stage) -> None:
    stage.person(LIST)
    assert stage.run("--as-anybody") == attempt.DONE, stage.err
    assert stage.mode == "forensic"


def test_polkit_says_no(stage: Stage) -> None:
    stage.environment["PKEXEC_PLAY"] = "false"
    stage.person(LIST)
    assert stage.run("--as-anybody") == 126
    assert "no administrator allowed it" in stage.text("error") and stage.mode == "agent" and stage.up is None


def test_a_switch_that_says_nothing_is_told(stage: Stage) -> None:
    (stage.bin / "pkexec").unlink()
    (stage.bin / "pkexec").write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    (stage.bin / "pkexec").chmod(0o755)
    stage.person(LIST)
    assert stage.run("--as-anybody") == 3
    assert "ended with 3: broken" in stage.text("error")


# ---- what is missing
@pytest.mark.parametrize(
    ("take", "word", "thing"),
    [
        ("zenity", "", "program zenity"),
        ("pkexec", "--as-anybody", "program pkexec"),
        ("DISPLAY", "", "sovereignctl desktop"),
        ("registry", "--no-registry", "registry "),
    ],
)
def test_what_is_missing_is_named(stage: Stage, take: str, word: str, thing: str) -> None:
    stage.person({"kind": "list", "status": 1})
    if (stage.bin / take).exists():
        (stage.bin / take).unlink()
        # Nothing of the machine's own is found; the stand-in that is left is not started.
        stage.environment["PATH"] = str(stage.bin)
    for name in ("DISPLAY", "WAYLAND_DISPLAY") if take == "DISPLAY" else ():
        stage.environment.pop(name, None)
    assert stage.run(*filter(None, [word])) == attempt.REFUSED
    assert f"sovereignctl: {thing}" in stage.err and stage.windows == [], stage.err


def test_no_text_that_a_zenity_might_read_as_marks() -> None:
    assert plain("a <b> & c\\n\td") == "a (b) + c/n d"


# ---- the real one
def _program(name: str) -> str:
    """A program of the desktop. tools/bootstrap.sh installs it: a check that was skipped would be no check."""
    found = shutil.which(name)
    assert found, f"{name} is missing: apt-get install xvfb zenity xdotool (tools/bootstrap.sh does)"
    return found


class Screen:
    """A screen that nobody sees, and a hand on its keyboard."""

    def __init__(self, folder: Path) -> None:
        read, write = os.pipe()
        argv = [_program("Xvfb"), "-displayfd", str(write), "-screen", "0", "1024x768x24", "-nolisten", "tcp"]
        log = (folder / "xvfb.log").open("w")
        self._process = subprocess.Popen(argv, pass_fds=(write,), stdout=log, stderr=log)
        os.close(write)
        with os.fdopen(read) as stream:
            number = stream.readline().strip()
        assert number, (folder / "xvfb.log").read_text()
        self.display = f":{number}"

    def _hand(self, *words: str) -> str:
        done = subprocess.run(
            [_program("xdotool"), *words],
            env={**os.environ, "DISPLAY": self.display},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        return done.stdout

    def windows(self) -> list[tuple[str, str]]:
        """The picker's windows: number and kind (list, progress, info, error), which the program's words tell."""
        found = []
        for window in self._hand("search", "--onlyvisible", "--name", "^GPU mode$").split():
            pid = self._hand("getwindowpid", window).strip()
            try:
                words = Path(f"/proc/{int(pid)}/cmdline").read_bytes().split(b"\0")
            except (ValueError, OSError):
                continue  # It was closed between the two questions.
            found += [(window, kind) for kind in ("list", "progress", "info", "error") if f"--{kind}".encode() in words]
        return found

    def answer(self, process: subprocess.Popen[str], answers: dict[str, tuple[str, ...]]) -> int:
        """Press an answer's keys in each window of its kind until the program ends; the exit status.

        A window that was not ready loses its keys and is still there: it is answered again.
        """
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            for window, kind in self.windows():
                if kind in answers:
                    self.keys(window, *answers[kind])
            time.sleep(0.1)
        return process.wait(10)

    def keys(self, window: str, *keys: str) -> None:
        """Press keys in a window, once it can hear them."""
        time.sleep(1.0)
        # There is no window manager: nobody but us gives a window the keyboard.
        self._hand("windowfocus", "--sync", window)
        for key in keys:
            self._hand("key", "--delay", "50", key)
            time.sleep(0.2)

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    made = Screen(tmp_path)
    yield made
    made.end()


def _real(stage: Stage, screen: Screen) -> None:
    shutil.rmtree(stage.bin)
    stage.bin.mkdir()
    (stage.bin / "zenity").symlink_to(_program("zenity"))
    stage.environment |= {"DISPLAY": screen.display, "GDK_BACKEND": "x11", "NO_AT_BRIDGE": "1", "LC_ALL": "C.UTF-8"}
    stage.environment.pop("WAYLAND_DISPLAY", None)


def test_real_windows_under_xvfb_switch_a_mode(stage: Stage, screen: Screen) -> None:
    _real(stage, screen)
    stage.world(slow={"vllm-forensic": 20})
    process = stage.start()
    answers = {"list": ("Home", "Down", "Return"), "info": ("Return",), "error": ("Return",)}
    assert screen.answer(process, answers) == attempt.DONE, process.communicate()
    assert stage.mode == "forensic" and stage.up == MODES["forensic"]


@pytest.mark.nightly
def test_real_windows_under_xvfb_call_it_off(stage: Stage, screen: Screen) -> None:
    _real(stage, screen)
    stage.world(slow={"vllm-forensic": 90}, pace=0.2)
    process = stage.start()
    # The bar of the way back has no button to call it off: Escape does nothing there.
    answers = {"list": ("Home", "Down", "Return"), "progress": ("Escape",), "error": ("Return",)}
    assert screen.answer(process, answers) == attempt.CANCELLED, process.communicate()
    assert stage.mode == "agent" and stage.up == sorted(MODES["agent"])


def test_real_windows_under_xvfb_closed_at_once_change_nothing(stage: Stage, screen: Screen) -> None:
    _real(stage, screen)
    process = stage.start()
    assert screen.answer(process, {"list": ("Escape",)}) == attempt.DONE
    assert stage.mode == "agent" and stage.up is None
