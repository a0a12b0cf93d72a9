# SPDX-License-Identifier: MIT
"""Engines that sleep instead of going, on real containers: tried first, believed only as far as the driver sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Lab, recap, site
from modes import FORCE, Modes, ask, switch

pytestmark = pytest.mark.nightly
TAGS = ("--tags", "vllm,gpu_modes")
LOOK = ("docker", "inspect", "--format", "{{.Id}} {{.State.StartedAt}} {{.HostConfig.RestartPolicy.Name}}")
AGENT = "mushishi-vllm-agent"


@pytest.fixture(scope="module")
def drowsy(raw_lab: Lab) -> Iterator[Modes]:
    """A machine whose engines may sleep; afterwards as it was, with engines that have no such routes."""
    raw_lab.everything_up()
    switch("agent", **FORCE)
    before = Modes(raw_lab).registry
    # Level 2: the lab has no memory for weights of the size that the stand-in card is told.
    settings = ("--extra-vars", json.dumps({"vllm_sleep_level": 2}))
    site(*TAGS, *settings)
    assert recap(site(*TAGS, *settings))["changed"] == 0
    yield Modes(raw_lab)
    switch("off", **FORCE)
    site(*TAGS)
    raw_lab.hub.run("rm", "-f", "/var/lib/mushishi-gpu/sleep.json")
    assert Modes(raw_lab).registry == before, "as before"
    raw_lab.everything_up()


@pytest.fixture(autouse=True)
def from_agent(drowsy: Modes) -> None:
    switch("off", **FORCE)
    switch("agent", **FORCE)


def looked() -> dict[str, Any]:
    return ask("gpu_info").result


def test_it_sleeps_and_wakes_as_the_same_container(drowsy: Modes) -> None:
    lab = drowsy.lab
    before = lab.hub.run(*LOOK, AGENT).split()
    proof = json.loads(lab.hub.run("cat", "/var/lib/mushishi-gpu/sleep.json"))["proofs"]["vllm-agent"]
    assert proof["doubt"] == "" and 0 < proof["asleep_mib"] < proof["awake_mib"] // 2
    done = switch("coding")
    assert any(note.startswith("vllm-agent sleeps (") for note in done.result["notes"]), done.result["notes"]
    info = looked()
    assert (info["mode"], info["running"], info["foreign"], info["problems"]) == ("coding", ["vllm-coding"], [], [])
    asleep = info["tenants"]["vllm-agent"]
    assert asleep["asleep"] and asleep["held_mib"] == proof["asleep_mib"]
    held = info["tenants"]["vllm-coding"]["held_mib"]
    assert info["card"]["memory_mib"]["used"] == held + proof["asleep_mib"], "to the MiB"
    # Its door is shut: the next link answers, and nobody waits for a sleeper.
    answer = lab.ask("private")
    assert (answer.status, answer.backend) == (200, "cpu") and answer.seconds < 10
    # After a boot Docker would start it awake beside the engine that serves.
    assert lab.hub.run(*LOOK, AGENT).split()[2] == "no"
    again = switch("coding")
    assert not again.result["changed"]
    done = switch("agent")
    assert any(note.startswith("vllm-agent woke (") for note in done.result["notes"]), done.result["notes"]
    assert lab.hub.run(*LOOK, AGENT).split() == before, "the same container, never taken down"
    assert lab.ask("private").backend == "gpu" and looked()["tenants"]["vllm-coding"]["asleep"]


def test_one_that_only_says_that_it_sleeps_is_stopped(drowsy: Modes) -> None:
    lab = drowsy.lab
    lab.hub.run("docker", "exec", AGENT, "python3", "-m", "standins.engine", "ctl", "lies", "1")
    done = switch("coding")
    doubt = "vllm-agent is stopped and started instead of sleeping, from now on: it says that it sleeps and holds "
    assert any(note.startswith(doubt) for note in done.result["notes"]), done.result["notes"]
    assert looked()["running"] == ["vllm-coding"] and not lab.hub.ok("docker", "inspect", AGENT)
    # It is not believed again, although a new one would be honest.
    switch("agent")
    done = switch("coding")
    assert not any("vllm-agent sleeps" in note for note in done.result["notes"])
    assert not lab.hub.ok("docker", "inspect", AGENT)
    lab.hub.run("rm", "/var/lib/mushishi-gpu/sleep.json")


def test_one_beside_whom_the_mode_does_not_fit_is_stopped(drowsy: Modes) -> None:
    done = switch("forensic")
    assert any("vllm-agent is stopped instead of sleeping: forensic " in note for note in done.result["notes"])
    assert looked()["running"] == ["vllm-forensic"] and not drowsy.lab.hub.ok("docker", "inspect", AGENT)


def test_nobody_reaches_the_routes_from_the_tailnet(drowsy: Modes) -> None:
    lab = drowsy.lab
    plain = {"vllm": lab.hub.run("docker", "exec", AGENT, "python3", "-c", ASK).strip()}
    assert plain == {"vllm": "200"}, "control: the engine has them"
    for plane, profile in (("sovereign", "private"), ("hybrid", "personal")):
        base = lab.url(plane).removesuffix("/v1")
        for path in ("/sleep", "/v1/sleep", "/is_sleeping", "/collective_rpc", "/v1/collective_rpc"):
            words = ["-X", "POST", "-H", f"Authorization: Bearer {lab.key(profile)}", f"{base}{path}"]
            status = lab.client.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *words).strip()
            assert status in ("401", "403", "404", "405"), f"{base}{path}: {status}"
    assert lab.ask("private").backend == "gpu", "nobody sleeps"


ASK = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/is_sleeping').status)"
