# SPDX-License-Identifier: MIT
"""GPU modes on the lab machine: load through switches, every fault, with the card of the NVML stand-in."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Lab, play, recap
from modes import (
    CARD,
    FORCE,
    JOURNAL,
    LIE_IN_WAIT,
    PROGRESS,
    PYTHON,
    Modes,
    around,
    ask,
    ask_apart,
    bystander,
    card,
    end,
    foreign,
    scripted,
    switch,
    walk,
)


@pytest.fixture(scope="module")
def modes(raw_lab: Lab) -> Iterator[Modes]:
    raw_lab.everything_up()
    found = Modes(raw_lab)
    yield found
    raw_lab.hub.run("rm", "-f", CARD)
    switch("agent", **FORCE)
    raw_lab.everything_up()


@pytest.fixture(autouse=True)
def from_agent(modes: Modes) -> None:
    """Each test begins in the agent mode, with nobody at work."""
    switch("agent", **FORCE)


# ---- the modes
def test_a_way_goes_from_each_to_each_other() -> None:
    for names in (["a", "b"], ["a", "b", "c", "d", "e", "f", "g", "h"]):
        way = around(names)
        pairs = list(itertools.pairwise(way))
        assert sorted(pairs) == sorted(itertools.permutations(names, 2)) and way[0] == way[-1]


def test_there_and_back(modes: Modes) -> None:
    with bystander(modes.lab):
        walk(modes, ["forensic", "agent"])


def test_the_playbooks_of_one_word(modes: Modes) -> None:
    """As a person says it: the run shows what it did, a repeat changes nothing, a dry run is the plan."""
    dry = play("mode-forensic", "--check")
    assert dry.returncode == 0 and recap(dry.stdout)["changed"] == 1, dry.stdout
    modes.serves("agent")
    for changed in (1, 0):
        done = play("mode-forensic")
        assert done.returncode == 0 and recap(done.stdout)["changed"] == changed, done.stdout
    modes.serves("forensic")
    done = play("mode", "--extra-vars", "mode=nonsense")
    assert done.returncode != 0 and "there is no such mode" in done.stdout + done.stderr
    modes.serves("forensic")


def test_what_is_known_of_the_card(modes: Modes) -> None:
    with card(modes.lab, "load=41", "power_mw=81500", "temperature=61", "reasons=0x4"):
        info = ask("gpu_info").result
    told = info["card"]
    assert (told["load_percent"], told["power_watts"], told["temperature_celsius"]) == (41, 81.5, 61)
    assert told["slowed_by"] == ["power cap"] and told["memory_mib"]["total"] == 32607
    (process,) = info["processes"]
    number = modes.lab.hub.run("docker", "inspect", "--format", "{{.Id}}", "mushishi-vllm-agent").strip()
    assert (process["tenant"], process["container"]) == ("vllm-agent", number[:12])
    assert modes.lab.hub.run("cat", f"/proc/{process['pid']}/comm").strip() == process["name"]
    assert not info["busy"] and info["foreign"] == []


# ---- load
#: Asks on the tailnet's client: two requests a second, each second one a stream, until a file is there; one line each.
LOAD = """
import http.client, json, os, sys, threading, time, urllib.error, urllib.request
given = json.load(sys.stdin)
out, lock, began = [], threading.Lock(), time.monotonic()
def one(number, profile, url, key, stream):
    body = {"model": profile, "messages": [{"role": "user", "content": f"Say {number}."}], "max_tokens": 8}
    if stream:
        body["stream"] = True
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(url + "/chat/completions", json.dumps(body).encode(), headers)
    start = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            text = answer.read().decode()
            found = [answer.status, {k.lower(): v for k, v in answer.headers.items()}, text]
    except urllib.error.HTTPError as error:
        found = [error.code, {}, error.read().decode()]
    except (OSError, http.client.HTTPException) as error:
        found = [0, {}, repr(error)]
    with lock:
        out.append([profile, stream, start - began, time.monotonic() - start, *found])
threads = []
number = 0
while not os.path.exists(given["stop"]):
    for profile, url, key in given["profiles"]:
        thread = threading.Thread(target=one, args=(number, profile, url, key, number % 2 == 1))
        thread.start()
        threads.append(thread)
    number += 1
    time.sleep(max(0.0, began + number / given["rate"] - time.monotonic()))
for thread in threads:
    thread.join()
