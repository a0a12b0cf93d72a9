# SPDX-License-Identifier: MIT
"""The role, run by Ansible itself: what vllm brings becomes a registry; a switch in the background is watched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Registry

CHECKOUT = Path(__file__).resolve().parents[4]
#: A stand-in for the module gpu_mode: what a switch would say, after a second.
MODULE = """
import time
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(
    argument_spec={"mode": {}, "on_busy": {}, "drain_timeout": {"type": "int"}, "rollback": {"type": "bool"},
                   "lock_wait": {"type": "int"}},
    supports_check_mode=True,
)
if module.check_mode:
    module.exit_json(changed=module.params["mode"] != "same", outcome="planned")
time.sleep(1)
if module.params["mode"] == "bad":
    module.fail_json(msg="tenant b: it ended", outcome="rolled back", changed=True, seconds={"stop": 1.5})
module.exit_json(changed=module.params["mode"] != "same", outcome="done", given=module.params)
"""
IMAGE = "vllm/vllm-openai@sha256:" + "a" * 64


def collection(folder: Path) -> Path:
    """The checkout as a collection in which gpu_mode is a stand-in."""
    here = folder / "ansible_collections/mushishi/sovereign"
    (here / "plugins/modules").mkdir(parents=True)
    for path in CHECKOUT.iterdir():
        if path.name not in ("plugins", ".git"):
            (here / path.name).symlink_to(path)
    for path in (CHECKOUT / "plugins").iterdir():
        if path.name != "modules":
            (here / "plugins" / path.name).symlink_to(path)
    for path in (CHECKOUT / "plugins/modules").iterdir():
        if path.name != "gpu_mode.py":
            (here / "plugins/modules" / path.name).symlink_to(path)
    (here / "plugins/modules/gpu_mode.py").write_text("#!/usr/bin/python\n" + MODULE)
    return folder


class Play:
    """Runs tasks on this machine; ``told`` is what the last task's ``out`` was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.collections = collection(folder / "collections")
        self.said = ""
        # No Docker of this machine is asked: ps lists what stands in a file, and there is no image.
        (folder / "bin").mkdir()
        (folder / "containers").touch()
        docker = folder / "bin/docker"
        docker.write_text(f'#!/bin/sh\ntest "$1" = ps && exec cat "{folder}/containers"\nexit 1\n')
        docker.chmod(0o755)

    def __call__(self, tasks: list[dict[str, Any]], *options: str, **values: Any) -> dict[str, Any] | None:
        out = self.folder / "out.json"
        out.unlink(missing_ok=True)
        show = {
            "ansible.builtin.copy": {"dest": str(out), "content": "{{ out | to_json }}", "mode": "0644"},
            "check_mode": False,
            "vars": {
                "out": "{{ {'document': __gpu_modes_document | default({}), 'mode': __gpu_modes_mode | default(''), "
                "'switched': __gpu_modes_switched | default({})} }}"
            },
        }
        policy = yaml.safe_load((CHECKOUT / "inventory/example/group_vars/all/policy.yml").read_text())
        play = [{"hosts": "here", "gather_facts": False, "vars": {**policy, **values}, "tasks": [*tasks, show]}]
        (self.folder / "play.json").write_text(json.dumps(play))
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        (self.folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {"here": local}}}))
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_HOME": str(self.folder / "home"),
            "ANSIBLE_ASYNC_DIR": str(self.folder / "jobs"),
            "ANSIBLE_NOCOLOR": "1",
        }
        # Nothing is brought here, whatever room there is.
        roomy = json.dumps({"__vllm_disk": [], "__gpu_tenants_disk": []})
        argv = ["ansible-playbook", "-i", str(self.folder / "hosts.json"), "--extra-vars", roomy, *options]
        argv.append(str(self.folder / "play.json"))
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        self.said = done.stdout + done.stderr
        assert (done.returncode == 0) is out.exists(), self.said
        found: dict[str, Any] | None = json.loads(out.read_text()) if out.exists() else None
        return found


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    return Play(tmp_path_factory.mktemp("play"))


