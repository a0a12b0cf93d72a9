# SPDX-License-Identifier: MIT
"""sovereignctl on the lab machine: real Docker, the stand-in card, the registry that site.yml has written."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Lab

COMMAND = "/usr/local/bin/sovereignctl"
SWITCH = (COMMAND, "mode", "switch")
#: Not allowed to switch, nor to ask Docker.
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture(scope="module")
def ctl(raw_lab: Lab) -> Iterator[Lab]:
    """The machine in the agent mode, before and afterwards."""
    raw_lab.everything_up()
    yield raw_lab
    raw_lab.hub.run(*SWITCH, "agent", "--on-busy", "force", "--drain", "5", check=False)
    raw_lab.everything_up()


def document(lab: Lab, *words: str) -> dict[str, Any]:
    """The one document that a command prints, whatever its exit status."""
    return dict(json.loads(lab.hub.run(COMMAND, *words, "--json", check=False)))


def status_of(lab: Lab, *argv: str) -> int:
    """A command's exit status."""
    return subprocess.run(["docker", "exec", lab.hub.name, *argv], capture_output=True).returncode


def test_status_and_card(ctl: Lab) -> None:
    found = document(ctl, "mode", "status")
    assert found["kind"] == "status" and found["mode"] == "agent" and found["problems"] == []
    assert found["modes"]["forensic"]["vram_mib"] > 0 and found["card"]["memory_mib"]["total"] > 0
    held = [each for each in found["processes"] if each["tenant"] in found["modes"]["agent"]["tenants"]]
    assert held and all(each["mib"] > 0 for each in held)
    assert document(ctl, "gpu")["cards"][0]["memory_mib"] == found["card"]["memory_mib"]


def test_a_plan_then_the_switch_then_nothing_to_do(ctl: Lab) -> None:
    plan = document(ctl, *SWITCH[1:], "forensic", "--check")
    assert plan["changed"] and plan["start"] == document(ctl, "mode", "status")["modes"]["forensic"]["tenants"]
    assert document(ctl, "mode", "status")["mode"] == "agent"
    done = document(ctl, *SWITCH[1:], "forensic", "--on-busy", "wait")
    assert (done["exit"], done["outcome"]) == (0, "done") and done["peaks"], done["error"]
    assert ctl.ask("client").status == 200
    again = document(ctl, *SWITCH[1:], "forensic")
    assert (again["exit"], again["changed"]) == (0, False)
    last = document(ctl, "mode", "history", "--last", "1")["switches"][0]
    assert (last["target"], last["outcome"]) == ("forensic", "done")


def test_who_is_not_root_is_told(ctl: Lab) -> None:
    for words in (("mode", "status"), ("mode", "switch", "off"), ("gpu",), ("queue", "list")):
        assert status_of(ctl, *NOBODY, COMMAND, *words) == 5, words
    assert ctl.hub.run(*NOBODY, COMMAND, "mode", "names").split() == list(document(ctl, "mode", "status")["modes"])


def test_the_tab_key(ctl: Lab) -> None:
    script = (
        "source /usr/local/share/bash-completion/completions/sovereignctl; "
        "COMP_WORDS=(sovereignctl mode switch f); COMP_CWORD=3; _sovereignctl; echo ${COMPREPLY[@]}"
    )
    assert ctl.hub.run(*NOBODY, "bash", "-c", script).split() == ["forensic"]


def test_no_desktop_by_default(ctl: Lab) -> None:
    for path in ("/etc/xdg/autostart", "/usr/share/applications"):
        assert not ctl.hub.ok("test", "-e", f"{path}/mushishi-gpu-mode.desktop")
    assert not ctl.hub.ok("test", "-e", "/usr/share/polkit-1/actions/mushishi.sovereign.switch.policy")


def test_no_such_mode(ctl: Lab) -> None:
    found = document(ctl, *SWITCH[1:], "gaming")
    assert (
        found["exit"] == 1 and found["error"]["thing"] == "mode gaming" and "Choose one of" in found["error"]["remedy"]
    )
