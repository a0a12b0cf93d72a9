# SPDX-License-Identifier: MIT
"""Each profile answers, waits or fails loudly as its chain promises, in every state of the engines."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from conftest import Lab, marker

CLOUD = ("nvidia_nim", "groq", "openrouter")


@pytest.fixture
def marked(lab: Lab) -> Iterator[dict[str, str]]:
    """A marker per profile. Afterwards those of T1 must be nowhere outside, whatever the test did."""
    lab.everything_up()
    markers = {name: marker(name) for name in lab.policy["profiles"]}
    yield markers
    lab.provider("all", "ok")
    for name, word in markers.items():
        if lab.plane(name) == "sovereign":
            assert lab.seen_outside(word) == 0, f"{name} was seen outside"
    assert lab.unreadable_outside() == 0, "something left that nobody could read"


def test_recorders_can_be_reached(lab: Lab) -> None:
    """Before a zero means anything: every recorder hears what is sent to it."""
    assert lab.ctl("selftest")["ok"]
    assert lab.ctl("selftest", machine=lab.stranger, control="127.0.0.1:9097")["ok"]
    word = marker("control")
    lab.hub.run("curl", "--silent", "--max-time", "5", f"https://api.groq.com/{word}", check=False)
    assert lab.seen_outside(word) > 0, "the recorder did not hear the machine itself"


def test_agent_mode(lab: Lab, marked: dict[str, str]) -> None:
    for name in ("personal", "private", "research", "coordination"):
        answer = lab.ask(name, marked[name])
        assert (answer.status, answer.backend) == (200, "gpu"), f"{name}: {answer}"
    answer = lab.ask("client", marked["client"])
    assert answer.status == 503
    assert answer.seconds < 2
    assert answer.error["code"] == "engine_unavailable"
    assert "forensic" in answer.error["message"]
    coding = lab.ask("coding", marked["coding"])
    assert (coding.status, coding.backend) == (200, "cpu-coder")
    planning = lab.ask("planning", marked["planning"])
    assert (planning.status, planning.backend) == (200, "deepseek")
    assert lab.ctl("find", marked["planning"])["count"] > 0, "T3 is answered by the cloud, and the recorder hears it"
    assert lab.seen_outside(marked["personal"]) == 0, "local first: the GPU answered"


def test_forensic_mode(lab: Lab, marked: dict[str, str]) -> None:
    lab.gpu("forensic")
    for stream in (False, True):
        answer = lab.ask("client", marked["client"], stream=stream)
        assert (answer.status, answer.backend) == (200, "gpu-forensic"), f"stream {stream}: {answer}"
        for name in ("personal", "private"):
            answer = lab.ask(name, marked[name], stream=stream)
            assert (answer.status, answer.backend) == (200, "cpu"), f"{name}, stream {stream}: {answer}"


def test_gpu_stopped_then_back(lab: Lab, marked: dict[str, str]) -> None:
    lab.engine("agent", "stop")
    for name in ("personal", "private"):
        answer = lab.ask(name, marked[name])
        assert (answer.status, answer.backend) == (200, "cpu"), f"{name}: {answer}"
    lab.engine("agent", "start")
    container = lab.engine_container("agent")
    lab.until(
        lambda: lab.hub.ok("docker", "exec", container, "python3", "-m", "standins.engine", "ctl", "stats"),
        "the engine runs again",
    )
    time.sleep(1)
    for name in ("personal", "private"):
        answer = lab.ask(name, marked[name])
        assert (answer.status, answer.backend) == (200, "gpu"), f"{name} was not given back to the GPU: {answer}"


def test_nothing_local(lab: Lab, marked: dict[str, str]) -> None:
    lab.engine("agent", "stop")
    lab.cpu("stop")
    try:
        for provider, backend in zip(CLOUD, ("kimi", "groq", "openrouter"), strict=True):
            answer = lab.ask("personal", marked["personal"])
            assert (answer.status, answer.backend) == (200, backend), f"{provider}: {answer}"
            lab.provider(provider, "refuse")
        assert lab.seen_outside(marked["personal"]) >= len(CLOUD), "control: what may leave was seen leaving"
        answer = lab.ask("personal", marked["personal"])
        assert answer.status >= 500, "with every link refused, personal fails loudly"

        for stream in (False, True):
            answer = lab.ask("private", marked["private"], stream=stream, headers={"Prefer": "wait=0"})
            assert (answer.status, answer.error["code"]) == (503, "queued")
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["location"] == answer.error["job"]
            assert lab.queue("GET", answer.error["job"]).json["status"] == "queued"
            assert lab.queue("DELETE", answer.error["job"]).json["status"] == "cancelled"
            for name in ("client", "coding"):
                answer = lab.ask(name, marked[name], stream=stream)
                assert (answer.status, answer.error["code"]) == (503, "engine_unavailable")
        answer = lab.ask("coordination", marked["coordination"])
        assert answer.status >= 500
        assert lab.seen_outside(marked["coordination"]) == 0, "a cloud budget of 0 keeps coordination at home"
    finally:
        lab.provider("all", "ok")
        lab.engine("agent", "start")
        lab.cpu("start")
