# SPDX-License-Identifier: MIT
"""The command on a played machine: documents, exit statuses, calling off, root, the queue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Process
from ctl_world import HERE, Desk, Terminal
from gpu_world import MODES, SIZES
from sovereignctl import attempt, queue
from sovereignctl.cli import COMMAND, NeedsRoot, _main

#: The keys of each document: a promise to whoever reads them by a program. New ones may come.
KEYS = {
    "status": {
        "schema", "kind", "mode", "since", "intent", "progress", "running", "tenants", "modes", "card", "no_card",
        "processes", "foreign", "busy", "busy_reasons", "closed", "problems",
    },
    "plan": {
        "schema", "kind", "origin", "target", "changed", "steps", "stop", "keep", "start", "warnings",
        "expected_seconds", "working",
    },
    "switch": {
        "schema", "kind", "origin", "target", "changed", "plan", "seconds", "total_seconds", "warnings", "peaks",
        "outcome", "cancelled", "working", "exit", "error",
    },
    "history": {"schema", "kind", "switches"},
    "gpu": {"schema", "kind", "cards", "no_card"},
    "error": {"schema", "kind", "error"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("mode status --json", "status"),
        ("mode switch forensic --check --json", "plan"),
        ("mode switch forensic --json", "switch"),
        ("mode history --json", "history"),
        ("gpu --json", "gpu"),
        ("mode switch nothing --check --json", "error"),
    ],
)
def test_a_document_has_its_keys(desk: Desk, words: str, kind: str) -> None:
    found = desk.document(*words.split())
    assert (found["schema"], found["kind"]) == (1, kind) and KEYS[kind] <= set(found)


# ---- looking
def test_status_for_a_person(desk: Desk) -> None:
    desk.world.at_work["vllm-agent"] = 1e9
    desk.world.foreign.append(Process(7, 300, "blender", "alice"))
    assert desk.call("mode", "status") == 0
    text = desk.out.getvalue()
    assert "mode: agent\n" in text and "card: 26300 of 32607 MiB are taken" in text
    assert "at work: vllm-agent: 2 requests run" in text
    assert "no tenant of ours: blender (pid 7, user alice, 300 MiB)" in text
    assert "* agent" in text and "  forensic  27000 MiB" in text


def test_status_says_what_it_does_not_know(desk: Desk) -> None:
    desk.world.broken["running"] = "it does not answer"
    found = desk.document("mode", "status", "--json")
    assert found["running"] is None and "it does not answer" in found["problems"][0]
    desk.call("mode", "status")
    assert "not known: played running: it does not answer. Mend it." in desk.out.getvalue()


def test_the_card(desk: Desk) -> None:
    assert desk.call("gpu") == 0
    text = desk.out.getvalue()
    assert "name: NVIDIA GeForce RTX 5090" in text and "power watts: 312.5" in text and "slowed by: power cap" in text
    assert "python3" in text and "vllm-agent" in text


def test_history_of_what_was_done(desk: Desk) -> None:
    assert desk.call("mode", "history") == 0 and desk.out.getvalue() == "no switch was made yet\n"
    desk.call("mode", "switch", "forensic")
    desk.world.hang.add("music")
    assert desk.call("mode", "switch", "music") == attempt.ROLLED_BACK
    (first, second) = desk.document("mode", "history", "--json")["switches"]
    assert (first["origin"], first["target"], first["outcome"]) == ("agent", "forensic", "done")
    assert first["total_seconds"] == pytest.approx(sum(first["seconds"].values())) and first["peaks"]
    assert second["outcome"].startswith("rolled back: tenant music")
    assert desk.document("mode", "history", "--last", "1", "--json")["switches"] == [second]
    desk.call("mode", "history")
    assert "music" in desk.out.getvalue().splitlines()[-1]


def test_history_and_names_need_neither_root_nor_docker(desk: Desk) -> None:
    def never() -> Any:
        raise AssertionError("the machine was asked")

    assert desk.call("mode", "history", root=False, open_card=never) == 0
    assert desk.call("mode", "names", root=False, open_card=never) == 0
    assert desk.out.getvalue().split() == [*MODES, "off"]


def test_completion_offers_the_modes_and_stays_silent_without_a_registry(desk: Desk) -> None:
    assert desk.call("complete", "--", "mode", "switch", "", root=False) == 0
    assert desk.out.getvalue().split() == sorted([*MODES, "off"])
    desk.path.unlink()
    assert desk.call("complete", "--", "mode", "switch", "", root=False) == 0
    assert desk.out.getvalue() == desk.err.getvalue() == ""


# ---- switching
def test_a_switch(desk: Desk) -> None:
    found = desk.document("mode", "switch", "forensic", "--json")
    desk.serves("forensic")
    assert found["exit"] == 0 and found["changed"] and found["outcome"] == "done" and found["error"] is None
    assert list(found["seconds"])[:3] == ["busy", "close", "drain"] and found["total_seconds"] > 1
    assert found["peaks"] == {"vllm-forensic": SIZES["vllm-forensic"]}
    # Progress is told apart from the result.
    assert "starting: vllm-forensic" in desk.err.getvalue()
    again = desk.document("mode", "switch", "forensic", "--json")
    assert again["exit"] == 0 and not again["changed"] and again["outcome"] == "nothing to do"
    desk.call("mode", "switch", "forensic")
    assert "mode forensic serves already" in desk.err.getvalue()


def test_a_plan_changes_nothing(desk: Desk) -> None:
    desk.world.at_work["vllm-agent"] = 1e9
    found = desk.document("mode", "switch", "forensic", "--check", "--json")
    assert found["stop"] == ["tts", "vllm-agent"] and found["working"] == ["vllm-agent: 2 requests run"]
    desk.serves("agent")
    desk.call("mode", "switch", "forensic", "--check")
    assert desk.out.getvalue().splitlines()[0] == "stop tts (4000 MiB)"
    desk.call("mode", "switch", "agent", "--check")
    assert desk.out.getvalue() == "nothing to do\n"


def test_who_is_at_work_is_not_ended_unasked(desk: Desk) -> None:
    desk.world.at_work["vllm-agent"] = 1e9
    found = desk.document("mode", "switch", "forensic", "--json")
    assert (found["exit"], found["outcome"]) == (attempt.REFUSED, "unchanged")
    assert found["working"] == "vllm-agent: 2 requests run"
    desk.serves("agent")
    # Behind a shut door for no longer than was said.
    found = desk.document("mode", "switch", "forensic", "--on-busy", "wait", "--drain", "3", "--json")
    assert found["exit"] == attempt.REFUSED and "did not end within 3 s" in found["error"]["seen"]
    desk.serves("agent")
    assert desk.document("mode", "switch", "forensic", "--on-busy", "force", "--drain", "0", "--json")["exit"] == 0
    desk.serves("forensic")


def test_a_failure_is_told_by_name_value_and_remedy(desk: Desk) -> None:
    desk.world.die.add("vllm-forensic")
    assert desk.call("mode", "switch", "forensic") == attempt.ROLLED_BACK
    desk.serves("agent")
    text = desk.err.getvalue()
    assert "sovereignctl: tenant vllm-forensic\n" in text and "the last words of vllm-forensic" in text
    assert "what to do:    Look at what its log says. The mode agent serves again." in text


def test_broken_is_another_status(desk: Desk) -> None:
    desk.world.die.add("vllm-forensic")
    found = desk.document("mode", "switch", "forensic", "--no-rollback", "--json")
    assert (found["exit"], found["outcome"]) == (attempt.BROKEN, "broken")
    desk.world.die.update(("vllm-agent", "music"))
    assert desk.call("mode", "switch", "music") == attempt.BROKEN


def test_no_such_mode_names_those_that_there_are(desk: Desk) -> None:
    assert desk.call("mode", "switch", "gaming") == attempt.REFUSED
    assert "mode gaming" in desk.err.getvalue() and "Choose one of agent, audio" in desk.err.getvalue()
    assert desk.document("mode", "switch", "gaming", "--json")["outcome"] == "refused"


def test_two_at_once(desk: Desk) -> None:
    """The second is refused and told who is at it; with --wait it comes after."""
    desk.world.hold = "stop vllm-agent"
    first = threading.Thread(target=lambda: desk.card.switch("forensic", who="somebody"))
    first.start()
    assert desk.world.reached.wait(10)
    other = Desk.__new__(Desk)
    other.__dict__ = {**desk.__dict__, "out": Terminal(), "err": Terminal()}
    assert other.call("mode", "switch", "music") == attempt.REFUSED
    assert "another switch is under way: to forensic, asked by somebody" in other.err.getvalue()
    desk.world.go.set()
    assert other.call("mode", "switch", "music", "--wait", "20") == 0
    first.join()
    desk.serves("music")


# ---- calling off
@pytest.mark.parametrize(
    ("phase", "outcome"),
    [("busy", "unchanged"), ("close", "unchanged"), ("drain", "unchanged"), ("stop", "rolled back"),
     ("freed", "rolled back"), ("start", "rolled back"), ("answers", "rolled back"), ("open", "rolled back"),
     ("commit", "rolled back")],
)  # fmt: skip
def test_called_off_at_any_phase_the_old_mode_serves(desk: Desk, phase: str, outcome: str) -> None:
    cancel = threading.Event()

    def report(step: Any) -> None:
        if step.phase == phase:
            cancel.set()

    end = attempt.attempt(desk.card, "forensic", attempt.How(), report, cancel)
    assert end.result is not None and end.result.outcome == outcome
    assert end.cancelled and end.code == attempt.CANCELLED and end.working == ""
    desk.serves("agent")


def test_who_calls_off_on_the_way_back_is_not_heard(desk: Desk) -> None:
    """The way back must come to its end."""
    desk.world.die.add("vllm-forensic")
    cancel = threading.Event()

    def report(step: Any) -> None:
        if step.phase == "back":
            cancel.set()

    end = attempt.attempt(desk.card, "forensic", attempt.How(), report, cancel)
    assert (end.code, end.cancelled) == (attempt.ROLLED_BACK, False)
    desk.serves("agent")


def test_called_off_and_no_way_back_is_broken(desk: Desk) -> None:
    cancel = threading.Event()
    cancel.set()
    desk.world.die.add("vllm-agent")
    end = attempt.attempt(desk.card, "forensic", attempt.How(), lambda _step: None, cancel)
    assert end.code == attempt.CANCELLED
    cancel.clear()
    end = attempt.attempt(
        desk.card, "forensic", attempt.How(), lambda step: cancel.set() if step.phase == "start" else None, cancel
    )
    assert end.code == attempt.BROKEN


def start(folder: Path, collections_root: Path, *words: str, **world: Any) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    Desk(folder)
    (folder / "world.json").write_text(json.dumps({"pace": 0.05, **world}))
    argv = [sys.executable, str(HERE / "ctl_world.py"), str(collections_root), str(folder), *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_calls_it_off(tmp_path: Path, collections_root: Path, number: signal.Signals) -> None:
    process = start(tmp_path, collections_root, "forensic", slow={"vllm-forensic": 90})
    assert process.stderr is not None
    for line in process.stderr:
        if "waiting for an answer" in line:
            break
    process.send_signal(number)
    _out, err = process.communicate(timeout=60)
    assert process.returncode == attempt.CANCELLED and f"{number.name} was heard" in err
    ended = json.loads((tmp_path / "ended.json").read_text())
    assert ended["up"] == sorted(MODES["agent"])


def test_a_line_that_breaks_off_ends_no_switch(tmp_path: Path, collections_root: Path) -> None:
    process = start(tmp_path, collections_root, "forensic", slow={"vllm-forensic": 10})
    assert process.stderr is not None
    for line in process.stderr:
        if "waiting for an answer" in line:
            break
    process.send_signal(signal.SIGHUP)
    process.stderr.close()
    assert process.wait(60) == 0
    assert json.loads((tmp_path / "ended.json").read_text())["up"] == MODES["forensic"]


def test_steps_for_a_program(tmp_path: Path, collections_root: Path) -> None:
    process = start(tmp_path, collections_root, "forensic", "--steps")
    assert process.stdout is not None
    told = [json.loads(line) for line in process.stdout]
    process.communicate()
    assert process.returncode == 0
    assert {each["kind"] for each in told[:-1]} == {"step"} and told[-1]["kind"] == "switch"
    shares = [each["share"] for each in told[:-1]]
    assert shares == sorted(shares) and {"title", "times", "elapsed", "left"} <= set(told[0])


def test_closing_its_standard_input_calls_it_off(tmp_path: Path, collections_root: Path) -> None:
    process = start(tmp_path, collections_root, "forensic", "--steps", slow={"vllm-forensic": 90})
    assert process.stdout is not None and process.stdin is not None
    for line in process.stdout:
        if json.loads(line)["phase"] == "answers":
            break
    process.stdin.close()
    last = json.loads(process.stdout.readlines()[-1])
    assert process.wait(60) == attempt.CANCELLED and last["cancelled"] and last["outcome"] == "rolled back"
    assert json.loads((tmp_path / "ended.json").read_text())["up"] == sorted(MODES["agent"])


# ---- root
@pytest.mark.parametrize("words", ["mode status", "mode switch forensic", "gpu", "queue list", "pick"])
def test_without_root_nothing_is_asked(desk: Desk, words: str) -> None:
    assert desk.call(*words.split(), root=False) == attempt.NOT_ALLOWED
    assert f"what to do:    Say: sudo {COMMAND} {words}" in desk.err.getvalue()
    assert desk.world.calls == [] and desk.replaced == []


def test_on_a_terminal_it_begins_again_through_sudo(desk: Desk) -> None:
    seen = Terminal(somebody=True)
    outside = desk.outside(root=False, sudo="/usr/bin/sudo", err=seen, stdin=seen)
    with pytest.raises(NeedsRoot):
        # Whoever replaces a process does not come back; the played one does, and is stopped there.
        _main(["mode", "switch", "forensic"], outside)
    assert desk.replaced == [["/usr/bin/sudo", "--", COMMAND, "mode", "switch", "forensic"]]
    assert "beginning again through sudo" in seen.getvalue() and desk.world.calls == []


def test_an_error_is_a_document_too(desk: Desk) -> None:
    found = desk.document("mode", "status", "--json", root=False)
    assert found["error"]["seen"] == "it needs root"


# ---- the queue
@pytest.fixture
def place(tmp_path: Path) -> queue.Place:
    """Where admission would be: its program says how it was called, and as whom."""
    home = tmp_path / "admission"
    (home / "admission").mkdir(parents=True)
    (home / "admission/__init__.py").touch()
    (home / "admission/queuectl.py").write_text(
        "import sys, os\nprint(sys.argv[1:], dict(os.environ).keys(), os.getcwd())\n"
    )
    return queue.Place(Path(sys.executable), home, "nobody")


def test_the_queue_is_asked_by_its_own_program(place: queue.Place) -> None:
    done: list[Any] = []
    became: list[str] = []
    here = Path.cwd()
    try:
        queue.run(["show", "q-1", "--json"], place, lambda *call: done.append(call), became.append)
    finally:
        os.chdir(here)
    (path, argv, environment), *_ = done
    assert became == ["nobody"] and path == sys.executable
    assert argv[1:] == ["-PB", "-m", "admission.queuectl", "show", "q-1", "--json"]
    assert set(environment) <= {"PATH", "PYTHONPATH", "HOME", "TERM", "LANG", "LC_ALL"}
    ran = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("['show', 'q-1', '--json']")


def test_without_the_queue_it_says_so(desk: Desk, place: queue.Place) -> None:
    place.program.unlink()
    assert desk.call("queue", "list", place=place) == attempt.REFUSED
    assert "the private queue" in desk.err.getvalue() and "--tags admission" in desk.err.getvalue()


@pytest.mark.parametrize("words", [[], ["purge"], ["--json"]])
def test_a_word_that_the_queue_does_not_know(desk: Desk, place: queue.Place, words: list[str]) -> None:
    assert desk.call("queue", *words, place=place) == attempt.REFUSED
    assert "Say one of list, show, cancel, drain." in desk.err.getvalue()


def test_a_user_that_is_not_there() -> None:
    with pytest.raises(SovereignError, match="user mushishi-nobody-of-ours: there is none"):
        queue.become("mushishi-nobody-of-ours")


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root cannot become another")
def test_root_is_given_up_for_good() -> None:
    code = (
        "import sys, os; sys.path[:0] = sys.argv[1:]\n"
        "from sovereignctl import queue\n"
        "queue.become('nobody')\n"
        "assert os.getresuid() == (os.getuid(),) * 3 and os.getuid() != 0 and 0 not in os.getgroups()\n"
        "try: os.setuid(0)\nexcept PermissionError: print('gone')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, *sys.path], capture_output=True, text=True, check=False)
    assert ran.stdout == "gone\n", ran.stderr


def test_pick_needs_a_terminal(desk: Desk) -> None:
    assert desk.call("pick") == attempt.REFUSED
    assert "is no terminal" in desk.err.getvalue()


def test_the_reader_who_has_gone(tmp_path: Path, collections_root: Path) -> None:
    """``sovereignctl … | head -n 0`` ends without a traceback."""
    process = start(tmp_path, collections_root, "forensic", "--check")
    assert process.stdout is not None and process.stderr is not None and process.stdin is not None
    process.stdout.close()
    process.stdin.close()
    assert "Traceback" not in process.stderr.read()
    process.wait(30)
