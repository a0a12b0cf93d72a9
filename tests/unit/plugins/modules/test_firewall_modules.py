# SPDX-License-Identifier: MIT
"""The modules of the firewall are thin: arguments in, the core's answer out, errors in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall import brake, machine
from ansible_collections.mushishi.sovereign.plugins.modules import firewall_brake, firewall_doors

Run = Callable[..., dict[str, Any]]
DOOR = {"name": "ssh", "port": 22, "protocol": "tcp", "role": "ssh"}
KEPT = {"state": "confirmed", "token": "t"}
ASKED = {"interface": "tailscale0", "inside": ["lo"], "doors": [DOOR]}


class Core:
    """What the modules call, remembered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wishes: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        core = self

        class Machine:
            def __init__(self, run: Any) -> None:
                self.brake = self
                assert run(["true"], "")[0] == 0 and run(["/nonexistent"], "")[0] == 127

            def bring(self, wish: machine.Wish, *, check_mode: bool) -> machine.Outcome:
                core.take(wish, check_mode)
                return machine.Outcome(True, "" if check_mode else "t", {"before": {}, "after": {}}, ["said"], [])

            def arm(self, wish: machine.Wish, reason: str) -> str:
                core.take(wish, reason)
                return "t"

            def confirm(self, token: str) -> None:
                core.take(token)

        monkeypatch.setattr(machine, "Machine", Machine)

    def take(self, *wish: Any) -> None:
        self.wishes.append(wish)
        if self.error:
            raise self.error


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    return Core(monkeypatch)


@pytest.mark.parametrize("check", [False, True])
def test_doors(run: Run, core: Core, check: bool) -> None:
    result = run(firewall_doors, check=check, **ASKED, lockout_accepted=True, confirm_seconds=30)
    ((wish, foretold),) = core.wishes
    assert foretold is check and result["changed"] and result["token"] == ("" if check else "t")
    assert (wish.state, wish.interface, wish.seconds, wish.over_ssh, wish.accepted) == (
        *("present", "tailscale0", 30),
        *(True, True),
    )
    assert wish.doors[0].port == 22


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"doors": [{**DOOR, "port": 0}]}, "from 1 to 65535"),
        ({"doors": [DOOR, {**DOOR, "name": "other"}]}, "One port has one service"),
        ({"interface": "no name"}, "no interface's name"),
    ],
)
def test_what_cannot_be_is_refused_before_the_machine_is_asked(
    run: Run, core: Core, change: dict[str, Any], words: str
) -> None:
    for module in (firewall_doors, firewall_brake):
        more = {"state": "armed"} if module is firewall_brake else {}
        result = run(module, **{**ASKED, **change, **more})
        assert result["failed"] and words in result["msg"] and core.wishes == []


def test_an_error_of_the_core_is_the_message(run: Run, core: Core) -> None:
    core.error = SovereignError("firewall", "seen", "Do this.")
    assert run(firewall_doors, **ASKED) == {"failed": True, "msg": "firewall: seen. Do this."}


def test_armed_and_confirmed(run: Run, core: Core) -> None:
    armed = run(firewall_brake, state="armed", reason="a test", **ASKED)
    assert (armed["changed"], armed["token"]) == (False, "t") and core.wishes[0][1] == "a test"
    assert run(firewall_brake, **KEPT)["failed"] is False and core.wishes[1] == ("t",)
    core.wishes.clear()
    assert run(firewall_brake, check=True, state="armed", **ASKED)["token"] == ""
    assert not run(firewall_brake, check=True, **KEPT)["failed"] and core.wishes == []


@pytest.mark.parametrize("error", [brake.Undone("the change of x was undone."), brake.NotArmed("no change.")])
def test_what_was_undone_fails_in_words(run: Run, core: Core, error: Exception) -> None:
    core.error = error
    result = run(firewall_brake, **KEPT)
    assert result["failed"] and str(error) in result["msg"] and "as it was before" in result["msg"]


def test_the_modules_ask_what_the_role_gives(checkout: Path) -> None:
    """Control of the thin layer: no option is forgotten between the task and the module."""
    def options(path: str, module: str) -> Sequence[str]:
        tasks = yaml.safe_load((checkout / "roles/firewall/tasks" / path).read_text())
        (found,) = [task[module] for task in tasks if module in task and "doors" in task[module]]
        return sorted(found)

    doors = yaml.safe_load(firewall_doors.DOCUMENTATION)["options"]
    assert options("service.yml", "mushishi.sovereign.firewall_doors") == sorted(doors)
    brakes = set(yaml.safe_load(firewall_brake.DOCUMENTATION)["options"]) - {"token"}
    assert options("arm.yml", "mushishi.sovereign.firewall_brake") == sorted(brakes)
