# SPDX-License-Identifier: MIT
"""Engines that are gone, hang, fail or break off: who answers then, how soon, and what a caller never gets."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import Answer, Lab, marker
from test_plane import as_user

#: Seconds to the first token of the slow prompt. The full minute is the nightly run's.
SLOW_SECONDS = 12 if os.environ.get("MUSHISHI_EPOCHS") == "gate" else 60
SLOW_WORD = "SLOW-PROMPT"
CPU_UNIT = "mushishi-sovereign-llama-nemotron.service"
PROBER = "mushishi-sovereign-prober.service"
#: Sovereign units write to a journal of their own (P8).
PLANE = "--namespace=sovereign"
#: Generous: a loaded machine. The figures are in benchmarks/.
SOON, AT_ONCE = 8.0, 4.0


def steer(lab: Lab, fault: str, mode: str = "agent") -> None:
    """Tell the engine stand-in how to behave."""
    lab.hub.run("docker", "exec", lab.engine_container(mode), "python3", "-m", "standins.engine", "ctl", fault)


@contextmanager
def failing(lab: Lab, fault: str, mode: str = "agent", profile: str = "private") -> Iterator[None]:
    """The GPU engine fails in one way; afterwards it serves its profile again."""
    steer(lab, fault, mode)
    try:
        yield
    finally:
        steer(lab, "ok", mode)
        lab.until(
            lambda: lab.ask(profile).status == 200 and lab.ask(profile).backend.startswith("gpu"), "the GPU is back", 30
        )


class Journal:
    """What the prober says from now on."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        shown = lab.hub.run("journalctl", PLANE, "--no-pager", "--lines=1", "--show-cursor", "--output=cat")
        self._cursor = shown.rpartition("-- cursor: ")[2].strip()

    def lines(self) -> list[str]:
        """Its lines so far."""
        given = (PLANE, "--no-pager", "--output=cat", f"--after-cursor={self._cursor}", f"--unit={PROBER}")
        return self._lab.hub.run("journalctl", *given).splitlines()

    def of(self, engine: str) -> list[str]:
        """Its verdicts on one engine."""
        return [line for line in self.lines() if line.startswith(f"{engine}: ")]

    def begun(self) -> bool:
        """Whether the prober has begun to watch since."""
        return any(line.startswith("watching ") for line in self.lines())


@pytest.mark.parametrize("fault", ["refuse", "drop", "cut=0", "500", "unhealthy", "404", "hang", "hang-all", "sleep"])
def test_the_next_link_answers(lab: Lab, fault: str) -> None:
    """Plain and streaming, on both planes, first while nobody knows yet and then when the prober does."""
    word = marker("private")
    with failing(lab, fault):
        for profile, stream in (("private", True), ("personal", False), ("private", False), ("personal", True)):
            answer = lab.ask(profile, word if profile == "private" else "Say yes.", stream=stream)
            assert (answer.status, answer.backend) == (200, "cpu"), f"{profile}, {stream}: {answer}"
            assert "[stand-in" not in answer.text, "not a word of the GPU's"
            assert answer.seconds < SOON, answer
            assert not stream or answer.text.rstrip().endswith("data: [DONE]"), "whole"
    assert lab.seen_outside(word) == 0 and lab.unreadable_outside() == 0


@pytest.mark.parametrize("profile", ["private", "personal"])
def test_a_stream_that_ends_before_it_began_is_asked_for_elsewhere(lab: Lab, profile: str) -> None:
    """The engine hangs up in good order, without a word and without a reason."""
    with failing(lab, "short=0"):
        answer = lab.ask(profile, stream=True)
    assert (answer.status, answer.backend) == (200, "cpu") and "[stand-in" not in answer.text, answer
    assert '"content":"' in answer.text.replace('": "', '":"') and answer.text.rstrip().endswith("data: [DONE]"), answer


def test_an_answer_that_breaks_off_before_its_end_is_asked_for_elsewhere(lab: Lab) -> None:
    """Not streamed, nothing of it has reached the caller yet."""
    with failing(lab, "cut"):
        for profile in ("private", "personal"):
            answer = lab.ask(profile)
            assert (answer.status, answer.backend) == (200, "cpu"), answer


@pytest.mark.parametrize("fault", ["cut=3", "short=3"])
@pytest.mark.parametrize("profile", ["private", "personal"])
def test_a_stream_that_breaks_off_ends_with_an_error(lab: Lab, profile: str, fault: str) -> None:
    """Never a made-up end, never the rest of another engine's answer; also when the engine hangs up in good order."""
    word = marker(profile)
    with failing(lab, fault):
        answer = lab.ask(profile, word, stream=True, max_tokens=20)
    assert (answer.status, answer.backend) == (200, "gpu")
    assert "[DONE]" not in answer.text
    events: list[dict[str, Any]] = [
        json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")
    ]
    assert events[-1].get("error"), answer.text
    pieces = [event["choices"][0] for event in events[:-1]]
    assert not any(piece.get("finish_reason") for piece in pieces), "no end was made up"
    said = "".join(piece["delta"].get("content") or "" for piece in pieces)
    assert said.startswith("[stand-in nemotron] ") and len(said.split()) == 4, "three tokens and no more"
    assert word not in answer.text
    assert lab.seen_outside(word) == 0, "not sent on to anybody"
    control = lab.ask(profile, word, stream=True, max_tokens=20)
    assert control.text.rstrip().endswith("data: [DONE]") and '"error"' not in control.text


