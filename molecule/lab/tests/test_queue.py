# SPDX-License-Identifier: MIT
"""The private queue on the machine: both engines away, two hundred requests, nothing lost and nothing outside."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab, marker

DATA = "/var/lib/mushishi-sovereign-admission"
TOLD = "/run/mushishi-sovereign-admission"
UNIT = "mushishi-sovereign-admission.service"
CTL = (
    "env", "PYTHONPATH=/opt/mushishi/admission", "/opt/mushishi/venvs/admission/bin/python", "-PB", "-m",
    "admission.queuectl",
)  # fmt: skip
#: Jobs that may be at work at once, so that one may end before another that began earlier.
SLOTS = 4
ASYNC = {"Prefer": "respond-async"}


def queuectl(lab: Lab, *words: str) -> list[dict[str, Any]]:
    """What the administrator sees."""
    return list(json.loads(lab.hub.run(*CTL, *words, "--json", check=False))["jobs"])


def waiting(lab: Lab) -> list[dict[str, Any]]:
    return queuectl(lab, "list", "--waiting")


@pytest.fixture
def away(lab: Lab) -> Iterator[Lab]:
    """Both engines are away, and the queue is empty; everything is up afterwards."""
    lab.everything_up()
    for job in waiting(lab):
        queuectl(lab, "cancel", str(job["number"]))
    lab.engine("agent", "stop")
    for name in ("nemotron", "coder"):
        lab.hub.run("systemctl", "stop", f"mushishi-sovereign-llama-{name}.service")
    try:
        yield lab
    finally:
        lab.engine("agent", "start")
        lab.cpu("start")
        lab.everything_up()


def many(lab: Lab, count: int, word: str) -> tuple[threading.Thread, dict[str, Any]]:
    """So many requests through the OpenAI SDK on the tailnet client; what came of them, later."""
    program = (Path(__file__).parent / "queue_client.py").read_text()
    order = {"url": lab.url("sovereign"), "key": lab.key("private"), "patience": 500}
    order["prompts"] = [f"{word} number {at}" for at in range(count)]
    got: dict[str, Any] = {}

    def run() -> None:
        done = subprocess.run(
            ["docker", "exec", "-i", lab.client.name, "python3", "-c", program],
            input=json.dumps(order), capture_output=True, text=True, timeout=1200,
        )  # fmt: skip
        got["lines"], got["said"] = done.stdout.splitlines(), done.stderr

    thread = threading.Thread(target=run)
    thread.start()
    return thread, got


def test_two_hundred_are_answered_once_in_order_and_nothing_is_outside(away: Lab) -> None:
    word = marker("queue")
    known = {job["number"] for job in queuectl(away, "list")}
    thread, got = many(away, 200, word)
    away.until(lambda: len(waiting(away)) == 200, "all two hundred wait", 400)
    assert away.seen_outside(word) == 0, "while they wait"
    names = {job["number"] for job in waiting(away)}
    away.engine("agent", "start")
    away.cpu("start")
    thread.join()
    found = json.loads(got["lines"][-1])
    assert len(found) == 200, got["said"]
    for prompt, said in found.items():
        assert said.get("content"), (prompt, said)
        if said["kind"] == "left":
            assert (said["status"], said["code"], said["later"]) == (503, "queued", "completed")
        elif said["kind"] == "held":
            assert int(said["queued"]) > 0
    jobs = [job for job in queuectl(away, "list") if job["number"] not in known]
    # Whoever asks while others wait waits in line, the one who looks whether the engine is back too.
    own = [job for job in jobs if job["number"] in names]
    assert len(own) == 200 == sum(job["state"] == "completed" for job in own), "each once"
    assert len(jobs) <= 200 + 3, "no job was made twice"
    ends = [job["number"] for job in sorted(own, key=lambda job: job["ended_unix"])]
    assert all(abs(place - number) <= SLOTS for place, number in enumerate(ends, start=min(ends))), "in order"
    assert away.seen_outside(word) == 0
    assert away.unreadable_outside() == 0


def test_another_profiles_key_finds_nothing(away: Lab) -> None:
    answer = away.ask("private", headers={"Prefer": "wait=0"})
    job = answer.error["job"]
    for profile in ("client", "coding"):
        assert away.queue("GET", job, profile).status == 404
        assert away.queue("DELETE", job, profile).status == 404
    assert away.queue("GET", job).json["status"] == "queued"
    assert away.queue("GET", job[:-1] + "/x").status == 404
    assert away.queue("DELETE", job).json["status"] == "cancelled"


def test_the_other_chains_are_as_before(away: Lab) -> None:
    answer = away.ask("client", headers=ASYNC)
    assert (answer.status, answer.error["code"]) == (503, "engine_unavailable")
    personal = away.ask("personal")
    assert (personal.status, personal.backend) == (200, "kimi")
    assert waiting(away) == []


@pytest.mark.parametrize("how", ["admission", "gateway", "plane"])
def test_a_kill_loses_nothing(away: Lab, how: str) -> None:
    """SIGKILL of the service with its worker, of the gateway, and a restart of the plane under both."""
    key = {"Prefer": "respond-async", "Idempotency-Key": marker("key")}
    jobs = [away.ask("private", f"number {at}", headers=key if at == 0 else ASYNC) for at in range(5)]
    assert {answer.status for answer in jobs} == {202}
    if how == "plane":
        away.hub.run("systemctl", "restart", "mushishi-plane.service")
    else:
        away.hub.run("systemctl", "kill", "--signal=KILL", f"mushishi-sovereign-{how}.service")
    away.until(lambda: away.queue("GET", jobs[0].headers["location"]).status == 200, "admission answers", 90)
    again = away.ask("private", "number 0", headers=key)
    assert (again.status, again.headers["location"]) == (202, jobs[0].headers["location"])
    away.engine("agent", "start")
    away.cpu("start")
    for answer in jobs:
        away.until(
            lambda job=answer.headers["location"]: away.queue("GET", job).json["status"] == "completed",
            "it has its answer",
            120,
        )
    assert len(waiting(away)) == 0


@pytest.mark.nightly
def test_the_whole_machine_is_killed(away: Lab) -> None:
    """SIGKILL to everything on it, as when the power goes: the jobs are there, and are answered."""
    jobs = [away.ask("private", f"number {at}", headers=ASYNC).headers["location"] for at in range(20)]
    subprocess.run(["docker", "kill", away.hub.name], check=True, capture_output=True, timeout=60)
    subprocess.run(["docker", "start", away.hub.name], check=True, capture_output=True, timeout=180)
    booted = ("systemctl", "is-system-running", "--wait")
    away.until(
        lambda: away.hub.run(*booted, check=False).strip() in ("running", "degraded"), "the machine booted", 180
    )
    away.audit("begin")
    away.until(lambda: away.queue("GET", jobs[0]).status == 200, "admission answers", 120)
    away.cpu("start")
    for job in jobs:
        away.until(lambda job=job: away.queue("GET", job).json["status"] == "completed", "it has its answer", 120)


def test_it_is_closed_and_told_in_numbers(away: Lab) -> None:
    word = marker("told")
    job = away.ask("private", word, headers=ASYNC).headers["location"]
    name = job.rpartition("/")[2]
    for folder in (DATA, TOLD):
        assert away.hub.run("stat", "-c", "%a %U", folder).split() == ["700", "mushishi-sovereign-admission"]
        assert not away.hub.ok("runuser", "-u", "mushishi-hybrid-gateway", "--", "ls", folder)
    time.sleep(6)
    told = json.loads(away.hub.run("cat", f"{TOLD}/queue.json"))
    (line,) = told["lines"]
    assert (line["profile"], line["waiting"], line["engine"]) == ("private", 1, "away")
    assert "sovereignctl mode switch agent" in line["text"]
    assert 'mushishi_queue_depth{profile="private"} 1' in away.hub.run("cat", f"{TOLD}/queue.prom")
    journal = away.hub.run("journalctl", "--namespace=*", "--no-pager", "-o", "cat", "-u", UNIT)
    metrics, listed = away.hub.run("cat", f"{TOLD}/queue.prom"), json.dumps(queuectl(away, "list"))
    for text in (json.dumps(told), metrics, journal, listed):
        assert word not in text
    assert name not in journal
    assert away.hub.ok("grep", "-qr", word, DATA), "control: the queue's own file has it"
    writable = away.hub.run("systemctl", "show", "-P", "ReadWritePaths", UNIT).split()
    assert writable == []
    assert away.queue("DELETE", job).status == 200