print(json.dumps(out))
"""


def whole(entry: list[Any]) -> bool:
    """Whether an answer came to its end: a completion, or a stream with a last word and no error in it."""
    _profile, stream, _at, _took, status, _headers, text = entry
    if status != 200:
        return False
    return "data: [DONE]" in text and '"error"' not in text if stream else '"choices"' in text


def who(entry: list[Any]) -> str:
    """The backend that answered."""
    headers = entry[5]
    return str(headers.get("x-sovereign-backend") or headers.get("x-litellm-model-id", "").partition("/")[2])


def under_load(modes: Modes, way: list[str], name: str) -> None:
    lab, stop = modes.lab, f"/tmp/{name}-{time.time_ns()}"
    asked = ["personal", "private", "client"]
    profiles = [(each, lab.url(lab.plane(each)), lab.key(each)) for each in asked]
    given = json.dumps({"stop": stop, "rate": 2.0, "profiles": profiles})
    times: list[tuple[float, str]] = []
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(lab.client.run, "python3", "-c", LOAD, stdin=given, timeout=1800)
        try:
            began = time.monotonic()
            time.sleep(3)
            for target in way:
                switch(target, on_busy="wait", drain_timeout=60)
                times.append((time.monotonic() - began, target))
            time.sleep(3)
        finally:
            lab.client.run("touch", stop)
        entries = json.loads(load.result())
    lab.client.run("rm", "-f", stop)
    shared = [entry for entry in entries if entry[0] != "client"]
    assert len(shared) > 12, "control: somebody asked"
    lost = [entry for entry in shared if not whole(entry)]
    assert not lost, f"{len(lost)} of {len(shared)} were lost: {lost[:3]}"
    wrong = {who(entry) for entry in shared} - {"gpu", "cpu"}
    assert not wrong, wrong
    assert {who(entry) for entry in shared} == {"gpu", "cpu"}, "control: both links answered"
    clients = [entry for entry in entries if entry[0] == "client"]
    # The client's one engine answers, or nobody does, and nobody at once.
    assert {who(entry) for entry in clients if entry[4] == 200} <= {"gpu-forensic"}
    refused = [entry for entry in clients if entry[4] != 200]
    assert refused and any(entry[4] == 200 for entry in clients), "control: the mode was forensic for a while"
    slow = [entry for entry in refused if entry[3] > 5]
    assert not slow, slow[:3]
    sys.stderr.write(f"{len(entries)} requests, {len(times)} switches, slowest {max(e[3] for e in shared):.1f} s\n")


def test_nobody_is_lost_through_two_switches(modes: Modes) -> None:
    under_load(modes, ["forensic", "agent"], "two")


@pytest.mark.nightly
def test_nobody_is_lost_through_twenty_switches(modes: Modes) -> None:
    under_load(modes, ["forensic", "coding", "off", "forensic", "agent"] * 4, "twenty")


@pytest.mark.parametrize(
    ("mode", "profile", "most"),
    [("forensic", "client", 4), pytest.param("coding", "coding", 2, marks=pytest.mark.nightly)],
)
def test_an_engine_gets_as_many_as_it_works_at(modes: Modes, mode: str, profile: str, most: int) -> None:
    """One more is an error at once (client), or takes the next link (coding); a place that is free again is given."""
    lab = modes.lab
    switch(mode)
    container = lab.engine_container(mode)
    lab.hub.run("docker", "exec", container, "python3", "-m", "standins.engine", "ctl", "speed", "8000")
    began = time.monotonic()
    with ThreadPoolExecutor(most) as pool:
        long_ones = [pool.submit(lab.ask, profile, f"Take {number}.", timeout=60) for number in range(most)]
        lab.until(lambda: _running(lab, container) >= most, f"{most} are at work", 20)
        more = lab.ask(profile, "One more.", timeout=30)
        assert more.seconds < 5
        if profile == "client":
            assert more.status >= 500, more
        else:
            assert (more.status, more.backend) == (200, "cpu-coder"), more
        assert _running(lab, container) >= most, "control: all of them were at work still"
        answers = [each.result() for each in long_ones]
    assert time.monotonic() - began >= 8, "control: they were long"
    assert {(answer.status, answer.backend) for answer in answers} == {(200, f"gpu-{_backend(mode)}")}
    lab.hub.run("docker", "exec", container, "python3", "-m", "standins.engine", "ctl", "speed", "20", "2")
    assert lab.ask(profile).backend == f"gpu-{_backend(mode)}"


def _backend(mode: str) -> str:
    return {"coding": "coder"}.get(mode, mode)


def _running(lab: Lab, container: str) -> int:
    """Requests at work, as the engine itself counts them."""
    code = (
        "import re,urllib.request as r; t=r.urlopen('http://127.0.0.1:8000/metrics').read().decode();"
        "print(int(float(re.search(r'^vllm:num_requests_running\\S* (\\S+)', t, re.M)[1])))"
    )
    return int(lab.hub.run("docker", "exec", container, "python3", "-c", code))


def test_who_works_is_not_disturbed(modes: Modes) -> None:
    lab = modes.lab
    container = lab.engine_container("agent")
    lab.hub.run("docker", "exec", container, "python3", "-m", "standins.engine", "ctl", "speed", "15000")
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(lab.ask, "private", "Take your time.", timeout=60, headers={"Prefer": "wait=50"})
        lab.until(lambda: _running(lab, container) >= 1, "it is at work", 20)
        (reason,) = ask("gpu_info").result["busy_reasons"]
        assert reason.startswith("vllm-agent: ") and reason.endswith(" requests running")
        done = ask("gpu_mode", mode="forensic")
        assert done.failed and done.outcome == "unchanged" and "it is at work" in done.message
        modes.serves("agent")
        # With patience: the door is shut, the work ends, and then it goes.
        done = switch("forensic", on_busy="wait", drain_timeout=60)
        assert work.result().status == 200 and work.result().backend == "gpu", work.result()
        assert done.result["seconds"]["drain"] > 1
    modes.serves("forensic")


# ---- faults: the stated outcome, the last good mode serving again, the journal explains it
def last(modes: Modes) -> dict[str, Any]:
    lines = modes.lab.hub.run("cat", f"{JOURNAL}/history.jsonl").splitlines()
    return dict(json.loads(lines[-1]))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        pytest.param({"loading": 9999}, "it did not answer within", marks=pytest.mark.nightly),
        pytest.param({"fault": "hang"}, "it did not answer within", marks=pytest.mark.nightly),
        ({"dies_after": 3.0, "fault": "hang"}, "it ended"),
        pytest.param({"dies_after": 1.0, "loading": 60}, "it ended", marks=pytest.mark.nightly),
    ],
    ids=["never ready", "ready and hangs", "dies", "dies while it loads"],
)
def test_an_engine_that_does_not_come(modes: Modes, script: dict[str, Any], words: str) -> None:
    with scripted(modes.tenants("forensic"), **script):
        done = ask("gpu_mode", mode="forensic")
    assert done.failed and done.outcome == "rolled back", done.result
    assert words in done.message and "The mode agent serves again." in done.message
    if "dies_after" in script:
        assert "EngineCore died" in done.message, "the last words of its log"
    modes.serves("agent")
    assert last(modes)["outcome"].startswith("rolled back: tenant vllm-forensic")


@pytest.mark.nightly
def test_an_engine_that_dies_after_the_commit(modes: Modes) -> None:
    switch("forensic")
    container = modes.lab.engine_container("forensic")
    modes.lab.hub.run("docker", "stop", container)
    assert ask("gpu_info").result["tenants"]["vllm-forensic"]["stale"]
    assert switch("forensic").outcome == "done"
    modes.serves("forensic")


@pytest.mark.nightly
def test_memory_that_is_not_freed(modes: Modes) -> None:
    """Nobody holds it and it is not free: no engine is started into it, and the smaller mode serves again."""
    need = {name: sum(each["vram_mib"] for each in modes.tenants(name).values()) for name in ("agent", "forensic")}
    stuck = (32607 - need["forensic"] + 32607 - need["agent"]) // 2
    with card(modes.lab, f"used_mib={stuck}"):
        done = ask("gpu_mode", mode="forensic")
        assert done.failed and done.outcome == "rolled back", done.result
        assert "MiB are free after 60 s" in done.message
        modes.serves("agent", beside=stuck)
    assert "the card's memory" in last(modes)["outcome"]


def test_a_program_of_somebody_else(modes: Modes) -> None:
    with foreign(modes.lab, 5000) as pid:
        for mode in ("forensic", "coding"):
            done = ask("gpu_mode", mode=mode)
            assert done.failed and done.outcome == "refused", done.result
            assert f"(pid {pid}, user nobody, 5000 MiB)" in done.message and "Nothing was stopped." in done.message
        modes.serves("agent", beside=5000)
    with foreign(modes.lab, 300) as pid:
        done = switch("forensic")
        assert any(f"pid {pid}" in warning for warning in done.result["notes"]), "who does not disturb is named"
        modes.serves("forensic", beside=300)


def test_a_card_that_is_lost(modes: Modes) -> None:
    with card(modes.lab, "fail=15"):
        done = ask("gpu_mode", mode="forensic")
        assert done.failed and done.outcome == "refused" and "GPU is lost" in done.message
        assert modes.lab.ask("private").backend == "gpu", "nobody was stopped"
    modes.serves("agent")


@pytest.mark.nightly
def test_a_card_that_is_lost_in_the_middle(modes: Modes) -> None:
    """Nothing can prove that the memory is free, so nothing is started; the next run brings the mode."""
    done = in_phase(modes, "stop", f"echo fail=15 > {CARD}", "forensic")
    try:
        assert done is not None and done.failed and done.outcome == "broken", done
        assert "GPU is lost" in done.message
        assert modes.lab.ask("private").backend == "cpu", "the next link answers meanwhile"
    finally:
        modes.lab.hub.run("rm", "-f", CARD)
    assert switch("agent").outcome == "done"
    modes.serves("agent")


@pytest.mark.nightly
def test_a_full_disk(modes: Modes) -> None:
    """Before the stop it means no switch."""
    hub = modes.lab.hub
    full = (
        f"cp -a {JOURNAL} /run/journal-copy; mount -t tmpfs -o size=4m tmpfs {JOURNAL};"
        f"cp -a /run/journal-copy/. {JOURNAL}/; dd if=/dev/zero of={JOURNAL}/full bs=4k 2>/dev/null || true"
    )
    hub.run("sh", "-ec", full)
    try:
        done = ask("gpu_mode", mode="forensic")
        assert done.failed and "cannot be written (No space left on device)" in done.message, done.result
        assert done.outcome in ("refused", "unchanged")
        assert modes.lab.ask("private").backend == "gpu"
    finally:
        hub.run("sh", "-ec", f"umount {JOURNAL}; rm -rf /run/journal-copy")
    modes.serves("agent")


def in_phase(modes: Modes, phase: str, what: str, target: str) -> Any:
    """A switch in whose phase something happens; what the module said, None when it was killed."""
    modes.lab.hub.run("rm", "-f", PROGRESS)
    wait = subprocess.Popen(
        ["docker", "exec", "-i", modes.lab.hub.name, PYTHON, "-c", LIE_IN_WAIT, phase, what, PROGRESS],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(1)
    started = ask_apart("gpu_mode", mode=target)
    done = end(started)
    out, error = wait.communicate(timeout=150)
    assert wait.returncode == 0, error
    sys.stderr.write(f"struck in {json.loads(out)}\n")
    return done


PHASES = ("busy", "close", "drain", "stop", "freed", "start", "answers", "open", "commit")


@pytest.mark.parametrize(
    ("phase", "target"),
    [
        (phase, target)
        if (phase, target) == ("stop", "agent")
        else pytest.param(phase, target, marks=pytest.mark.nightly)
        for phase in PHASES
        for target in ("forensic", "agent")
    ],
)
def test_a_switch_that_is_killed(modes: Modes, phase: str, target: str) -> None:
    """The next run goes on from what really runs, forward or back."""
    done = in_phase(modes, phase, "kill", "forensic")
    # Some phases take a millisecond: it may have come to its end before the blow.
    assert done is None or (phase in ("busy", "close", "open", "commit") and not done.failed), done
    assert ask("gpu_info").result["progress"] is None, "a killed holder leaves no lock"
    done = switch(target)
    assert done.outcome in ("done", "nothing to do")
    modes.serves(target)


@pytest.mark.parametrize("phase", ["drain", "stop", "freed", "start"])
@pytest.mark.nightly
def test_docker_is_restarted_in_the_middle(modes: Modes, phase: str) -> None:
    done = in_phase(modes, phase, "systemctl restart docker.service", "forensic")
    assert done is not None
    where = "forensic" if done.outcome == "done" else "agent"
    assert done.outcome in ("done", "rolled back", "unchanged"), done.result
    assert switch(where).outcome in ("done", "nothing to do")
    modes.serves(where)


def test_two_at_once(modes: Modes) -> None:
    """The second fails at once and says whose the first is, or waits."""
    with scripted(modes.tenants("forensic"), loading=6):
        first = ask_apart("gpu_mode", mode="forensic")
        modes.lab.until(lambda: ask("gpu_info").result["progress"] is not None, "the first is under way", 60)
        done = ask("gpu_mode", mode="coding")
        assert done.failed and done.outcome == "refused"
        assert "another switch is under way: to forensic, asked by a playbook" in done.message
        second = switch("coding", lock_wait=120)
        ended = end(first)
    assert ended is not None and ended.outcome == "done" and second.result["origin"] == "forensic"
    modes.serves("coding")


def test_what_does_not_fit_is_refused_before_anything(modes: Modes) -> None:
    done = play("site", "--check", "--tags", "gpu_modes", "--extra-vars", "gpu_modes_reserve_mib=2000")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0
    assert "vllm-forensic 30976 + reserve 2000 = 32976 MiB, and the card has 32607 MiB" in said, said[-3000:]
    modes.serves("agent")
