# SPDX-License-Identifier: MIT
"""Runs Molecule and Ansible with the environment they need."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence

import yaml

from .paths import COLLECTIONS, ROOT, SCENARIO, STATE, VENV
from .say import Failed, Run

PREFIX = yaml.safe_load((SCENARIO / "vars.yml").read_text())["lab_prefix"]
HUB = f"{PREFIX}-hub"
#: A task's name, or the step of a build that a task reports: ``[17/206] Building …``.
TASK = re.compile(r"(?:(?:TASK|RUNNING HANDLER) \[|\(item=(?:\d+ s, )?(?=\[\d+/))(?P<what>\[\d+/\d+\][^)]*|[^\]]+)")


def environment(docker: str, image: str = "") -> dict[str, str]:
    """Variables for Molecule, Ansible and the Docker client; nothing of the user's own settings is read or written."""
    return {
        "MUSHISHI_ROOT": str(ROOT),
        "MUSHISHI_IMAGE": image,
        "DOCKER_HOST": docker,
        "PATH": f"{VENV / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ANSIBLE_HOME": str(STATE / "ansible"),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_LOCAL_TEMP": str(STATE / "ansible/tmp"),
        "ANSIBLE_INJECT_FACT_VARS": "false",
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
        "ANSIBLE_INVENTORY_UNPARSED_FAILED": "true",
        "MOLECULE_EPHEMERAL_DIRECTORY": str(STATE / "molecule"),
        "COLUMNS": "200",
        "NO_COLOR": "1",
        "LC_ALL": "C.UTF-8",
    }


def molecule(run: Run, verb: str, env: dict[str, str], why: str) -> None:
    """One Molecule step of the lab scenario, its tasks shown as they pass."""
    if verb == "create":
        # Molecule remembers that it created; containers that are gone since then would be missed.
        shutil.rmtree(STATE / "molecule", ignore_errors=True)  # there may be none yet
    run.command(["molecule", verb, "--scenario-name", "lab"], why=why, env=env, progress=TASK)


def playbook(run: Run, name: str, env: dict[str, str], why: str, extra: Sequence[str] = (), show: bool = False) -> None:
    """One of the collection's playbooks on the lab machine."""
    run.command(
        ["ansible-playbook", "--inventory", ROOT / "inventory/lab", ROOT / "playbooks" / f"{name}.yml", *extra],
        why=why,
        env=env,
        progress=None if show else TASK,
        show=show,
    )


def dry_run_is_clean(run: Run, env: dict[str, str]) -> None:
    """site.yml with ``--check --diff`` on a converged machine; raises :class:`Failed` when it would change any."""
    out = run.output(
        ["ansible-playbook", "--inventory", ROOT / "inventory/lab", ROOT / "playbooks/site.yml", "--check", "--diff"],
        why="A dry run on the built machine",
        env=env,
    )
    recap = re.search(r"^hub\s*:.*$", out, re.MULTILINE)
    if not recap or "changed=0" not in recap.group():
        would = re.findall(r"TASK \[([^\]]+)\][^\n]*\n(?:(?!TASK).*\n)*?changed:", out)
        counts = recap and recap.group()
        raise Failed(f"A dry run on the built machine would change something: {counts}; tasks: {would}")


def running(run: Run, env: dict[str, str]) -> list[str]:
    """Names of the lab's containers that run."""
    found = run.output(
        ["docker", "ps", "--filter", f"name=^{PREFIX}-", "--format", "{{.Names}}"], why="Listing containers", env=env
    )
    return sorted(found.split())