PREFLIGHTS = [
    {"ansible.builtin.import_role": {"name": f"mushishi.sovereign.{role}", "tasks_from": "preflight"}}
    for role in ("vllm", "gpu_modes")
]


def test_what_vllm_brings_becomes_a_registry(play: Play) -> None:
    found = play(PREFLIGHTS, vllm_mode="off", vllm_image=IMAGE, gpu_modes_card_mib=32607)
    assert found is not None, play.said
    registry = Registry.from_document(found["document"])
    assert set(registry.modes) == {"agent", "forensic", "coding", "off"} and found["mode"] == "off"
    agent = registry.tenants["vllm-agent"]
    assert (agent.project, agent.containers) == ("/etc/mushishi/vllm/agent/compose.yml", ("mushishi-vllm-agent",))
    assert agent.ready == {"kind": "completion", "url": "http://10.88.0.10:8000", "model": "nemotron"}
    assert agent.busy == ({"kind": "vllm", "url": "http://10.88.0.10:8000/metrics"},)
    assert {name: each.engine for name, each in registry.tenants.items()} == {
        "vllm-agent": "agent",
        "vllm-forensic": "forensic",
        "vllm-coding": "coding",
    }
    assert registry.modes["coding"].cpu_floors == ("cpu-coder",)
    assert {each.sleep_level for each in registry.tenants.values()} == {0}
    assert [each.vram_mib for each in registry.tenants.values()] == [26085, 30976, 29346], "the share that must be free"


TENANTS = ["comfyui", "tts", "audio-worker", "musetalk", "latentsync", "hallo2", "music"]


@pytest.mark.nightly
def test_the_other_tenants_come_in_beside_it(play: Play) -> None:
    """All of the collection's modes fit a card of 32 GB together with what stands beside them, by the sum."""
    images = {
        name: {"image": f"registry.example.org/{name}@sha256:" + "b" * 64} for name in (*TENANTS, "audio", "redis")
    }
    include = {"ansible.builtin.import_role": {"name": "mushishi.sovereign.gpu_tenants", "tasks_from": "preflight"}}
    given = {
        "vllm_mode": "off",
        "vllm_image": IMAGE,
        "gpu_modes_card_mib": 32607,
        "gpu_tenants_enabled": TENANTS,
        "gpu_tenants_images": {k: v for k, v in images.items() if k != "audio-worker"},
        "gpu_tenants_gpu_devices": [],
    }
    found = play([PREFLIGHTS[0], include, PREFLIGHTS[1]], **given)
    assert found is not None, play.said
    registry = Registry.from_document(found["document"])
    wanted = {"agent", "forensic", "coding", "creative", "audio-light", "audio-full", "lipsync-hallo2", "music", "off"}
    assert set(registry.modes) == wanted
    assert [each.name for each in registry.modes["agent"].tenants] == ["vllm-agent", "tts", "audio-worker"]
    assert [each.name for each in registry.modes["forensic"].tenants] == ["vllm-forensic"], "it serves client alone"
    # Without vLLM's image there is no mode that needs it.
    found = play([PREFLIGHTS[0], include, PREFLIGHTS[1]], **{**given, "vllm_image": ""})
    assert found is not None, play.said
    assert set(found["document"]["modes"]) == wanted - {"agent", "forensic", "coding", "off"}


def test_without_an_image_there_is_no_mode(play: Play) -> None:
    found = play(PREFLIGHTS, vllm_mode="off")
    assert found is not None and found["document"]["tenants"] == {} and found["mode"] == "off", play.said
    assert play(PREFLIGHTS, vllm_mode="off", gpu_modes_active="agent") is None
    assert "gpu_modes_active is agent. The modes are off, and keep." in " ".join(play.said.split())


