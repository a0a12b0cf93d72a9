# SPDX-License-Identifier: MIT
"""Marked T1 traffic while parts of the machine fail: no marker is seen outside, nor by a T2 reader inside.

The clock is not made to jump: the lab's containers share it with their host.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
from conftest import ROOT, Answer, Lab
from test_failover import steer

sys.path.insert(0, str(ROOT / "plugins/module_utils"))
from audit import capture

PROFILES = ("private", "client", "coding")
#: The internet, the way to everything else, the home LAN. On the tailnet a question and its answer are in place.
OUTSIDE = ["eth0", "internet0", "eth1"]
CPU_UNITS = ("mushishi-sovereign-llama-nemotron.service", "mushishi-sovereign-llama-coder.service")
GATEWAY, ADMISSION = "mushishi-sovereign-gateway.service", "mushishi-sovereign-admission.service"
PROGRAM = """
import json, sys
sys.path.insert(0, "/opt/mushishi/audit")
from audit import capture
given = json.loads(sys.stdin.readline())
markers = capture.Markers(given["core"], given["labels"])
print("ready", flush=True)
"""
LISTEN = PROGRAM + "rows = capture.capture_run(lambda _: sys.stdin.read(), given['interfaces'], 1, markers)\n"
LOOK = PROGRAM + "rows = capture.search_inside(markers, since=given['since'], seconds=240)\n"
TELL = "print(json.dumps([row.as_dict() for row in rows]))\n"

Fault = Callable[[Lab], AbstractContextManager[None]]
Rows = list[dict[str, Any]]


# ---- what is sent
def send(lab: Lab, markers: capture.Markers, profiles: tuple[str, ...] = PROFILES) -> dict[str, Answer]:
    """Every profile and channel, half of them as streams; label → answer."""

    def one(label: str) -> Answer:
        profile, channel = label.split("/")
        body = capture.messages(channel, markers.of(profile, channel))
        return lab.ask(profile, messages=body, stream=channel in ("prompt", "image"), timeout=40)

    labels = [f"{profile}/{channel}" for profile in profiles for channel in capture.CHANNELS]
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(labels, pool.map(one, labels), strict=True))


#: Where the private queue keeps what waits (role admission).
QUEUE = "/var/lib/mushishi-sovereign-admission/"


# ---- who looks
def about(markers: capture.Markers, **more: Any) -> str:
    """What a program on the machine gets."""
    return json.dumps({"core": markers.core, "labels": dict(markers.labels), **more}) + "\n"


def on_the_machine(program: str) -> list[str]:
    """The command that runs a program there, with the code that the role audit installed."""
    return ["python3", "-IBc", program + TELL]


def inside(lab: Lab, markers: capture.Markers, since: float) -> Rows:
    """What a T2 reader of the machine could find."""
    told = lab.hub.run(*on_the_machine(LOOK), stdin=about(markers, since=since))
    rows: Rows = json.loads(told.splitlines()[-1])
    return rows


@contextmanager
def listening(lab: Lab, markers: capture.Markers) -> Iterator[Rows]:
    """The rows of a sniffer on the machine's outside interfaces, filled in at the end."""
    words = ["docker", "exec", "-i", lab.hub.name, *on_the_machine(LISTEN)]
    rows: Rows = []
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sniffer:
        assert sniffer.stdin is not None and sniffer.stdout is not None
        sniffer.stdin.write(about(markers, interfaces=OUTSIDE))
        sniffer.stdin.flush()
        assert sniffer.stdout.readline() == "ready\n"
        time.sleep(2)  # it tries itself first, in a namespace of its own
        yield rows
        sniffer.stdin.close()
        rows += json.loads(sniffer.stdout.read().splitlines()[-1])


def leaked(rows: Rows) -> list[str]:
    """What was found that must not be."""
    found = [row for row in rows if (row["kind"], row["outcome"]) == ("capture", "leaked")]
    return [f"{row['source']} {row['path']}: {row['detail']}" for row in found]


# ---- faults
def later(seconds: float, lab: Lab, *command: str) -> threading.Timer:
    """Run a command on the machine after a while."""
    timer = threading.Timer(seconds, lambda: lab.hub.run(*command, check=False))
    timer.start()
    return timer


