# SPDX-License-Identifier: MIT
"""What was changed by hand, or left by a killed run, is put right by the next converge; the rest is left in peace."""

from __future__ import annotations

import pytest
from conftest import Lab, recap, site

#: A file of each, to be edited by hand: by whom it is read, and whether that is restarted or only reloaded.
EDITED = {
    "/etc/mushishi/guard/host.nft": ("mushishi-guard", "reloaded"),
    "/opt/mushishi/plane/plane": ("mushishi-plane", "reloaded"),
    "/etc/mushishi/admission/config.json": ("mushishi-sovereign-admission", "restarted"),
}
#: What a run leaves that is killed after it wrote the file and before it restarted what reads it.
KILLED = ("/etc/mushishi/ingress-hybrid/Caddyfile", "mushishi-ingress-hybrid")
UNITS = (
    "docker",
    "mushishi-guard",
    "mushishi-plane",
    "mushishi-sovereign-admission",
    "mushishi-sovereign-gateway",
    "mushishi-sovereign-llama-nemotron",
    "mushishi-sovereign-llama-coder",
    "mushishi-hybrid-gateway",
    "mushishi-ingress-sovereign",
    "mushishi-ingress-hybrid",
)
TAGS = ("--tags", "guard,plane,docker,admission,ingress")


def lives(lab: Lab) -> dict[str, tuple[str, str]]:
    """For each unit its life (a restart begins a new one) and when its state changed last (a reload does that, too)."""
    found = {}
    for unit in UNITS:
        shown = lab.hub.run("systemctl", "show", unit, "--property=InvocationID,StateChangeTimestampMonotonic")
        values = dict(line.split("=", 1) for line in shown.split())
        found[unit] = values["InvocationID"], values["StateChangeTimestampMonotonic"]
    return found


@pytest.mark.nightly
def test_put_back_and_restarted_and_nothing_else(raw_lab: Lab) -> None:
    raw_lab.everything_up()
    assert recap(site(*TAGS))["changed"] == 0, "control: nothing to do before"
    paths = [*EDITED, KILLED[0]]
    right = {path: raw_lab.hub.run("cat", path) for path in paths}
    before = lives(raw_lab)
    for path in EDITED:
        raw_lab.hub.run("sh", "-c", 'echo "# by hand" >> "$1"', "sh", path)
    # The content is right, and newer than the unit.
    raw_lab.hub.run("sh", "-c", 'mv "$1" "$1.kept" && mv "$1.kept" "$1"', "sh", KILLED[0])

    site(*TAGS)
    assert {path: raw_lab.hub.run("cat", path) for path in paths} == right
    after = lives(raw_lab)
    reloaded = {unit for unit in UNITS if before[unit][0] == after[unit][0] and before[unit][1] != after[unit][1]}
    restarted = {unit for unit in UNITS if before[unit][0] != after[unit][0]}
    assert reloaded == {unit for unit, verb in EDITED.values() if verb == "reloaded"}
    assert restarted == {KILLED[1]} | {unit for unit, verb in EDITED.values() if verb == "restarted"}

    assert recap(site(*TAGS))["changed"] == 0
    assert lives(raw_lab) == after, "nothing is restarted without a reason"
    raw_lab.everything_up()
