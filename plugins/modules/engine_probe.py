#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: do the engines answer a real completion?"""

from __future__ import annotations

DOCUMENTATION = r"""
module: engine_probe
short_description: Ask engines for one token each, and wait a while for those that are still starting
description:
  - Asks every engine for a completion of one token, all at the same time, from inside a network namespace. A health
    page is no proof.
  - Asks again until all have answered or O(wait) seconds have passed, then says who has not and why. So a task that
    loops over this module shows how far a long start is.
  - An engine whose unit has failed or whose container does not run is not waited for.
version_added: 0.2.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: full
    details: Asks in check mode, too; a question changes nothing.
  diff_mode:
    support: none
    details: Nothing is ever changed.
  idempotent:
    support: full
options:
  engines:
    description:
      - The engines.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the engine, for messages.
        type: str
        required: true
      url:
        description: Base address of its API, with C(/v1).
        type: str
        required: true
      model:
        description: The name under which it serves its model.
        type: str
        required: true
      key_file:
        description: File whose first line is the key to ask with. It is read on the target.
        type: path
      unit:
        description: The systemd unit that runs it.
        type: str
      container:
        description: The Docker container that runs it.
        type: str
  namespace:
    description:
      - Path of the network namespace to ask from. Empty asks from where the module runs.
    type: str
    default: ""
  wait:
    description:
      - Seconds to wait for engines that do not answer yet.
    type: int
    default: 15
  timeout:
    description:
      - Seconds for one token. A cold model on a slow disk needs some.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Wait until the CPU floor answers
  mushishi.sovereign.engine_probe:
    namespace: /run/netns/sovereign
    engines:
      - name: nemotron
        url: http://10.88.0.2:8001/v1
        model: nemotron-cpu
        key_file: /etc/mushishi/secrets/llama-sovereign.key
        unit: mushishi-sovereign-llama-nemotron.service
"""

RETURN = r"""
waiting:
  description: Engines that have not answered yet and may still, with the reason.
  returned: success
  type: dict
  sample: {nemotron: connection refused}
dead:
  description: Engines that cannot answer because what runs them does not run, with the reason.
  returned: success
  type: dict
  sample: {coder: unit mushishi-sovereign-llama-coder.service is failed}
message:
  description: All of it in one line, with the last line of a waiting container's log.
  returned: success
  type: str
  sample: "nemotron: connection refused"
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils import _completions
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

# Runs a program: argument list in; exit status and what it said out.
Runner = Callable[[Sequence[str]], "tuple[int, str]"]

PAUSE_SECONDS = 1.0


def read_key(path: str | None) -> str | None:
    """The first line of a key file.

    Raises:
        SovereignError: it cannot be read.
    """
    if path is None:
        return None
    try:
        with open(path, encoding="ascii") as stream:
            return stream.readline().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SovereignError(f"key file {path}", f"not readable ({error})", "Run the role of the engine.") from None


def refusal(reply: _completions.Reply) -> str:
    """Why a reply is no completion; the empty string when it is one."""
    if _completions.is_completion(reply):
        return ""
    if reply.failure:
        return reply.failure
    code, message = _completions.error_of(reply)
    return f"HTTP {reply.status} {code} {message}".strip() if reply.status != 200 else "an answer without a choice"


def state_of(engine: Mapping[str, Any], run: Runner) -> str:
    """Why an engine cannot answer, whatever one waits; the empty string when it may."""
    if engine["unit"]:
        _status, text = run(["systemctl", "is-failed", engine["unit"]])
        if text.strip() == "failed":
            return f"unit {engine['unit']} is failed"
    if engine["container"]:
        status, text = run(["docker", "container", "inspect", "--format", "{{.State.Status}}", engine["container"]])
        if status != 0:
            return f"container {engine['container']} is missing"
        if text.strip() != "running":
            return f"container {engine['container']} is {text.strip()}"
    return ""


def last_words(engine: Mapping[str, Any], run: Runner) -> str:
    """The last line of a waiting container's log; empty for a unit."""
    if not engine["container"]:
        return ""
    _status, text = run(["docker", "container", "logs", "--tail", "1", engine["container"]])
    return text.strip()[-160:]


def probe(params: Mapping[str, Any], run: Runner, clock: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """Asks until all have answered, or time is up. Returns the module's result.

    Raises:
        SovereignError: a key cannot be read, or the namespace cannot be entered.
    """
    left = {engine["name"]: engine for engine in params["engines"]}
    keys = {name: read_key(engine["key_file"]) for name, engine in left.items()}
    dead: dict[str, str] = {}
    waiting: dict[str, str] = {}
    end = clock() + params["wait"]
    while left:

        def job(engine: Mapping[str, Any]) -> Callable[[], _completions.Reply]:
            return lambda: _completions.complete(
                engine["url"],
                engine["model"],
                "ping",
                key=keys[engine["name"]],
                max_tokens=1,
                timeout=params["timeout"],
            )

        replies = _completions.together({name: job(engine) for name, engine in left.items()}, params["namespace"])
        waiting = {name: refusal(reply) for name, reply in replies.items()}
        for name, why in waiting.items():
            state = state_of(left[name], run) if why else ""
            if state:
                dead[name] = f"{state} ({why})"
            if state or not why:
                left.pop(name)
        waiting = {name: why for name, why in waiting.items() if name in left}
        if not left or clock() >= end:
            break
        time.sleep(PAUSE_SECONDS)
    words = [f"{name}: {why}" for name, why in {**dead, **waiting}.items()]
    words += [text for text in (last_words(engine, run) for engine in left.values()) if text]
    return {"changed": False, "waiting": waiting, "dead": dead, "message": "; ".join(words) or "all answer"}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "engines": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "url": {"type": "str", "required": True},
                    "model": {"type": "str", "required": True},
                    # The path of a key, not a key.
                    "key_file": {"type": "path", "no_log": False},
                    "unit": {"type": "str"},
                    "container": {"type": "str"},
                },
            },
            "namespace": {"type": "str", "default": ""},
            "wait": {"type": "int", "default": 15},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )

    def run(command: Sequence[str]) -> tuple[int, str]:
        status, out, err = module.run_command(list(command))
        return status, out or err

    try:
        result = probe(module.params, run)
    except SovereignError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
