# SPDX-License-Identifier: MIT
"""Roles do much in few steps, and what runs is decided by times on the machine, not by a handler that a kill loses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = Path(__file__).resolve().parents[3] / "roles"
TASK_FILES = sorted([*ROLES.glob("*/tasks/*.yml"), *ROLES.glob("*/handlers/*.yml")])
WITH_PREFLIGHT = sorted(path.parents[1].name for path in ROLES.glob("*/tasks/preflight.yml"))

#: Each has a module that does the same for a whole list in one step.
ONE_BY_ONE = {
    "ansible.builtin.template": "file_set",
    "ansible.builtin.copy": "file_set",
    "ansible.builtin.file": "file_set",
    "ansible.builtin.systemd_service": "unit_set",
    "ansible.builtin.user": "service_users",
    "ansible.builtin.group": "service_users",
    "ansible.builtin.stat": "look",
    "ansible.builtin.slurp": "look",
}


def tasks_of(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every task, those in blocks included."""
    for item in items:
        yield item
        for part in ("block", "rescue", "always"):
            yield from tasks_of(item.get(part) or [])


def always_run(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every task that has no condition, nor a block with one around it."""
    for item in items:
        if "when" not in item:
            yield item
            yield from always_run(item.get("block") or [])


def played(items: list[dict[str, Any]]) -> set[str]:
    """Every tag of a play's tasks."""
    return {tag for task in tasks_of(items) for tag in task.get("tags", [])}


def read(path: Path) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    return tasks


def one_by_one(tasks: list[dict[str, Any]]) -> list[str]:
    """What a list of tasks does in a loop, in every run, one sentence each."""
    return [
        f"{task['name']}: {module} in a loop; use {better}"
        for task in always_run(tasks)
        for module, better in ONE_BY_ONE.items()
        if module in task and "loop" in task
    ]


def restarts(tasks: list[dict[str, Any]]) -> list[str]:
    """Tasks that restart or reload a unit because this run has changed something."""
    settings = [(task["name"], task.get("ansible.builtin.systemd_service") or {}) for task in tasks_of(tasks)]
    return [name for name, given in settings if given.get("state") in ("restarted", "reloaded")]


@pytest.mark.parametrize("role", WITH_PREFLIGHT)
def test_nothing_that_runs_always_is_done_one_by_one(role: str) -> None:
    folder = ROLES / role / "tasks"
    names = [task.get("ansible.builtin.import_tasks") for task in read(folder / "main.yml")]
    found = {name: one_by_one(read(folder / name)) for name in ["preflight.yml", *filter(None, names)]}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: str(path.relative_to(ROLES)))
def test_no_restart_is_remembered_by_a_run(path: Path) -> None:
    """A killed run would lose it; unit_set sees it on the machine."""
    assert restarts(read(path)) == []


def test_the_search_finds_both_faults() -> None:
    """Control."""
    loop = {"name": "a", "ansible.builtin.copy": {}, "loop": [1, 2]}
    restart = {"name": "b", "block": [{"name": "c", "ansible.builtin.systemd_service": {"state": "restarted"}}]}
    assert len(one_by_one([{"name": "d", "block": [loop]}])) == 1 and restarts([{"name": "e", **restart}]) == ["c"]
    assert one_by_one([{**loop, "when": "x"}, {"name": "f", "ansible.builtin.copy": {}}]) == []


@pytest.mark.parametrize("role", WITH_PREFLIGHT)
def test_the_preflight_runs_once(role: str) -> None:
    """Included, because a skipped import overwrites what the first play of site.yml has registered."""
    first = read(ROLES / role / "tasks" / "main.yml")[0]
    assert first["ansible.builtin.include_tasks"] == "preflight.yml"
    assert re.sub(r"[()]", "", first["when"]) == "not site_preflight_done | defaultfalse"


@pytest.mark.parametrize("role", WITH_PREFLIGHT)
def test_the_preflight_validates_what_the_role_would(role: str) -> None:
    """site.yml leaves out the validation of the roles because of that."""
    text = (ROLES / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8")
    options = [entry.get("options") for entry in yaml.safe_load(text)["argument_specs"].values()]
    assert all(option == options[0] for option in options)


def test_what_may_be_unreachable_does_not_end_the_play() -> None:
    """site.yml says any_errors_fatal, which asks for no ignore_unreachable: the task has to take it back itself."""
    found = [task for path in TASK_FILES for task in tasks_of(read(path)) if task.get("ignore_unreachable")]
    assert found and all(task.get("any_errors_fatal") is False for task in found), found


def test_site_runs_every_preflight_before_it_leaves_them_out() -> None:
    plays = yaml.safe_load((ROLES.parent / "playbooks" / "site.yml").read_text(encoding="utf-8"))
    asked = [
        name
        for task in tasks_of(plays[1]["tasks"])
        if task.get("ansible.builtin.include_role", {}).get("tasks_from") == "preflight"
        for name in task["loop"]
    ]
    built = [
        task["ansible.builtin.import_role"]["name"].removeprefix("mushishi.sovereign.")
        for task in tasks_of(plays[2]["tasks"])
        if "ansible.builtin.import_role" in task
    ]
    assert set(asked) == set(built) == set(WITH_PREFLIGHT)


def test_no_tag_of_site_goes_around_the_lock() -> None:
    """Whoever leaves `always` out with a tag alone must meet the assert about validation and lock."""
    build = read(ROLES.parent / "playbooks/site.yml")[-1]["tasks"]
    (guard,) = [task for task in build if task["name"] == "The settings were checked and the lock was taken"]
    tags = played(build) - {"always"}
    assert "gateway" in tags and set(guard["tags"]) == tags
    listed = re.search(r"Tags run a\s+part alone: `([^`]+)`", (ROLES.parent / "README.md").read_text(encoding="utf-8"))
    assert listed and set(listed[1].split()) == tags, "README's list"
