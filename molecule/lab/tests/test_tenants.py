# SPDX-License-Identifier: MIT
"""Every tenant of the card on the lab machine, each a stand-in: all modes in all orders, who stays, who works."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from conftest import Lab, play, recap, site
from modes import ARCHIVE, FORCE, HOLDERS, Modes, around, ask, bystander, inside, switch, tenants_settings, walk


@pytest.fixture(scope="module")
def all_modes(raw_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Modes]:
    """With every tenant that the collection knows, by its role and from an archive; taken away again by the role."""
    lab = raw_lab
    lab.everything_up()
    switch("agent", **FORCE)
    before = Modes(lab).registry
    settings = tmp_path_factory.mktemp("tenants") / "settings.json"
    settings.write_text(json.dumps(tenants_settings(lab)))
    words = ("--tags", "gpu_tenants,gpu_modes,sovereignctl")
    site(*words, "--extra-vars", f"@{settings}")
    again = site(*words, "--extra-vars", f"@{settings}")
    assert recap(again)["changed"] == 0, again
    yield Modes(lab)
    # Who is still there cannot be taken away: the mode agent has speech and the audio worker beside it.
    switch("agent", **FORCE)
    refused = play("site", *words)
    said = " ".join((refused.stdout + refused.stderr).split())
    words_said = "gpu_tenants_enabled does not name audio-worker, tts any more"
    assert refused.returncode != 0 and words_said in said, said[-3000:]
    switch("forensic", **FORCE)
    site(*words)
    lab.hub.run("rm", "-f", ARCHIVE)
    assert Modes(lab).registry == before, "as before"
    left = lab.hub.run("docker", "ps", "--all", "--format", "{{.Names}}").split()
    assert not [name for name in left if name.removeprefix("mushishi-").startswith(tuple(HOLDERS))], left
    lab.everything_up()


@pytest.fixture(autouse=True)
def from_agent(all_modes: Modes) -> None:
    """Each test begins in the agent mode, with nobody at work."""
    switch("agent", **FORCE)


@pytest.mark.nightly
def test_every_pair(all_modes: Modes) -> None:
    names = ["agent", *(name for name in all_modes.names() if name != "agent")]
    wanted = {"agent", "forensic", "coding", "creative", "audio-light", "audio-full", "lipsync-hallo2", "music", "off"}
    assert set(names) == wanted
    with bystander(all_modes.lab):
        walk(all_modes, around(names)[1:])


@pytest.mark.nightly
def test_who_is_in_both_modes_stays(all_modes: Modes) -> None:
    look = ("docker", "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", "mushishi-tts-tts")
    before = all_modes.lab.hub.run(*look)
    switch("audio-full")
    assert all_modes.lab.hub.run(*look) == before
    switch("creative")
    assert not all_modes.lab.hub.ok(*look), "control: it goes where it has no place"


RUN_A_PROMPT = """
import urllib.request
urllib.request.urlopen("http://127.0.0.1:8188/prompt", b'{"seconds": 15}')
"""
QUEUE_A_JOB = """
import socket
one = socket.create_connection(("127.0.0.1", 6379))
one.sendall(b"RPUSH rq:queue:stt job\\r\\n")
one.recv(9)
"""


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("mode", "container", "code", "said"),
    [
        ("creative", "mushishi-comfyui-comfyui", RUN_A_PROMPT, "comfyui: 1 prompts running"),
        ("audio-light", "mushishi-audio-worker-redis", QUEUE_A_JOB, "audio-worker: 1 jobs waiting in stt"),
    ],
    ids=["prompts of ComfyUI", "jobs of RQ"],
)
def test_a_tenant_at_work_is_not_disturbed(all_modes: Modes, mode: str, container: str, code: str, said: str) -> None:
    switch(mode)
    inside(all_modes.lab, container, code)
    done = ask("gpu_mode", mode="forensic")
    assert done.failed and done.outcome == "unchanged" and said in done.message, done.result
    all_modes.serves(mode)
    assert switch("forensic", **FORCE).outcome == "done"
    all_modes.serves("forensic")