@pytest.mark.nightly
def test_the_inventory_s_own_word_counts_last(play: Play, tmp_path: Path) -> None:
    project = tmp_path / "compose.yml"
    service = {
        "container_name": "tts",
        "image": "x",
        "networks": {"sovereign": {}},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }
    network = {"sovereign": {"external": True}}
    project.write_text(json.dumps({"name": "mushishi-tts", "services": {"tts": service}, "networks": network}))
    tts = {
        "project": str(project),
        "containers": ["tts"],
        "vram_mib": 4000,
        "ready": {"kind": "answer", "url": "http://10.88.0.30:9002/", "key": "ok"},
    }
    given: dict[str, Any] = {
        "vllm_mode": "off",
        "vllm_image": IMAGE,
        "vllm_sleep_level": 1,
        "vllm_mode_overrides": {"agent": {"vram_mib": 25000, "drain_seconds": 7}},
        "gpu_modes_card_mib": 32607,
        "gpu_tenants": {"tts": tts},
        "gpu_modes": {"agent": {"tenants": ["vllm-agent", "tts"]}, "forensic": None},
        "gpu_modes_active": "agent",
    }
    found = play(PREFLIGHTS, **given)
    assert found is not None, play.said
    registry = Registry.from_document(found["document"])
    assert [each.name for each in registry.modes["agent"].tenants] == ["vllm-agent", "tts"]
    assert set(registry.modes) == {"agent", "coding", "off"} and found["mode"] == "agent"
    agent = registry.tenants["vllm-agent"]
    assert (agent.vram_mib, agent.drain_seconds, agent.sleep_level) == (25000, 7, 1)
    assert registry.tenants["tts"].sleep_level == 0
    # Too much for the card: refused with the sum, before anything was touched.
    assert play(PREFLIGHTS, **{**given, "vllm_mode_overrides": {"agent": {"vram_mib": 29000}}}) is None
    assert "vllm-agent 29000 + tts 4000 + reserve 1024 = 34024 MiB, and the card has 32607 MiB" in play.said
    # A way around the plane.
    hole = {"tts": {**service, "privileged": True}}
    project.write_text(json.dumps({"name": "mushishi-tts", "services": hole, "networks": network}))
    assert play(PREFLIGHTS, **given) is None
    assert "tenant tts: service tts is privileged" in play.said


@pytest.mark.nightly
def test_what_was_switched_to_last_can_be_kept(play: Play, tmp_path: Path) -> None:
    good = tmp_path / "good.json"
    settings = {"vllm_image": IMAGE, "vllm_mode": "off", "gpu_modes_active": "keep", "__gpu_modes_good": str(good)}
    extra = [word for key, value in settings.items() for word in ("--extra-vars", f"{key}={value}")]
    for text, mode in (('{"mode": "coding", "since": 1.0}', "coding"), ('{"mode": "gone"}', "off"), (None, "off")):
        if text is None:
            good.unlink()
        else:
            good.write_text(text)
        found = play(PREFLIGHTS, *extra)
        assert found is not None and found["mode"] == mode, play.said


def test_who_is_still_there_stays_in_the_registry(play: Play, tmp_path: Path) -> None:
    """Its tenant would be nobody's: not stopped by off, and in the way of every other mode."""
    old = tmp_path / "registry.json"
    extra = ["--extra-vars", f"__gpu_modes_registry={old}"]
    tenants = {
        "vllm-agent": {"containers": ["mushishi-vllm-agent"]},
        "mine": {"containers": ["mine-a", "mine-b"]},
    }
    old.write_text(json.dumps({"version": 1, "tenants": tenants, "modes": {}}))
    there = play.folder / "containers"
    try:
        there.write_text("somebody-else\nmine-b\nmushishi-vllm-agent\n")
        assert play(PREFLIGHTS, *extra, vllm_mode="off", vllm_image="") is None
        said = " ".join(play.said.split())
        assert "tenant vllm-agent, tenant mine: no tenant any more by this inventory, and still there" in said
        assert play(PREFLIGHTS, *extra, vllm_mode="off", vllm_image=IMAGE) is None
        assert "tenant mine: no tenant any more" in play.said and "tenant vllm-agent" not in play.said
        # Who does not run may go.
        there.write_text("somebody-else\nmushishi-vllm-agent\n")
        found = play(PREFLIGHTS, *extra, vllm_mode="off", vllm_image=IMAGE)
        assert found is not None and "mine" not in found["document"]["tenants"], play.said
    finally:
        there.write_text("")


