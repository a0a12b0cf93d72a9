#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: the card, who is on it, and the mode."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Tell the GPU's mode, who is on the card, and who is at work
description:
  - Reads the card by NVIDIA's own library, the tenants from Docker, the mode from the journal of the switches, and asks
    each tenant that runs whether it is at work.
  - A machine without a card, Docker or registry is told of as far as that goes; RV(problems) says what could not be
    read.
  - With O(job) it watches a switch that another task has begun, for a while, and says where it stands. So a task that
    loops over this module shows how far a long switch is.
version_added: 0.6.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: full
    details: Only reads.
  diff_mode:
    support: none
    details: Nothing is ever changed.
  idempotent:
    support: full
requirements:
  - docker (the SDK for Python)
  - nvidia-ml-py
options:
  registry:
    description:
      - The registry on the target, as role C(gpu_modes) writes it.
    type: path
    default: /etc/mushishi/gpu/registry.json
  job:
    description:
      - The file of a task that was begun with C(async) (C(results_file) of its result). Nothing but RV(progress),
        RV(running) and RV(message) is returned then.
    type: path
  wait:
    description:
      - Seconds to watch it for at most.
    type: int
    default: 15
seealso:
  - module: mushishi.sovereign.gpu_mode
"""

EXAMPLES = r"""
- name: What holds the card
  mushishi.sovereign.gpu_info:
  vars:
    ansible_python_interpreter: /opt/mushishi/sovereignctl/venv/bin/python
  register: gpu
"""

RETURN = r"""
mode:
  description: The last mode that was committed; none before the first switch.
  returned: without O(job)
  type: str
  sample: agent
since:
  description: Since when, in seconds since 1970.
  returned: without O(job)
  type: float
  sample: 1790000000.0
intent:
  description: A switch that has not come to its end, with C(origin), C(target), C(phase); none otherwise.
  returned: without O(job)
  type: dict
progress:
  description:
    - The switch under way, with C(who), C(target), C(phase), C(detail), C(elapsed), C(expected); none otherwise.
  returned: always
  type: dict
card:
  description:
    - The card, with C(name), C(uuid), C(driver), C(compute_capability), C(memory_mib) (C(total), C(used), C(free)),
      C(power_watts), C(power_limit_watts), C(temperature_celsius), C(load_percent), C(slowed_by) and C(processes);
      none where none answers.
  returned: without O(job)
  type: dict
no_card:
  description: Why no card answers; none where one does.
  returned: without O(job)
  type: str
cards:
  description: All cards, the same way. Modes hold the first.
  returned: without O(job)
  type: list
  elements: dict
processes:
  description: Who is on the card, with C(pid), C(mib), C(name), C(user), C(container) and C(tenant).
  returned: without O(job)
  type: list
  elements: dict
foreign:
  description: Those of them that are no tenant's and not declared as guests.
  returned: without O(job)
  type: list
  elements: dict
tenants:
  description:
    - Tenants by name, with C(running), C(asleep) (it holds its place and gave most of its memory back), C(stale)
      (dead, or not what its project says), C(age_seconds), C(vram_mib) (what it declares), C(held_mib) (what it holds),
      C(busy) (reasons) and C(models).
  returned: without O(job)
  type: dict
modes:
  description:
    - Modes by name, with C(tenants), C(vram_mib), C(reserve_mib), C(peak_mib) (measured), C(cpu_floors) and
      C(expected_seconds).
  returned: without O(job)
  type: dict
busy:
  description: Whether somebody is at work. A model that is loaded is not work.
  returned: without O(job)
  type: bool
busy_reasons:
  description: Who, and at what.
  returned: without O(job)
  type: list
  elements: str
  sample: ["vllm-agent: 2 requests running"]
closed:
  description: Modes whose engine is shut at the engine door.
  returned: without O(job)
  type: list
  elements: str
problems:
  description: What could not be read, and why.
  returned: without O(job)
  type: list
  elements: str
running:
  description: With O(job) whether that task still runs; otherwise the names of the tenants that have a container.
  returned: always
  type: raw
message:
  description: Where the switch stands, in one line.
  returned: with O(job)
  type: str
  sample: "to agent: answers, vllm-agent: it loads; 34 s of about 120 s"
"""

import json
import os
import time
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import machine

PAUSE_SECONDS = 0.5
#: A task that was begun and shows nothing for so long was killed.
BEGIN_SECONDS = 60.0


def unfinished(job: str, now: float) -> bool:
    """Whether a task in the background still runs, by its own file."""
    try:
        with open(job, encoding="utf-8") as stream:
            text = stream.read()
        age = now - os.stat(job).st_mtime
    except OSError:
        return False
    try:
        found = json.loads(text)
    except ValueError:
        # It is being written; one that stays so is nobody's any more.
        return age < BEGIN_SECONDS
    return isinstance(found, dict) and not found.get("finished") and "ansible_job_id" in found


def alive(progress: dict[str, Any] | None, job: str, now: float) -> bool:
    """Whether a task that is not finished can still be: it switches, or has begun just now."""
    if progress is not None:
        return True
    try:
        return now - os.stat(job).st_mtime < BEGIN_SECONDS
    except OSError:
        return False


def watched(
    there: machine.Machine, job: str, wait: float, clock: Callable[[], float], pause: Callable[[float], None]
) -> dict[str, Any]:
    """Where a switch stands after so many seconds, or at its end."""
    deadline = clock() + wait
    while True:
        progress, now = there.progress(), time.time()
        running = unfinished(job, now) and alive(progress, job, now)
        if not running or clock() >= deadline:
            words = machine.progress_in_words(progress) if progress and running else "it begins" if running else "ended"
            return {"running": running, "progress": progress if running else None, "message": words}
        pause(PAUSE_SECONDS)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "registry": {"type": "path", "default": str(machine.REGISTRY)},
            "job": {"type": "path"},
            "wait": {"type": "int", "default": 15},
        },
        supports_check_mode=True,
    )
    try:
        with machine.opened(module.params["registry"]) as there:
            if module.params["job"]:
                found = watched(there, module.params["job"], module.params["wait"], time.monotonic, time.sleep)
            else:
                found = {**there.status(), "cards": there.info()["cards"]}
    except SovereignError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
