# SPDX-License-Identifier: MIT
"""The controller's half of ``converge_lock``: which run this is, and whether the run that has the lock still lives."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import asdict
from typing import Any

from ansible import context
from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.mushishi.sovereign.plugins.module_utils import _lock

MODULE = "mushishi.sovereign.converge_lock"
ATTEMPTS = 3


def playbook_process() -> int:
    """PID of ansible-playbook: this is one of its workers.

    Raises:
        AnsibleActionFail: ansible-playbook was killed and this worker is what is left of it.
    """
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return os.getpid()
    if parent.pid != os.getppid():
        raise AnsibleActionFail("converge lock: ansible-playbook was killed; nothing more is changed. Run it again.")
    return parent.pid


def playbook_names() -> str:
    """The playbooks of the command line, without their folders."""
    return " ".join(os.path.basename(str(path)) for path in context.CLIARGS.get("args") or ()) or "(no playbook)"


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core's own classes carry no types
    """Runs the module with this run as the owner, and again when the lock's owner turns out to be dead."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """See the module's documentation."""
        del tmp  # not used since Ansible 2.3
        result: dict[str, Any] = super().run(None, task_vars)
        here = _lock.this_run(playbook_process(), playbook_names())
        wishes = dict(self._task.args)
        takeover = boolean(wishes.pop("takeover", False), strict=False)
        wishes.update(owner=asdict(here), judged="", takeover=False)
        # Between the look and the takeover another run may come; then it is that one that is judged.
        for _attempt in range(ATTEMPTS):
            answer = self._execute_module(module_name=MODULE, module_args=wishes, task_vars=task_vars)
            record = answer.get("record")
            if answer.get("verdict") != "refused" or not record:
                break
            dead = _lock.owner_is_dead(_lock.owner_from(record["owner"]), here)
            if dead is False:
                answer["msg"] = _lock.refusal(_lock.record_from(record), time.time(), 0, alive=True)
                break
            if dead is None and not takeover:
                break
            wishes.update(judged=record["token"], takeover=dead is None)
        result.update(answer)
        if answer.get("msg") and not answer.get("failed"):
            # Somebody else's lock was taken over, or ours: worth a line on every terminal.
            self._display.warning(answer["msg"])
        return result
