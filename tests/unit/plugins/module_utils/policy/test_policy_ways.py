# SPDX-License-Identifier: MIT
"""Every way through a gateway's file, by name; a file that leads elsewhere is said to, with the way."""

from __future__ import annotations

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.compile import render_litellm
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.model import Plane
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.validate import load_policy
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.ways import gateway_rows
from policy_samples import default_policy

POLICY = load_policy(default_policy())
TEXT = {plane: render_litellm(POLICY, plane) for plane in Plane}


def leaks(text: str, plane: Plane = Plane.SOVEREIGN) -> list[str]:
    return [f"{row['path']} {row['detail']}" for row in gateway_rows(text, POLICY, plane) if row["outcome"] == "leaked"]


@pytest.mark.parametrize("plane", list(Plane))
def test_the_compiled_file_leads_to_its_chains_alone(plane: Plane) -> None:
    assert leaks(TEXT[plane], plane) == []


def test_each_way_is_said_from_the_caller_to_the_engine() -> None:
    paths = [row["path"] for row in gateway_rows(TEXT[Plane.SOVEREIGN], POLICY, Plane.SOVEREIGN)]
    assert any(
        path.startswith("private (T1) → ingress → admission 4001 → sovereign gateway")
        and path.endswith("http://10.88.0.2:8001/v1")
        for path in paths
    )
    hybrid = [row["path"] for row in gateway_rows(TEXT[Plane.HYBRID], POLICY, Plane.HYBRID)]
    assert any(path.startswith("personal (T2)") and "api.groq.com" in path for path in hybrid)
    assert not any(path.startswith(("private", "client", "coding")) for path in hybrid)


def test_a_way_to_the_cloud_is_named() -> None:
    changed = TEXT[Plane.SOVEREIGN].replace("http://127.0.0.1:4022/cpu/v1", "https://api.groq.com/openai/v1", 1)
    found = leaks(changed)
    assert any("private (T1)" in leak and "api.groq.com" in leak for leak in found) and any(
        "every value" in leak for leak in found
    )


def test_a_setting_nobody_compiled_and_a_broken_file_are_found() -> None:
    assert leaks(TEXT[Plane.SOVEREIGN] + "include: [other.yaml]\n")
    assert leaks("") and leaks("- a list\n")
