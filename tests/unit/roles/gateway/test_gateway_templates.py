# SPDX-License-Identifier: MIT
"""What the gateway role writes: no cloud key near the sovereign unit, a door with the listed routes only."""

from __future__ import annotations

import json
import re
import shlex
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from door_bench import ROLE, haproxy_program, render, role_values


@pytest.fixture
def values() -> dict[str, Any]:
    return role_values()


def test_sovereign_unit_has_no_cloud_key_and_no_way_out(values: dict[str, Any]) -> None:
    unit = render("mushishi-sovereign-gateway.service.j2", values)
    assert [line for line in unit.splitlines() if line.startswith("LoadCredential=")] == [
        "LoadCredential=client.key:/etc/mushishi/secrets/gateway-sovereign.key",
        "LoadCredential=llama.key:/etc/mushishi/secrets/llama-sovereign.key",
    ]
    for line in (
        "NetworkNamespacePath=/run/netns/sovereign",
        "BindsTo=mushishi-plane.service",
        "RestrictAddressFamilies=AF_INET",
        "IPAddressDeny=any",
        "IPAddressAllow=127.0.0.0/8",
        "User=mushishi-sovereign-gateway",
    ):
        assert line in unit.splitlines()


@pytest.mark.parametrize("name", ["door", "prober"])
def test_door_and_prober_live_in_the_plane(values: dict[str, Any], name: str) -> None:
    unit = render(f"mushishi-sovereign-{name}.service.j2", values).splitlines()
    for line in (
        f"User=mushishi-sovereign-{name}",
        "NetworkNamespacePath=/run/netns/sovereign",
        "BindsTo=mushishi-plane.service",
        "RestrictAddressFamilies=AF_INET",
        "IPAddressDeny=any",
        "IPAddressAllow=127.0.0.0/8 10.88.0.0/24",
        "SocketBindDeny=any",
        "MemoryDenyWriteExecute=yes",
    ):
        assert line in unit
    binds = [line for line in unit if line.startswith("SocketBindAllow=")]
    assert binds == ([f"SocketBindAllow=tcp:{port}" for port in (4021, 4022, 4023)] if name == "door" else [])
    loads = [line for line in unit if line.startswith("LoadCredential=")]
    assert loads == ([] if name == "door" else ["LoadCredential=llama.key:/etc/mushishi/secrets/llama-sovereign.key"])


def test_hybrid_unit_gets_the_keys_of_the_policy_and_keeps_the_ledger(values: dict[str, Any]) -> None:
    unit = render("mushishi-hybrid-gateway.service.j2", values)
    for name in values["__gateway_cloud_key_names"]:
        assert f"LoadCredential=cloud-{name}.key:/etc/mushishi/secrets/cloud/{name}.key" in unit
    for line in (
        "StateDirectory=mushishi-hybrid-gateway",
        "Requires=mushishi-guard.service",
        "Environment=SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
    ):
        assert line in unit.splitlines()


def test_no_unit_carries_a_secret_among_its_arguments(values: dict[str, Any]) -> None:
    for template in ROLE.glob("templates/*.service.j2"):
        unit = render(template.name, values)
        assert not re.search(r"ExecStart=.*(key|secret|token)", unit)
        assert "{{" not in unit