def test_a_hang_is_said_cut_and_forgotten_as_soon_as_it_ends(lab: Lab) -> None:
    journal = Journal(lab)
    with failing(lab, "hang"):
        answer = lab.ask("private")
        assert answer.backend == "cpu" and answer.seconds < SOON
        assert [line.split(":")[1].split()[-1] for line in journal.of("gpu")] == ["hung"]
        began = time.monotonic()
        assert lab.ask("personal").backend == "cpu" and time.monotonic() - began < AT_ONCE, "nobody waits any more"
    said = journal.of("gpu")
    assert said[-1].startswith("gpu: hung for ") and "now serving" in said[-1]


def test_a_stopped_engine_is_known_before_somebody_comes(lab: Lab) -> None:
    journal = Journal(lab)
    with failing(lab, "refuse"):
        lab.until(lambda: journal.of("gpu"), "the prober has noticed", 10)
        assert "now refused" in journal.of("gpu")[0]
        assert lab.ask("private").backend == "cpu"
        steer(lab, "ok")
        began = time.monotonic()
        lab.until(lambda: lab.ask("private").backend == "gpu", "the GPU answers again", 10)
        assert time.monotonic() - began < AT_ONCE


@pytest.mark.parametrize("fault", ["slow-prompt", "slow-serial"])
def test_slow_is_not_hung(lab: Lab, fault: str) -> None:
    """A prompt that takes a minute to its first token: others are served meanwhile, or wait for it in line."""
    journal, answers = Journal(lab), list[Answer]()
    with failing(lab, f"{fault}={SLOW_SECONDS}"):
        # Whoever names no time has the chain's own; this one has more than the prompt takes.
        given: dict[str, Any] = {"timeout": 180, "headers": {"Prefer": "wait=170"}}
        ask = threading.Thread(target=lambda: answers.append(lab.ask("private", f"{SLOW_WORD} please", **given)))
        ask.start()
        time.sleep(3)  # so long that a prober without patience would have judged
        if fault == "slow-prompt":
            other = lab.ask("personal")
            assert (other.backend, not answers) == ("gpu", True) and other.seconds < SOON
        ask.join(180)
        assert (answers[0].status, answers[0].backend) == (200, "gpu"), answers
        assert answers[0].seconds >= SLOW_SECONDS
        assert journal.of("gpu") == [], "no verdict"


def test_client_gets_an_error_soon_and_nothing_else(lab: Lab) -> None:
    lab.gpu("forensic")
    try:
        assert lab.ask("client").backend == "gpu-forensic", "control"
        for fault in ("hang", "404", "500", "refuse", "sleep"):
            with failing(lab, fault, "forensic", "client"):
                for stream in (False, True):
                    answer = lab.ask("client", stream=stream)
                    assert answer.status >= 400 and answer.backend == "", f"{fault}: {answer}"
                    assert answer.seconds < SOON and answer.error["code"] == "engine_unavailable"
    finally:
        lab.gpu("agent")
        lab.everything_up()


def test_a_stopped_process_on_the_cpu_is_found(lab: Lab) -> None:
    """It holds its port and takes connections; no CPU time shows that it does not work."""
    journal = Journal(lab)
    with failing(lab, "refuse"):
        assert lab.ask("private").backend == "cpu", "control"
        lab.hub.run("systemctl", "kill", "--signal=STOP", CPU_UNIT)
        try:
            answer = lab.ask("private", timeout=60)
            assert answer.status == 503 and answer.seconds < 30
            assert "now hung" in journal.of("cpu")[-1]
        finally:
            lab.hub.run("systemctl", "kill", "--signal=CONT", CPU_UNIT)
        lab.until(lambda: lab.ask("private").backend == "cpu", "the CPU floor is back", 10)
    assert journal.of("cpu")[-1].startswith("cpu: hung for ")


@contextmanager
def settings_of_the_prober(lab: Lab, engine: str, **values: Any) -> Iterator[None]:
    """The prober judges one engine by other settings; afterwards by the role's again."""
    path = "/etc/mushishi/gateway/prober.json"
    before = lab.hub.run("cat", path)
    settings = json.loads(before)
    next(entry for entry in settings["engines"] if entry["name"] == engine).update(values)
    lab.hub.run("tee", path, stdin=json.dumps(settings))
    try:
        lab.hub.run("systemctl", "restart", PROBER)
        yield
    finally:
        lab.hub.run("tee", path, stdin=before)
        lab.hub.run("systemctl", "restart", PROBER)


