# SPDX-License-Identifier: MIT
"""What the gateway role writes: no cloud key near the sovereign unit, a door with the listed routes only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.compile import cloud_key_names, door_routes
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.validate import load_policy


@pytest.fixture
def role(checkout: Path) -> Path:
    return checkout / "roles/gateway"


@pytest.fixture
def values(checkout: Path, role: Path) -> dict[str, Any]:
    raw = yaml.safe_load((checkout / "inventory/example/group_vars/all/policy.yml").read_text())["sovereign_policy"]
    policy = load_policy(raw)
    known: dict[str, Any] = {"ansible_managed": "Ansible managed"}
    for name in ("defaults", "vars"):
        known.update(yaml.safe_load((role / name / "main.yml").read_text()))
    known["__gateway_door_routes"] = door_routes(policy)
    known["__gateway_cloud_key_names"] = cloud_key_names(policy)
    return known


def _render(role: Path, template: str, values: dict[str, Any]) -> str:
    text = (role / "templates" / template).read_text()
    return str(Templar(loader=DataLoader(), variables=values).template(trust_as_template(text)))


def test_sovereign_unit_has_no_cloud_key_and_no_way_out(role: Path, values: dict[str, Any]) -> None:
    unit = _render(role, "mushishi-sovereign-gateway.service.j2", values)
    assert [line for line in unit.splitlines() if line.startswith("LoadCredential=")] == [
        "LoadCredential=client.key:/etc/mushishi/secrets/gateway-sovereign.key",
        "LoadCredential=llama.key:/etc/mushishi/secrets/llama-sovereign.key",
    ]
    for line in (
        "NetworkNamespacePath=/run/netns/sovereign",
        "BindsTo=mushishi-plane.service",
        "RestrictAddressFamilies=AF_INET",
        "IPAddressDeny=any",
        "User=mushishi-sovereign-gateway",
    ):
        assert line in unit.splitlines()


def test_hybrid_unit_gets_the_keys_of_the_policy_and_keeps_the_ledger(role: Path, values: dict[str, Any]) -> None:
    unit = _render(role, "mushishi-hybrid-gateway.service.j2", values)
    for name in values["__gateway_cloud_key_names"]:
        assert f"LoadCredential=cloud-{name}.key:/etc/mushishi/secrets/cloud/{name}.key" in unit
    for line in (
        "StateDirectory=mushishi-hybrid-gateway",
        "Requires=mushishi-guard.service",
        "Environment=SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
    ):
        assert line in unit.splitlines()


def test_no_unit_carries_a_secret_among_its_arguments(role: Path, values: dict[str, Any]) -> None:
    for template in role.glob("templates/*.service.j2"):
        unit = _render(role, template.name, values)
        assert not re.search(r"ExecStart=.*(key|secret|token)", unit)
        assert "{{" not in unit


def test_door_has_two_routes_for_each_engine_and_no_other(role: Path, values: dict[str, Any]) -> None:
    door = _render(role, "Caddyfile.j2", values)
    paths = re.findall(r"^\t\tpath (\S+)$", door, re.MULTILINE)
    assert sorted(paths) == sorted(
        f"{route['prefix']}/{end}"
        for route in values["__gateway_door_routes"]
        for end in ("chat/completions", "models")
    )
    assert paths
    assert "*" not in "".join(paths)
    assert re.findall(r"^\t\t\trewrite \* (\S+)$", door, re.MULTILINE) == [
        "/v1/chat/completions?",
        "/v1/models?",
    ] * len(values["__gateway_door_routes"])
    assert "admin off" in door
    assert "auto_https off" in door
    assert "bind 127.0.0.1" in door
    assert "dial_timeout 1s" in door
