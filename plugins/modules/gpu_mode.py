#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: the mode that holds the card."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_mode
short_description: Switch what holds the GPU, as a transaction
description:
  - Brings one mode of the registry onto the card. Its tenants are started, all other tenants are stopped, in one
    transaction. The mode must fit, nobody may be at work, new requests are led past, what is under way may end, the
    driver must say that the memory is free, and each tenant must really answer. What goes wrong before anything was
    stopped leaves all as it was; what goes wrong later leads back to the last good mode.
  - Touches the tenants of the registry and nobody else. A program of somebody else that is in the way is named, and
    nothing is stopped.
  - A run that was killed leaves a note on the disk; the next one goes on from what really runs.
version_added: 0.6.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: full
    details: Returns the plan, and fails where the switch would be refused. Who is at work is not asked.
  diff_mode:
    support: full
    details: Mode and tenants, before and after.
  idempotent:
    support: full
    details: A mode that serves is asked for one completion and left alone.
requirements:
  - docker (the SDK for Python) and the program C(docker compose)
  - nvidia-ml-py
options:
  mode:
    description:
      - The mode, a name of the registry or V(off). Without quotes, YAML reads V(off) as false; that is understood.
      - Needed with O(state=present).
    type: str
  state:
    description:
      - V(present) brings O(mode) onto the card; V(absent) takes every tenant from it, as the mode V(off) does.
    type: str
    choices: [present, absent]
    default: present
  on_busy:
    description:
      - What to do when a tenant that has to go is at work. V(fail) refuses, after two seconds in which a short question
        may end; V(wait) shuts the door and waits for the end, at most O(drain_timeout); V(force) waits as long and then
        ends the work. What begins in the moment before the door is shut is waited for as long in each case.
    type: str
    choices: [fail, wait, force]
    default: fail
  drain_timeout:
    description:
      - Seconds for work under way to end. Without it each tenant's own C(drain_seconds) count, the longest of them.
    type: int
  rollback:
    description:
      - Whether a switch that fails after something was stopped leads back to the last good mode.
    type: bool
    default: true
  lock_wait:
    description:
      - Seconds to wait for another switch that is under way. V(0) fails at once and says whose it is.
    type: int
    default: 0
  registry:
    description:
      - The registry on the target, as role C(gpu_modes) writes it.
    type: path
    default: /etc/mushishi/gpu/registry.json
seealso:
  - module: mushishi.sovereign.gpu_info
"""

EXAMPLES = r"""
- name: The forensic mode, when nobody is at work
  mushishi.sovereign.gpu_mode:
    mode: forensic
  vars:
    ansible_python_interpreter: /opt/mushishi/sovereignctl/venv/bin/python

- name: Nobody holds the card, whoever works
  mushishi.sovereign.gpu_mode:
    state: absent
    on_busy: force
    drain_timeout: 60
  vars:
    ansible_python_interpreter: /opt/mushishi/sovereignctl/venv/bin/python
"""

RETURN = r"""
mode:
  description: The mode that was asked for.
  returned: always
  type: str
  sample: forensic
origin:
  description: The last good mode before.
  returned: when the switch was planned
  type: str
  sample: agent
outcome:
  description:
    - V(nothing to do), V(done) or V(planned); of a failure V(refused) (before anything was begun), V(unchanged) (before
      anything was stopped), V(rolled back) (the last good mode serves again) or V(broken) (it does not; the message
      says what runs).
  returned: always
  type: str
  sample: done
plan:
  description: One line for each tenant that goes, stays or comes.
  returned: when the switch was planned
  type: list
  elements: str
  sample: [stop vllm-agent (22000 MiB), start vllm-forensic (27000 MiB)]
seconds:
  description: Phase to seconds, in their order.
  returned: when the switch was begun
  type: dict
  sample: {busy: 0.02, close: 0.01, drain: 0.02, stop: 2.4, freed: 0.8, start: 96.3, open: 0.5, commit: 0.004}
total_seconds:
  description: The sum of them.
  returned: when the switch was begun
  type: float
  sample: 100.1
