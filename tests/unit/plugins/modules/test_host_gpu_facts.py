# SPDX-License-Identifier: MIT
"""host_gpu_facts: what is asked of a machine goes through to the judgement, and nothing is changed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import host
from ansible_collections.mushishi.sovereign.plugins.modules import host_gpu_facts

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils/gpu"))

from gpu_machines import NEW, PLAIN, WORKING, Machine

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine], None]:
    """Puts the module on a machine."""

    def choose(machine: Machine) -> None:
        root, real = machine.put(tmp_path), host.look
        monkeypatch.setattr(host, "look", lambda _root, run, branch: real(root, run, branch))

        def run_command(_self: basic.AnsibleModule, command: list[str], **_options: Any) -> tuple[int, str, str]:
            status, out, err = machine.run(command)
            if status == 127:
                raise FileNotFoundError(2, "No such file or directory")
            return status, out, err

        monkeypatch.setattr(basic.AnsibleModule, "run_command", run_command)

    return choose


@pytest.mark.parametrize("check", [False, True])
def test_a_new_machine(check: bool, on: Callable[[Machine], None], run: Run) -> None:
    on(NEW)
    found = run(host_gpu_facts, check=check, toolkit="1.20.1")
    assert (found["failed"], found["changed"], found["card"], found["toolkit"]) == (False, False, True, True)
    assert "nvidia-utils-580-server" in found["install"] and found["restart"] == "nouveau has the card"


def test_the_options_are_what_is_judged(on: Callable[[Machine], None], run: Run) -> None:
    on(WORKING)
    found = run(host_gpu_facts, power_watts=900)
    assert len(found["refused"]) == 1 and "900 W" in found["refused"][0]
    assert run(host_gpu_facts, power_watts=450)["refused"] == []


def test_a_machine_without_a_card(on: Callable[[Machine], None], run: Run) -> None:
    on(PLAIN)
    found = run(host_gpu_facts, driver="ubuntu", power_watts=450, toolkit="1.20.1")
    assert (found["card"], found["refused"], found["install"], found["toolkit"]) == (False, [], [], False)
