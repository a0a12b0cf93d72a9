#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: one run at a time changes a machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: converge_lock
short_description: Let one run at a time change a machine
description:
  - Takes a lock on the target for this run of C(ansible-playbook), or refuses with who holds it, since when, and what
    to do.
  - The lock says on which controller its owner runs, as which process and since when. A second run on the same
    controller looks whether that process still lives; the lock of a dead one is taken over at once, and the result says
    so.
  - Whether a run on another controller lives cannot be seen. Its lock lapses after O(lease_seconds) without a sign of
    life, or is taken with O(takeover).
  - The lock lies in C(/run), so a reboot of the target frees it.
  - Never reports a change. The lock is not a part of what is built, and is gone when the run has ended.
version_added: 0.2.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: full
    details: Only looks. The refusal is the same.
  diff_mode:
    support: none
    details: Nothing that lasts is changed.
  idempotent:
    support: full
options:
  state:
    description:
      - V(held) takes the lock, or refreshes it when this run has it. V(free) gives it back.
      - V(kept) refreshes the lock that this run took before, and fails when it has it no longer. In check mode it fails
        when another run has it.
    type: str
    choices: [held, kept, free]
    default: held
  path:
    description:
      - The lock's file on the target.
    type: path
    default: /run/mushishi/converge.lock
  lease_seconds:
    description:
      - Seconds after which the lock of a run on another controller lapses when that run gave no sign of life.
    type: int
    default: 7200
  takeover:
    description:
      - Take the lock of a run on another controller now. For an operator who knows that it is dead.
      - The lock of a run that is seen alive on this controller is never taken.
    type: bool
    default: false
  owner:
    description:
      - The run that asks. Filled in on the controller; do not give it.
    type: dict
    suboptions:
      controller:
        description: Host name of the controller.
        type: str
        required: true
      machine:
        description: The controller's own number.
        type: str
        required: true
      kernel:
        description: One boot and one PID namespace of the controller.
        type: str
        required: true
      pid:
        description: The process of C(ansible-playbook) there.
        type: int
        required: true
      started:
        description: Its start time as the controller's kernel gives it.
        type: str
        required: true
      user:
        description: Who runs it.
        type: str
        required: true
      playbook:
        description: The playbook's name.
        type: str
        required: true
  judged:
    description:
      - Token of the lock that may be taken over. Filled in on the controller; do not give it.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: One run at a time
  mushishi.sovereign.converge_lock:

- name: This run still has the machine
  mushishi.sovereign.converge_lock:
    state: kept

- name: The next run may come
  mushishi.sovereign.converge_lock:
    state: free
"""

RETURN = r"""
verdict:
  description: >-
    What happened. V(taken), V(kept) (it was ours), V(dead), V(lapsed) and V(ordered) (taken over from another run),
    V(refused); for O(state=kept) V(kept), V(lost) or V(looked) (check mode); for O(state=free) V(freed), V(free)
    (there was none), V(not ours) (another run has taken it over) or V(looked) (check mode).
  returned: always
  type: str
  sample: taken
holder:
  description: Who holds the lock now, in words. Empty when nobody does.
  returned: always
  type: str
  sample: ansible-playbook site.yml of anna on laptop (process 4711), since 2026-11-23 22:41:03 UTC, 3 min ago
record:
  description: The lock that stands, with its token, its owner and its times in Unix seconds. None when nobody holds it.
  returned: always
  type: dict
"""

import time
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils import _lock
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._files import absolute


def ensure(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Does what is asked, and returns the module's result; ``failed`` and ``msg`` are in it when the run is refused.

    Raises:
        SovereignError: there is no owner, or the lock's folder cannot be written.
    """
    path = absolute(params["path"], "path")
    if params["owner"] is None:
        raise SovereignError(
            f"lock {path}", "nobody says which run asks", "Call the module as mushishi.sovereign.converge_lock."
        )
    if params["lease_seconds"] < 60:
        raise SovereignError("option lease_seconds", f"{params['lease_seconds']} is too short", "Use 60 or more.")
    me = _lock.owner_from(params["owner"])
    now = time.time()
    if params["state"] == "free":
        outcome = _lock.free(path, me, look_only=check_mode)
    elif params["state"] == "kept":
        outcome = _lock.keep(path, me, look_only=check_mode)
    else:
        outcome = _lock.hold(
            path,
            me,
            params["lease_seconds"],
            judged=params["judged"],
            takeover=params["takeover"],
            look_only=check_mode,
        )
    result: dict[str, Any] = {
        "changed": False,
        "verdict": outcome.verdict,
        "record": asdict(outcome.record) if outcome.record else None,
        "holder": _lock.describe(outcome.record, now) if outcome.record else "",
        "msg": _lock.taken_over(outcome, now),
    }
    if outcome.verdict == "refused" and outcome.record:
        result["failed"] = True
        result["msg"] = _lock.refusal(outcome.record, now, params["lease_seconds"], alive=False)
    elif outcome.verdict == "lost":
        result["failed"] = True
        result["msg"] = _lock.lost(outcome.record, now)
    elif outcome.verdict == "not ours" and outcome.record:
        result["msg"] = f"Another run has taken the lock over: {_lock.describe(outcome.record, now)}."
    return result


def main() -> None:
    """Entry point."""
    words = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["held", "kept", "free"], "default": "held"},
            "path": {"type": "path", "default": "/run/mushishi/converge.lock"},
            "lease_seconds": {"type": "int", "default": 7200},
            "takeover": {"type": "bool", "default": False},
            "owner": {
                "type": "dict",
                "options": {
                    "controller": words,
                    "machine": words,
                    "kernel": words,
                    "pid": {"type": "int", "required": True},
                    "started": words,
                    "user": words,
                    "playbook": words,
                },
            },
            "judged": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    try:
        result = ensure(module.params, check_mode=module.check_mode)
    except SovereignError as error:
        module.fail_json(msg=str(error))
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
