# SPDX-License-Identifier: MIT
"""Writes one JSON line per task of a play: how long it took, how often something was executed on the machine."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: bench_profile
type: aggregate
short_description: One JSON line per task
description: Writes one JSON line per task of a play to the file that the environment variable C(BENCH_PROFILE) names.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core has no type information
    """Counts results and the seconds between the start of a task and its last result."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "bench_profile"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, display: Any = None) -> None:
        super().__init__(display)
        # Opened once and closed by the end of the process: a callback has no end of its own.
        self._out = open(os.environ["BENCH_PROFILE"], "w", encoding="utf-8")  # noqa: SIM115, PTH123 - see above
        self._task: dict[str, Any] | None = None
        self._begun = 0.0

    def _start(self, task: Any) -> None:
        self._flush()
        self._begun = time.monotonic()
        self._task = {
            "name": task.get_name(),
            "action": task.resolved_action or task.action,
            "ok": 0,
            "changed": 0,
            "skipped": 0,
            "items": 0,
            "loop": task.loop is not None or task.loop_with is not None,
        }

    def _flush(self) -> None:
        if self._task is not None:
            self._task["seconds"] = time.monotonic() - self._begun
            self._out.write(json.dumps(self._task) + "\n")
            self._out.flush()
            self._task = None

    def _count(self, what: str) -> None:
        if self._task is not None:
            self._task[what] += 1

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """A task begins, so the one before has ended."""
        self._start(task)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """A handler is a task."""
        self._start(task)

    def v2_runner_on_ok(self, result: Any) -> None:
        """One host is done with the task."""
        self._count("changed" if result.is_changed() else "ok")

    def v2_runner_on_skipped(self, result: Any) -> None:
        """One host has left the task out."""
        self._count("skipped")

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """One item of a loop is done."""
        self._count("items")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The play has ended."""
        self._flush()
