# SPDX-License-Identifier: MIT
"""What the ingress role writes: only listed routes, only bound addresses, and two units with two locks each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.compile import ingress_routes
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.model import Plane

FACTS = {
    "tailscale0": {
        "ipv4": {"address": "100.64.0.2"},
        "ipv6": [
            {"address": "fd7a:115c:a1e0::2", "scope": "global"},
            {"address": "fe80::1", "scope": "link"},
        ],
    },
    "wg_home": {"ipv4": {"address": "10.9.0.1"}},
}
DROPPED_ANSWERS = ["Access-Control-*", "Set-Cookie", "Server", "Llm_provider-*", "X-Litellm-Model-Api-Base"]


def role_vars(role: Path, **change: Any) -> dict[str, Any]:
    """Defaults and internal variables of the role, with facts of a machine on a tailnet."""
    values: dict[str, Any] = {"ansible_facts": FACTS, "ansible_managed": "Ansible managed"}
    for name in ("defaults", "vars"):
        values.update(yaml.safe_load((role / name / "main.yml").read_text()))
    return {**values, **change}


def evaluate(text: str, values: dict[str, Any]) -> Any:
    """What Ansible makes of a template, with the file's variables trusted as the role's own are."""

    def trusted(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: trusted(item) for key, item in value.items()}
        if isinstance(value, list):
            return [trusted(item) for item in value]
        return trust_as_template(value) if isinstance(value, str) else value

    return Templar(loader=DataLoader(), variables=trusted(values)).template(trust_as_template(text))


@pytest.fixture
def role(checkout: Path) -> Path:
    """Folder of the role."""
    return checkout / "roles/ingress"


def render(role: Path, template: str, plane: str, **change: Any) -> str:
    """The text of a template for one plane."""
    values = role_vars(role, **change)
    values["item"] = next(entry for entry in values["__ingress_planes"] if entry["plane"] == plane)
    values["__ingress_routes"] = ingress_routes(Plane(plane))
    return str(evaluate((role / "templates" / template).read_text(), values))


@pytest.mark.parametrize(
    ("change", "addresses"),
    [
        ({}, ["100.64.0.2", "fd7a:115c:a1e0::2"]),
        ({"ingress_interface": "wg-home"}, ["10.9.0.1"]),
        ({"ingress_interface": "none0"}, []),
        ({"ingress_addresses": ["192.0.2.7"]}, ["192.0.2.7"]),
    ],
)
def test_addresses(role: Path, change: dict[str, Any], addresses: list[str]) -> None:
    assert evaluate("{{ __ingress_addresses }}", role_vars(role, **change)) == addresses


@pytest.mark.parametrize(
    ("plane", "port", "upstream"), [("sovereign", 4001, "10.88.0.2:4001"), ("hybrid", 4000, "127.0.0.1:4000")]
)
def test_caddyfile(role: Path, plane: str, port: int, upstream: str) -> None:
    text = render(role, "Caddyfile.j2", plane)
    lines = [line.strip() for line in text.splitlines()]
    assert text.startswith("#\n# Ansible managed\n")
    assert f":{port} {{" in lines and "bind 100.64.0.2 fd7a:115c:a1e0::2" in lines
    assert f"reverse_proxy {upstream} {{" in lines
    # The routes, each with its path written anew and its query dropped, and nothing else.
    paths = [route["path"] for route in ingress_routes(Plane(plane))]
    assert len(paths) == {"sovereign": 8, "hybrid": 2}[plane]
    plain = [path for path in paths if "{" not in path]
    assert [line for line in lines if line.startswith("path ")] == [f"path {path}" for path in plain]
    assert [line for line in lines if line.startswith("rewrite ") and "regexp" not in line] == [
        f"rewrite * {path}?" for path in plain
    ]
    # The name of a job, and no other step or character, may stand in a path.
    jobs = {"sovereign": ["job7", "job8"], "hybrid": []}[plane]
    matched = [line for line in lines if line.startswith("path_regexp ")]
    assert matched == [f"path_regexp {name} ^/v1/queue/([A-Za-z0-9_-]+)$" for name in jobs]
    assert [line for line in lines if "regexp.job" in line] == [
        f"rewrite * /v1/queue/{{http.regexp.{name}.1}}?" for name in jobs
    ]
    for header in ("Prefer {http.vars.prefer}", "Idempotency-Key {http.vars.idempotency_key}"):
        assert (f"header_up {header}" in lines) == (plane == "sovereign")
    # Anthropic's clients send their key in a header of their own, and admission alone speaks with them.
    assert ("header_up X-Api-Key {http.vars.api_key}" in lines) == (plane == "sovereign")
    assert lines.count("import pass_on") == len(paths) and sum(line.startswith("reverse_proxy") for line in lines) == 1
    for setting in ("admin off", "auto_https off", "keepalive off", "request_header -**", "max_size 32MiB"):
        assert setting in lines
    for name in DROPPED_ANSWERS:
        assert f"header_down -{name}" in lines
    assert not any(line.startswith("log ") and line != "log default {" for line in lines), "an access log"


@pytest.mark.parametrize(
    ("plane", "port", "upstream"), [("sovereign", 4001, "10.88.0.2"), ("hybrid", 4000, "127.0.0.1")]
)
def test_unit(role: Path, plane: str, port: int, upstream: str) -> None:
    lines = render(role, "mushishi-ingress-plane.service.j2", plane).splitlines()
    for setting in (
        f"User=mushishi-ingress-{plane}",
        "IPAddressDeny=any",
        f"IPAddressAllow=localhost {upstream} 100.64.0.0/10 fd7a:115c:a1e0::/48",
        "SocketBindDeny=any",
        f"SocketBindAllow=tcp:{port}",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        f"ExecStart=/usr/bin/caddy run --adapter caddyfile --config /etc/mushishi/ingress-{plane}/Caddyfile",
        "WantedBy=multi-user.target",
    ):
        assert setting in lines
    assert ("Requires=mushishi-guard.service" in lines) is (plane == "sovereign")
    assert sum(line.startswith("IPAddressAllow=") for line in lines) == 1


def test_a_late_address_is_waited_for_without_a_limit(role: Path) -> None:
    lines = render(role, "20-late-address.conf.j2", "hybrid").splitlines()
    assert "StartLimitIntervalSec=0" in lines and "RestartSec=2" in lines