def cpu_seen_by_the_prober(lab: Lab) -> int:
    """CPU time of llama-server in microseconds, read where the prober reads it: in its own view of the file system."""
    pid = lab.hub.run("systemctl", "show", "-P", "MainPID", PROBER).strip()
    group = lab.hub.run("systemctl", "show", "-P", "ControlGroup", CPU_UNIT).strip()
    # The prober looks beside its own control group.
    own = lab.hub.run("systemctl", "show", "-P", "ControlGroup", PROBER).strip()
    assert group.rpartition("/")[0] == own.rpartition("/")[0]
    text = lab.hub.run("nsenter", f"--target={pid}", "--mount", "cat", f"/sys/fs/cgroup{group}/cpu.stat")
    return int(dict(line.split() for line in text.splitlines())["usage_usec"])


def test_work_on_the_cpu_is_seen(lab: Lab) -> None:
    """The real llama-server, and not a byte for the callers meanwhile: the prober sees that it works.

    The negative is the stopped process above. Control: a prober that looks at a unit that is not there says so.
    """
    with failing(lab, "refuse"):
        lab.until(lambda: lab.ask("private").backend == "cpu", "the CPU floor answers", 20)
        for unit in (CPU_UNIT, "not-there.service"):
            journal = Journal(lab)
            with settings_of_the_prober(lab, "cpu", unit=unit):
                lab.until(journal.begun, "it watches", 20)
                before = cpu_seen_by_the_prober(lab)
                # As many as its context holds: long enough to be looked at, on a fast machine by many callers at once.
                with ThreadPoolExecutor(6) as callers:
                    words = [f"Count from {number}. " * 8 for number in range(6)]
                    answers = [*callers.map(lambda word: lab.ask("private", word, max_tokens=700, timeout=120), words)]
                assert {(answer.status, answer.backend) for answer in answers} == {(200, "cpu")}, answers
                assert max(answer.seconds for answer in answers) > 0.6, "control: longer than two of its readings"
                assert cpu_seen_by_the_prober(lab) > before, "its view of the file system shows the work"
                said = journal.of("cpu")
                assert not [line for line in said if "now hung" in line], said
                blind = any("cannot be read" in line for line in said)
                assert blind is (unit != CPU_UNIT), said


def door_says(lab: Lab, command: str) -> str:
    """What the door's control channel tells root."""
    code = (
        "import socket,sys; s=socket.create_connection(('127.0.0.1',4023),5); s.sendall(sys.argv[1].encode()+b'\\n');"
        "print(b''.join(iter(lambda: s.recv(65536), b'')).decode())"
    )
    return lab.hub.run("ip", "netns", "exec", "sovereign", "python3", "-c", code, command)


def out_of_service(lab: Lab) -> set[str]:
    """Engines that the door keeps out."""
    rows = [line.split(",") for line in door_says(lab, "show stat -1 4 -1").splitlines() if line.startswith("engine-")]
    assert rows, "control: there are engines"
    return {row[0].removeprefix("engine-") for row in rows if "MAINT" in row}


def test_a_prober_that_is_gone_keeps_nobody_out(lab: Lab) -> None:
    with failing(lab, "hang"):
        lab.until(lambda: lab.ask("private").backend == "cpu", "the hang is known")
        assert "gpu" in out_of_service(lab)
        lab.hub.run("systemctl", "stop", PROBER)
        try:
            assert out_of_service(lab) == set()
        finally:
            lab.hub.run("systemctl", "start", PROBER)
        lab.until(lambda: "gpu" in out_of_service(lab), "the next prober finds it by itself", 15)
        lab.hub.run("systemctl", "restart", "mushishi-sovereign-door.service")
        lab.until(lambda: "gpu" in out_of_service(lab), "a door started anew is told", 15)


USERS = ("nobody", *(f"mushishi-sovereign-{name}" for name in ("admission", "gateway", "door", "llama")))


@pytest.mark.parametrize("user", USERS)
def test_nobody_but_the_prober_steers_the_door(lab: Lab, user: str) -> None:
    target = [{"name": "control", "proto": "tcp", "address": "127.0.0.1", "port": 4023, "timeout": 3}]
    assert lab.probe(target, as_user(user, plane=True))["control"]["outcome"] == "refused"
    control = lab.probe(target, as_user("mushishi-sovereign-prober", plane=True))
    assert control["control"]["outcome"] == "open", "control: somebody can"


def test_the_prober_listens_to_nobody(lab: Lab) -> None:
    pid = lab.hub.run("systemctl", "show", "-P", "MainPID", PROBER).strip()
    listening = lab.hub.run("ip", "netns", "exec", "sovereign", "ss", "-Hltnup")
    assert f"pid={pid}," not in listening
    assert "haproxy" in listening, "control: the list has names"


def test_nothing_that_was_asked_is_written_down(lab: Lab) -> None:
    word = marker("private")
    with failing(lab, "hang"):
        lab.ask("private", word)
        lab.ask("private", word, stream=True)
    units = [f"--unit={unit}" for unit in (PROBER, "mushishi-sovereign-door.service")]
    said = lab.hub.run("journalctl", PLANE, "--no-pager", "--output=cat", *units)
    assert "now hung" in said, "control: they do write"
    assert word not in said
