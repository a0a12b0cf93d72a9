# SPDX-License-Identifier: MIT
"""The role of the card: what is pinned and held, what is done without a card, and when a machine is restarted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mushishi.sovereign.plugins.modules import host_gpu_facts
from rendering import Rendered

ROLE = Path(__file__).parents[4] / "roles" / "host_gpu"
VARS = yaml.safe_load((ROLE / "vars/main.yml").read_text())


def tasks(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ROLE / f"tasks/{name}.yml").read_text())
    return found


def text(rendered: Rendered, template: str, setting: str) -> str:
    made = rendered["host_gpu", template, setting]
    assert not isinstance(made, str), made
    return made[0][1]


def test_the_toolkit_is_four_files_of_one_version_by_hash() -> None:
    files = VARS["__host_gpu_toolkit_files"]
    version = VARS["__host_gpu_toolkit_version"]
    assert [entry["name"].split("_")[0] for entry in files] == [
        "libnvidia-container1",
        "libnvidia-container-tools",
        "nvidia-container-toolkit-base",
        "nvidia-container-toolkit",
    ], "each after what it depends on"
    assert all(entry["name"].endswith(f"_{version}-1_amd64.deb") for entry in files)
    assert all(re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]) and entry["size_bytes"] > 0 for entry in files)
    assert len({entry["sha256"] for entry in files}) == 4


def test_without_a_card_no_task_but_the_preflight_runs() -> None:
    first, *others = tasks("main")
    assert first["ansible.builtin.include_tasks"] == "preflight.yml"
    assert others and all(task["when"] == "__host_gpu.card" for task in others)


def test_the_card_is_looked_at_before_anything_is_refused_or_told() -> None:
    names = [next(key for key in task if "." in key) for task in tasks("preflight")]
    assert names.index("mushishi.sovereign.host_gpu_facts") < names.index("ansible.builtin.debug")
    changing = {"ansible.builtin.apt", "ansible.builtin.command", "mushishi.sovereign.file_set", "ansible.builtin.copy"}
    assert not changing & set(names), "a preflight only reads"


def test_a_restart_is_done_when_it_was_asked_for_and_not_in_a_dry_run() -> None:
    (restart,) = [task for task in tasks("service") if task.get("ansible.builtin.include_tasks") == "restart.yml"]
    assert "host_gpu_restart" in restart["when"] and "not ansible_check_mode" in restart["when"]
    others = [path for path in (ROLE / "tasks").glob("*.yml") if path.name != "restart.yml"]
    assert not [path for path in others if "builtin.reboot" in path.read_text()]
    assert yaml.safe_load((ROLE / "defaults/main.yml").read_text())["host_gpu_restart"] is False


def test_the_hold_stands_before_the_driver_comes() -> None:
    names = [task["name"] for task in tasks("install")]
    assert names[0].startswith("Keep unattended upgrades away")


@pytest.mark.parametrize(
    ("package", "held"),
    [
        ("nvidia-headless-no-dkms-580-server-open", True),
        ("libnvidia-compute-580-server", True),
        ("linux-modules-nvidia-580-server-open-generic-hwe-24.04", True),
        ("linux-image-6.14.0-34-generic", True),
        ("linux-generic-hwe-24.04", True),
        ("openssl", False),
        ("linux-firmware", False),
        ("python3-nvidia-ml-py", False),
    ],
)
def test_what_is_held(package: str, held: bool, rendered: Rendered) -> None:
    """As unattended-upgrades reads it: regular expressions that a name must begin with."""
    words = re.findall(r'^\s+"(.+)";$', text(rendered, "52mushishi-gpu.j2", "example"), re.MULTILINE)
    assert any(re.match(word, package) for word in words) is held


def test_the_limit_is_set_after_the_persistence_daemon(rendered: Rendered) -> None:
    limited = text(rendered, "mushishi-gpu.service.j2", "a limit")
    assert "ExecStart=/usr/bin/nvidia-smi --power-limit=450\n" in limited and "limited to 450 W" in limited
    plain = text(rendered, "mushishi-gpu.service.j2", "lab")
    assert "--power-limit" not in plain and "ExecStart=/usr/bin/nvidia-smi --list-gpus\n" in plain
    for unit in (limited, plain):
        assert "After=nvidia-persistenced.service\n" in unit and "Wants=nvidia-persistenced.service\n" in unit
    drop_in = text(rendered, "10-mushishi.conf.j2", "example")
    assert "--persistence-mode" in drop_in and "--no-persistence-mode" not in drop_in
    assert drop_in.index("ExecStart=\n") < drop_in.index("ExecStart=/"), "the unit's own line is taken away first"


def test_each_look_asks_the_same() -> None:
    name = "mushishi.sovereign.host_gpu_facts"
    asked = [task[name] for file in ("preflight", "service") for task in tasks(file) if name in task]
    assert len(asked) == 3 and all(each == asked[0] for each in asked)
    assert set(asked[0]) == set(yaml.safe_load(host_gpu_facts.DOCUMENTATION)["options"]), "nothing is left to a default"