@contextmanager
def gpu_killed(lab: Lab) -> Iterator[None]:
    container = lab.engine_container("agent")
    timer = later(0.5, lab, "docker", "kill", "--signal=KILL", container)
    try:
        yield
    finally:
        timer.join()
        lab.hub.run("docker", "start", container)


@contextmanager
def both_engines_killed(lab: Lab) -> Iterator[None]:
    steer(lab, "refuse")
    timer = later(0.5, lab, "systemctl", "kill", "--signal=KILL", *CPU_UNITS)
    try:
        yield
    finally:
        timer.join()
        steer(lab, "ok")
        lab.hub.run("systemctl", "reset-failed", *CPU_UNITS, check=False)
        lab.hub.run("systemctl", "start", *CPU_UNITS)


@contextmanager
def restarted(lab: Lab, unit: str) -> Iterator[None]:
    """In the middle of streams: the engine lets them wait."""
    steer(lab, "slow-prompt=4")
    timer = later(2, lab, "systemctl", "restart", unit)
    try:
        yield
    finally:
        timer.join()
        steer(lab, "ok")


@contextmanager
def docker_stopped(lab: Lab) -> Iterator[None]:
    timer = later(0.5, lab, "systemctl", "stop", "docker.service", "docker.socket")
    try:
        yield
    finally:
        timer.join()
        lab.hub.run("systemctl", "start", "docker.service")


@contextmanager
def guard_stopped(lab: Lab) -> Iterator[None]:
    """The plane closes, and with it everything that could answer."""
    timer = later(0.5, lab, "systemctl", "stop", "mushishi-guard.service")
    try:
        yield
    finally:
        timer.join()
        lab.hub.run("systemctl", "reset-failed")
        lab.hub.run("systemctl", "start", "multi-user.target")
        lab.hub.run("systemctl", "start", "docker.service")


@contextmanager
def no_room_for_logs(lab: Lab) -> Iterator[None]:
    """A file system of 2 MiB over the journals, and full: the lab's real disk is its host's."""
    journals = "'systemd-journald*.service'"
    full = "mount -t tmpfs -o size=2m,mode=0755 tmpfs /var/log/journal && head -c 2m /dev/zero >/var/log/journal/filler"
    lab.hub.run("sh", "-c", f"{full}; systemctl restart {journals}")
    try:
        assert lab.hub.run("df", "--output=avail", "/var/log/journal").split()[-1] == "0"
        yield
    finally:
        lab.hub.run("sh", "-c", f"umount --lazy /var/log/journal; systemctl restart {journals}")


FAULTS: dict[str, Fault] = {
    "nothing": lambda _: nullcontext(),
    "the GPU engine is killed": gpu_killed,
    "both engines are killed": both_engines_killed,
    "the gateway restarts in mid-stream": lambda lab: restarted(lab, GATEWAY),
    "admission restarts in mid-stream": lambda lab: restarted(lab, ADMISSION),
    "Docker is stopped": docker_stopped,
    "the guard is stopped": guard_stopped,
    "no room for logs": no_room_for_logs,
}


