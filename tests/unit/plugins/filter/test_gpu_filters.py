# SPDX-License-Identifier: MIT
"""The shells of two filters: what they give on, and what is no input for them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.mushishi.sovereign.plugins.filter.model_manifest import model_manifest
from ansible_collections.mushishi.sovereign.plugins.filter.tenant_problems import tenant_problems

MODEL = {
    "name": "m",
    "licence": "L",
    "source": "https://models.example.org/m",
    "files": [{"path": "w", "size_bytes": 3, "sha256": "a" * 64}],
}


def test_a_manifest() -> None:
    found = model_manifest([MODEL], "/models", ["L"], "x")
    assert found["problems"] == [] and found["bytes"] == 3 and found["files"][0]["path"] == "/models/m/w"
    assert len(model_manifest([MODEL], "/models", [], "x")["problems"]) == 1


@pytest.mark.parametrize("accepted", ["L", None, 3])
def test_licences_are_a_list(accepted: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="my_licences is no list"):
        model_manifest([MODEL], "/models", accepted, "my_licences")


def test_a_project_s_problems() -> None:
    assert tenant_problems("services: {}") == ["the project has no service"]
    assert any("privileged" in line for line in tenant_problems("services: {a: {privileged: true}}"))


@pytest.mark.parametrize("text", ["[", "x", "- a", ""])
def test_what_is_no_project(text: str) -> None:
    with pytest.raises(AnsibleFilterError):
        tenant_problems(text)