peaks:
  description:
    - Tenant to the most memory, in MiB, that it was seen to hold. One that held more than it declares is warned of.
  returned: when the switch was begun
  type: dict
  sample: {vllm-forensic: 26811}
notes:
  description:
    - What a person should know, each of them also a warning. A tenant that held more than it declares; a program of
      somebody else on the card; an earlier switch that did not end.
  returned: always
  type: list
  elements: str
  sample: [tts held 4210 MiB and declares 4000]
expected_seconds:
  description: How long switches to this mode took, the median.
  returned: in check mode, when there was one
  type: float
  sample: 98.4
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import machine
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import SwitchFailed
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import OFF


def target_of(params: dict[str, Any]) -> str:
    """The mode that is asked for.

    Raises:
        SovereignError: none is, or state and mode contradict each other.
    """
    mode = params["mode"]
    # Unquoted, off is false in YAML, and false is False as a text.
    mode = OFF if mode in ("False", "false") else mode
    if params["state"] == "absent":
        if mode not in (None, OFF):
            raise SovereignError("gpu_mode", f"state is absent and mode is {mode}", "Give one of them.")
        return OFF
    if not mode:
        raise SovereignError("gpu_mode", "no mode is given", "Give mode, or state: absent.")
    return str(mode)


def words(mode: str, tenants: list[str]) -> str:
    """One side of the diff."""
    return f"mode: {mode}\ntenants: {', '.join(sorted(tenants)) or 'none'}\n"


def planned(there: machine.Machine, target: str) -> dict[str, Any]:
    """What a switch would do."""
    plan = there.plan(target)
    return {
        "changed": plan["changed"],
        "outcome": "planned" if plan["changed"] else "nothing to do",
        "origin": plan["origin"],
        "plan": plan["steps"],
        "warned": plan["warnings"],
        "expected_seconds": plan["expected_seconds"],
        "diff": {
            "before": words(plan["origin"], plan["stop"] + plan["keep"]),
            "after": words(target, plan["keep"] + plan["start"]),
        },
    }


def switched(there: machine.Machine, target: str, params: dict[str, Any], *, diff: bool) -> dict[str, Any]:
    """The switch, and its result; ``diff``: mode and tenants before and after too.

    Raises:
        SovereignError: it was refused.
        SwitchFailed: it was begun and did not come to its end.
    """
    before = planned(there, target)["diff"] if diff else {}
    result = there.switch(
        target,
        on_busy=params["on_busy"],
        drain_seconds=params["drain_timeout"],
        rollback=params["rollback"],
        wait_seconds=params["lock_wait"],
        who="a playbook",
    )
    return {**as_result(machine.result_as_mapping(result)), "diff": before if result.changed else {}}


def as_result(plain: dict[str, Any]) -> dict[str, Any]:
    """A switch's result under this module's names."""
    found = {key: plain[key] for key in ("origin", "outcome", "plan", "seconds", "total_seconds", "peaks", "changed")}
    return {**found, "warned": plain["warnings"]}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "mode": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "on_busy": {"type": "str", "choices": ["fail", "wait", "force"], "default": "fail"},
            "drain_timeout": {"type": "int"},
            "rollback": {"type": "bool", "default": True},
            "lock_wait": {"type": "int", "default": 0},
            "registry": {"type": "path", "default": str(machine.REGISTRY)},
        },
        supports_check_mode=True,
    )
    target = str(module.params["mode"] or OFF)
    failure = ""
    result: dict[str, Any] = {}
    try:
        target = target_of(module.params)
        with machine.opened(module.params["registry"]) as there:
            if module.check_mode:
                result = planned(there, target)
            else:
                result = switched(there, target, module.params, diff=module._diff)
    except SwitchFailed as error:
        failure, result = str(error), as_result(machine.result_as_mapping(error.result))
    except SovereignError as error:
        failure, result = str(error), {"outcome": "refused", "changed": False}
    result["notes"] = result.pop("warned", [])
    for note in result["notes"]:
        module.warn(note)
    if failure:
        module.fail_json(msg=failure, mode=target, **result)
    module.exit_json(mode=target, **result)


if __name__ == "__main__":
    main()