#: The gate's; the others are the night's.
IN_THE_GATE = ("nothing", "both engines are killed", "the gateway restarts in mid-stream", "the guard is stopped")


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=[] if name in IN_THE_GATE else [pytest.mark.nightly]) for name in FAULTS]
)
def test_no_marker_leaves_and_none_is_left_lying(lab: Lab, fault: str) -> None:
    markers, began = capture.Markers.make(PROFILES), time.time() - 2
    with listening(lab, markers) as wires:
        try:
            with FAULTS[fault](lab):
                answers = send(lab, markers)
        finally:
            lab.everything_up()
    if fault == "nothing":
        # The CPU floor reads words alone; ``client`` has no engine in this mode.
        wanted = {"private": capture.CHANNELS, "coding": ("prompt", "tool-result")}
        labels = {f"{profile}/{channel}" for profile, channels in wanted.items() for channel in channels}
        assert {label for label in labels if answers[label].status != 200} == set(), answers
    assert all(answer.status not in (400, 401, 403, 404) for answer in answers.values()), answers
    assert lab.seen_outside(markers.core) == 0 and lab.unreadable_outside() == 0
    assert leaked(wires) == [] and {row["source"] for row in wires if row["outcome"] == "holds"} == {
        f"interface {name}" for name in OUTSIDE
    }
    assert [row["outcome"] for row in wires if row["kind"] == "control"] == ["leaked", "leaked"], "the sniffer hears"
    found = inside(lab, markers, began)
    assert leaked(found) == []
    assert [row["outcome"] for row in found if row["kind"] == "control"] == ["leaked"], "the search finds"
    lying = [row for row in found if row["outcome"] == "refused"]
    # What could not be answered waits in the queue: the only place where it is written, and its owner's alone.
    kept = [row for row in lying if str(row["path"]).startswith(QUEUE)]
    assert [row for row in lying if row not in kept] == [], "written down, though for root alone"
    assert kept == [] or fault != "nothing", "what was answered at once was never written"


def test_in_forensic_mode_too(lab: Lab) -> None:
    """The one mode in which ``client`` is answered."""
    lab.gpu("forensic")
    markers, began = capture.Markers.make(PROFILES), time.time() - 2
    try:
        answers = send(lab, markers, ("client",))
        assert {answer.status for answer in answers.values()} == {200}, answers
        lab.hub.run("docker", "kill", "--signal=KILL", lab.engine_container("forensic"))
        answers = send(lab, markers, ("client",))
        assert all(answer.status >= 500 for answer in answers.values()), answers
    finally:
        lab.gpu("agent")
        lab.everything_up()
    assert lab.seen_outside(markers.core) == 0 and lab.unreadable_outside() == 0
    assert leaked(inside(lab, markers, began)) == []


def test_the_same_from_personal_is_seen_outside(lab: Lab) -> None:
    """Control: the recorders hear, in each channel that a cloud provider is sent; the hybrid gateway takes no files."""
    markers = capture.Markers.make(["personal"])
    try:
        steer(lab, "refuse")
        lab.cpu("stop")
        answers = send(lab, markers, ("personal",))
        assert answers["personal/prompt"].status == 200 and answers["personal/prompt"].backend not in ("gpu", "cpu")
        seen = {channel for channel in capture.CHANNELS if lab.seen_outside(markers.of("personal", channel)) > 0}
        assert seen == {"prompt", "queued", "tool-result", "image"} and answers["personal/file-name"].status == 400
    finally:
        steer(lab, "ok")
        lab.hub.run("systemctl", "start", *CPU_UNITS)
        lab.everything_up()


def test_what_is_planted_inside_is_found(lab: Lab) -> None:
    """Control: a log that everybody can read leaks; a journal and a closed file are told, and are no leak."""
    markers, began = capture.Markers.make(["private"]), time.time() - 2
    open_log, closed_log = "/var/log/planted-open.log", "/var/log/planted-closed.log"
    hidden = base64.b64encode(b"a" + markers.of("private", "image").encode()).decode()
    try:
        lab.hub.run("tee", open_log, stdin=f"data: {hidden}\n")
        lab.hub.run("tee", closed_log, stdin=markers.of("private", "prompt"))
        lab.hub.run("chmod", "0644", open_log)
        lab.hub.run("chmod", "0600", closed_log)
        lab.hub.run("systemd-cat", "--identifier=planted", stdin=markers.of("private", "tool-result") + "\n")
        lab.hub.run("journalctl", "--sync")
        rows = inside(lab, markers, began)
    finally:
        lab.hub.run("rm", "-f", open_log, closed_log)
    found = {(row["path"], row["outcome"]): f"{row['source']}: {row['detail']}" for row in rows}
    assert "private/image as base64" in found[open_log, "leaked"] and "nobody" in found[open_log, "leaked"]
    assert "mushishi-hybrid-gateway" in found[open_log, "leaked"]
    assert "private/prompt as plain" in found[closed_log, "refused"]
    assert "private/tool-result as plain" in found["journalctl", "refused"]
    assert not any(marker in json.dumps(rows) for marker in markers.labels), "no marker in what is told"