def _sections(text: str) -> dict[str, list[str]]:
    """The sections of a HAProxy configuration: ``frontend sovereign`` → its lines."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line and not line.startswith((" ", "#")):
            lines = sections.setdefault(line, [])
        elif line.strip() and not line.strip().startswith("#"):
            lines.append(line.strip())
    return sections


@pytest.fixture
def door(values: dict[str, Any]) -> dict[str, list[str]]:
    return _sections(render("haproxy.cfg.j2", values))


def test_door_has_two_routes_for_each_engine_and_no_other(door: dict[str, list[str]], values: dict[str, Any]) -> None:
    for plane, address in (("sovereign", "127.0.0.1:4022"), ("hybrid", "10.88.0.2:4021")):
        engines = [route["backend"] for route in values["__gateway_door_routes"] if plane in route["planes"]]
        assert engines
        assert door[f"frontend {plane}"] == [
            f"bind {address}",
            *(["maxconn 500"] if plane == "hybrid" else []),
            *(
                f"use_backend engine-{name} if {{ method {method} }} {{ path -m str /{name}/v1/{end} }}"
                for name in engines
                for method, end in (("POST", "chat/completions"), ("GET", "models"))
            ),
            "default_backend no-route",
        ]
    assert not [line for line in door["frontend hybrid"] if "forensic" in line or "coder" in line]
    assert door["backend no-route"][0].startswith("http-request return status 404 content-type application/json")


def test_the_hybrid_side_cannot_take_every_connection(door: dict[str, list[str]]) -> None:
    most = {
        section: [int(line.split()[1]) for line in lines if line.startswith("maxconn ")]
        for section, lines in door.items()
        if section == "global" or section.startswith("frontend ")
    }
    assert most == {"global": [4000], "frontend sovereign": [], "frontend hybrid": [500]}


def test_no_unit_says_what_the_shared_hardening_overrules(values: dict[str, Any]) -> None:
    """A drop-in beats the unit file: the same setting here would be read and not be true."""
    shared = (ROLE.parent / "base/templates/systemd/10-hardening.conf.j2").read_text()
    ruled = {line.split("=")[0] for line in shared.splitlines() if "=" in line and not line.startswith("#")}
    assert "Restart" in ruled, "control"
    # These add up over files.
    lists = {"SystemCallFilter", "InaccessiblePaths"}
    for template in ROLE.glob("templates/*.service.j2"):
        lines = render(template.name, values).splitlines()
        said = {line.split("=")[0] for line in lines if "=" in line and not line.startswith("#")}
        assert said & (ruled - lists) == set(), template.name


def test_door_passes_on_to_the_engines_of_the_policy_alone(door: dict[str, list[str]], values: dict[str, Any]) -> None:
    servers = {section: line for section, lines in door.items() for line in lines if line.startswith("server ")}
    assert servers == {
        f"backend engine-{route['backend']}": f"server engine {route['upstream_host']}:{route['upstream_port']}"
        for route in values["__gateway_door_routes"]
    }
    assert set(door) == {"global", "defaults", "frontend sovereign", "frontend hybrid", "backend no-route", *servers}


def test_door_never_tries_twice_and_writes_nothing_down(door: dict[str, list[str]]) -> None:
    for line in ("retries 0", "timeout connect 1s", "no log", "http-reuse never", "option disable-h2-upgrade"):
        assert line in door["defaults"]
    text = " ".join(line for lines in door.values() for line in lines)
    assert " capture" not in text
    assert "log " not in text.replace("no log", "")
    assert [line for line in door["global"] if line.startswith("stats")] == [
        "stats socket ipv4@127.0.0.1:4023 level admin",
        "stats timeout 5s",
    ]


def test_a_gpu_engine_is_shut_by_its_mode_and_takes_no_more_than_it_works_at(
    door: dict[str, list[str]], values: dict[str, Any]
) -> None:
    most = {"agent": 2, "forensic": 4, "coding": 2}
    modes = {route["backend"]: route["mode"] for route in values["__gateway_door_routes"]}
    assert set(modes.values()) == {*most, None}
    for backend, mode in modes.items():
        first = door[f"backend engine-{backend}"][:2]
        wanted = [
            f"http-request deny deny_status 503 if {{ str({mode}) -m str -f /etc/mushishi/gateway/closed.acl }}",
            f"http-request deny deny_status 503 if {{ srv_conn(engine-{backend}/engine) ge {most.get(mode or '')} }}",
        ]
        assert (first == wanted) is (mode is not None), f"{backend}: the CPU floor is never shut"


def test_what_an_engine_works_at_is_what_vllm_is_told(values: dict[str, Any]) -> None:
    """Two roles, one figure: what the door lets through by default is each mode's max_num_seqs."""
    vllm = yaml.safe_load((ROLE.parent / "vllm/vars/main.yml").read_text())["__vllm_default_modes"]
    template = "{{ __gateway_engine_sessions | to_json }}"

    def most(**settings: Any) -> dict[str, int]:
        given = {**values, **settings}
        return json.loads(str(Templar(loader=DataLoader(), variables=given).template(trust_as_template(template))))

    assert most() == {name: mode["max_num_seqs"] for name, mode in vllm.items()}
    assert most(vllm_mode_overrides={"agent": {"max_num_seqs": 5}, "coding": {"max_model_len": 9}})["agent"] == 5
    assert most(gateway_engine_sessions={"forensic": 3}) == {"agent": 2, "forensic": 3, "coding": 2}


def test_every_header_is_taken_away_whatever_its_first_character(door: dict[str, list[str]]) -> None:
    lines = [line for line in door["backend engine-gpu"] if line.startswith("http-request del-header ")]
    first = {shlex.split(line)[2] for line in lines}
    token = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_lowercase
    assert first == set(token), "RFC 9110: the characters of a field name"


def test_haproxy_takes_the_configuration_without_a_word(values: dict[str, Any], tmp_path: Path) -> None:
    haproxy = haproxy_program()
    config = tmp_path / "haproxy.cfg"
    (tmp_path / "closed.acl").touch()
    values["__gateway_closed_list"] = str(tmp_path / "closed.acl")
    config.write_text(render("haproxy.cfg.j2", values) + "\n")
    done = subprocess.run([haproxy, "-c", "-q", "-f", config], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    config.write_text(config.read_text().replace("retries 0", "retriez 0"))
    done = subprocess.run([haproxy, "-c", "-q", "-f", config], capture_output=True, text=True, check=False)
    assert done.returncode != 0, "control: a misspelt word is refused"
