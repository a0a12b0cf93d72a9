# SPDX-License-Identifier: MIT
"""Reports on the machine: made, chained, checked there and elsewhere, and every change of one named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Lab, Machine

FOLDER, KEY = "/run/report-test/audit", "/run/report-test/key"
ROW = {"kind": "attack", "rule": "P1", "source": "unit a", "path": "→ b", "outcome": "refused", "ms": 0.2, "detail": ""}
GREEN = [ROW, {**ROW, "kind": "control", "outcome": "leaked"}]


def write(lab: Lab, rows: list[dict[str, Any]]) -> str:
    """One report; the path of its page."""
    words = ("mushishi-audit", "--key", KEY, "report", "--folder", FOLDER)
    out = lab.hub.run(*words, stdin=json.dumps({"rows": rows}), check=False)
    return out.split(": ", 1)[0]


def verify(lab: Lab) -> str:
    """What is wrong; empty when nothing is."""
    if lab.hub.ok("mushishi-audit", "verify", FOLDER):
        return ""
    return lab.hub.run("mushishi-audit", "verify", FOLDER, check=False)


@pytest.fixture
def pages(lab: Lab) -> Iterator[list[str]]:
    """A chain of three reports, green, red and green."""
    lab.hub.run("mkdir", "-p", "/run/report-test")
    try:
        yield [write(lab, rows) for rows in (GREEN, [*GREEN, {**ROW, "outcome": "leaked"}], GREEN)]
    finally:
        lab.hub.run("rm", "-rf", "/run/report-test")


def test_the_key_is_roots_alone_and_its_public_half_is_not(lab: Lab) -> None:
    assert lab.hub.run("stat", "-c", "%a %U", "/etc/mushishi/secrets/audit.key").split() == ["600", "root"]
    assert lab.hub.run("stat", "-c", "%a %U", "/var/lib/mushishi/audit").split() == ["700", "root"]
    public = lab.hub.run("mushishi-audit", "key").splitlines()
    assert public[0].startswith("ssh-ed25519 ") and public[1].startswith("SHA256:")
    lab.hub.run("mushishi-audit", "key", "--make")
    assert lab.hub.run("mushishi-audit", "key").splitlines() == public, "made once"


def test_a_chain_holds_and_each_change_is_named(lab: Lab, pages: list[str]) -> None:
    assert verify(lab) == ""
    stem = pages[1].removesuffix(".md")
    name = stem.rpartition("/")[2]
    for ending, edit, wanted in (
        ("md", "s/RED/GREEN/", f"{name}.md, line 3"),
        ("json", 's/"outcome": "leaked"/"outcome": "holds"/', f"{name}.json, field rows"),
        ("json", 's/"sequence": 2/"sequence": 9/', "record 2 is missing"),
        ("sig", "s/A/B/", f"{name}.sig"),
    ):
        path = f"{stem}.{ending}"
        lab.hub.run("cp", "-p", path, "/run/report-test/kept")
        lab.hub.run("sed", "-i", edit, path)
        assert wanted in verify(lab), f"{edit} of {path}"
        lab.hub.run("cp", "-p", "/run/report-test/kept", path)
    assert verify(lab) == ""
    lab.hub.run("sh", "-c", f"rm {stem}.*")
    assert f"record 2 is missing or broken ({name})" in verify(lab)


def test_a_foreign_key_and_a_changed_one(lab: Lab, pages: list[str]) -> None:
    lab.hub.run("mv", KEY, f"{KEY}.kept")
    assert write(lab, GREEN) == "", "a key without a record signs nothing"
    assert verify(lab) == ""
    lab.hub.run("mv", f"{KEY}.kept", KEY)
    lab.hub.run("mushishi-audit", "--key", KEY, "rotate", "planned", "--folder", FOLDER)
    assert write(lab, GREEN).startswith(FOLDER) and verify(lab) == ""
    assert len(pages) == 3


def test_a_client_checks_a_report_with_openssh_alone(lab: Lab, pages: list[str]) -> None:
    """On another machine, with the three files and the public key."""
    client: Machine = lab.client
    client.run("mkdir", "-p", "/tmp/report")
    try:
        for path in (pages[1].replace(".md", ending) for ending in (".md", ".json", ".sig")):
            client.run("tee", f"/tmp/report/{path.rpartition('/')[2]}", stdin=lab.hub.run("cat", path))
        name = pages[1].rpartition("/")[2].removesuffix(".md")
        page = client.run("cat", f"/tmp/report/{name}.md")
        # The very commands that the page names.
        script = page.split("```sh\n", 1)[1].split("```", 1)[0]
        out = client.run("sh", "-ec", f"cd /tmp/report; {script}")
        assert "Good" in out
        page_hash = client.run("sha256sum", f"/tmp/report/{name}.md").split()[0]
        assert page_hash in client.run("cat", f"/tmp/report/{name}.json")
        client.run("sed", "-i", "s/leaked/holds/", f"/tmp/report/{name}.json")
        assert not client.ok("sh", "-ec", f"cd /tmp/report; {script}"), "control"
    finally:
        client.run("rm", "-rf", "/tmp/report")