def test_a_tenant_that_is_still_there_keeps_its_project(play: Play, tmp_path: Path) -> None:
    """Role gpu_tenants took it away while it was at work, beside every question that the switch asks."""
    include = {"ansible.builtin.import_role": {"name": "mushishi.sovereign.gpu_tenants", "tasks_from": "preflight"}}
    extra = ["--extra-vars", f"__gpu_tenants_projects={tmp_path}"]
    for name in ("music", "tts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "compose.yml").touch()
    there = play.folder / "containers"
    try:
        there.write_text("mushishi-music\n\nmushishi-vllm-agent\n")
        assert play([include], *extra) is None
        assert "gpu_tenants_enabled does not name music any more" in " ".join(play.said.split())
        there.write_text("mushishi-vllm-agent\n")
        assert play([include], *extra) is not None, play.said
    finally:
        there.write_text("")


def test_what_is_kept_is_no_mode_to_switch_to(play: Play) -> None:
    """Once, keep meant off."""
    hosts = play.folder / "keep.json"
    hosts.write_text(json.dumps({"all": {"hosts": {"localhost": {}}}, "sovereign": {"hosts": {"machine": {}}}}))
    # The first play alone, which touches no machine.
    argv = ["ansible-playbook", "-i", str(hosts), "--limit", "localhost", str(CHECKOUT / "playbooks/mode.yml")]
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(play.collections),
        "ANSIBLE_HOME": str(play.folder / "home"),
        "ANSIBLE_NOCOLOR": "1",
    }
    for mode, fine in (("agent", True), ("keep", False)):
        asked = [*argv, "--extra-vars", f"mode={mode}"]
        done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is fine, done.stdout + done.stderr
    assert "got mode=keep" in " ".join(done.stdout.split()), done.stdout


SWITCH = [{"ansible.builtin.import_role": {"name": "mushishi.sovereign.gpu_modes", "tasks_from": "switch"}}]


@pytest.fixture
def there(tmp_path: Path) -> list[str]:
    (tmp_path / "registry.json").touch()
    return ["--extra-vars", f"__gpu_modes_registry={tmp_path / 'registry.json'}"]


@pytest.mark.nightly
def test_a_switch_is_watched_and_its_end_told(play: Play, there: list[str]) -> None:
    given = {"gpu_modes_python": sys.executable, "gpu_modes_on_busy": "force", "gpu_modes_drain_timeout": 7}
    found = play(SWITCH, *there, gpu_modes_active="other", **given)
    assert found is not None, play.said
    assert (found["switched"]["outcome"], found["switched"]["changed"]) == ("done", True)
    options = {"mode": "other", "on_busy": "force", "drain_timeout": 7, "rollback": True, "lock_wait": 1800}
    assert found["switched"]["given"] == options
    assert "s, ended)" in play.said and not list((play.folder / "jobs").glob("*")), "the job is forgotten"
    found = play(SWITCH, *there, gpu_modes_active="same", gpu_modes_python=sys.executable)
    assert found is not None and found["switched"]["changed"] is False
    assert found["switched"]["given"]["drain_timeout"] is None


def test_a_switch_that_failed_says_all_it_knows(play: Play, there: list[str]) -> None:
    assert play(SWITCH, *there, gpu_modes_active="bad", gpu_modes_python=sys.executable) is None
    assert "tenant b: it ended" in play.said and '"outcome": "rolled back"' in play.said and '"stop": 1.5' in play.said


def test_a_dry_run_is_the_plan(play: Play, there: list[str]) -> None:
    found = play(SWITCH, "--check", *there, gpu_modes_active="other", gpu_modes_python=sys.executable)
    assert found is not None and "changed: [here]" in play.said


@pytest.mark.parametrize("missing", ["the Python", "the registry"])
def test_what_is_missing_is_named(play: Play, there: list[str], missing: str, tmp_path: Path) -> None:
    python = "/nonexistent/python" if missing == "the Python" else sys.executable
    if missing == "the registry":
        (tmp_path / "registry.json").unlink()
    assert play(SWITCH, *there, gpu_modes_active="other", gpu_modes_python=python) is None
    assert "is not there. Run site.yml with the tags sovereignctl and gpu_modes." in " ".join(play.said.split())
