# SPDX-License-Identifier: MIT
"""The registry: what is refused, each with its name; what the machine is given."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import compose_rules, registry, tenants
from gpu_world import raw_registry


def test_the_machine_reads_what_the_controller_writes() -> None:
    text = json.dumps(registry.document(registry.load(raw_registry())))
    read = tenants.Registry.from_text(text)
    assert [tenant.name for tenant in read.mode("agent").tenants] == ["vllm-agent", "tts"]
    assert read.mode("agent").vram_mib == 26000 and read.mode("off").tenants == ()
    assert text == json.dumps(registry.document(registry.load(raw_registry()))), "the same bytes"


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2}', '{"version": 1}', '{"version": 1, "tenants": 3}'])
def test_what_it_did_not_write_is_refused(text: str) -> None:
    with pytest.raises(SovereignError, match="Run site"):
        tenants.Registry.from_text(text)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The registry with one value changed; a path of keys with slashes."""
    raw = copy.deepcopy(raw_registry())
    *keys, last = path.split("/")
    where: Any = raw
    for key in keys:
        where = where[int(key) if isinstance(where, list) else key]
    where[last] = value
    return raw


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("tenants/tts/vram_mib", 0, "tenants.tts.vram_mib"),
        ("tenants/tts/vram_mib", "4 GiB", "tenants.tts.vram_mib"),
        ("tenants/tts/colour", "red", "tenants.tts.colour"),
        ("tenants/tts/containers", [], "tenants.tts.containers"),
        ("tenants/tts/containers", ["mushishi-music"], "container mushishi-music belongs to tts and to music"),
        ("tenants/tts/models", ["music"], "model music is of tts and of music"),
        ("tenants/tts/project", "compose.yml", "tenant tts: project 'compose.yml' is no path"),
        ("tenants/tts/project", "/etc/../x", "is no path of a compose file"),
        ("tenants/tts/ready", {"kind": "health", "url": "http://10.88.0.9:1/"}, "tenants.tts.ready"),
        ("tenants/tts/ready/url", "http://192.168.1.5:8000", "is not on the sovereign LAN"),
        ("tenants/tts/ready/url", "http://api.example.net:8000", "is no address like"),
        ("tenants/tts/ready/url", "https://10.88.0.10:8000", "is no address like"),
        ("tenants/tts/ready/model", "other", "is asked for other, which is not among its models"),
        ("tenants/vllm-agent/sleep_level", 3, "tenants.vllm-agent.sleep_level"),
        ("modes/off", {"tenants": ["tts"]}, "mode off is always there"),
        ("modes/agent/tenants", ["vllm-agent", "ghost"], "mode agent: there is no tenant ghost"),
        ("modes/agent/tenants", ["tts", "tts"], "mode agent: a tenant stands twice"),
        ("modes/agent/tenants", [], "modes.agent.tenants"),
        ("modes/agent/tenants", ["vllm-agent", "vllm-coding"], "22000 + vllm-coding 23000 + reserve 600 = 45600 MiB"),
        ("reserve_mib", 32000, "and the card has 32607 MiB"),
        ("guests", ["a name that is too long"], "guests"),
    ],
)
def test_refused_by_name(path: str, value: Any, words: str) -> None:
    with pytest.raises(SovereignError) as refused:
        registry.load(changed(path, value))
    assert words in str(refused.value)


def test_every_fault_is_told_at_once() -> None:
    raw = changed("modes/agent/tenants", ["ghost"])
    raw["tenants"]["tts"]["project"] = "x"
    with pytest.raises(SovereignError) as refused:
        registry.load(raw)
    assert "ghost" in str(refused.value) and "no path" in str(refused.value)


GOOD = """
services:
  engine:
    networks: {sovereign: {ipv4_address: 10.88.0.10}}
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    volumes:
      - {type: bind, source: /data/ai/02-models, target: /models, read_only: true}
      - {type: volume, source: cache, target: /cache}
      - /data/ai/07-cache:/cache2
networks:
  sovereign: {external: true, name: sovereign}
"""


def project(**changes: Any) -> dict[str, Any]:
    """A good project with changes to its service."""
    made: dict[str, Any] = yaml.safe_load(GOOD)
    made["services"]["engine"].update(changes)
    return made


def test_a_good_project() -> None:
    assert compose_rules.problems(project()) == []


def test_only_an_engine_sleeps() -> None:
    assert registry.load(changed("tenants/vllm-agent/sleep_level", 2)).tenants["vllm-agent"].sleep_level == 2
    raw = changed("tenants/music/sleep_level", 1)
    raw["tenants"]["music"]["ready"] = {"kind": "answer", "url": "http://10.88.0.28:9004/health", "key": "status"}
    with pytest.raises(SovereignError, match="tenant music: sleeps only as an engine"):
        registry.load(raw)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privileged": True}, "is privileged"),
        ({"network_mode": "host"}, "has network_mode host"),
        ({"networks": {"sovereign": {}, "other": {}}}, "is on the networks other, sovereign"),
        ({"networks": None}, "is on the networks default"),
        ({"ipc": "host"}, "has ipc: host"),
        ({"pid": "host"}, "has pid: host"),
        ({"uts": "host"}, "has uts: host"),
        ({"userns_mode": "host"}, "has userns_mode: host"),
        ({"cap_drop": []}, "does not drop all capabilities"),
        ({"cap_add": ["SYS_ADMIN"]}, "adds capabilities: SYS_ADMIN"),
        ({"security_opt": []}, "may gain privileges"),
        ({"security_opt": ["no-new-privileges:true", "seccomp=unconfined"]}, "takes a confinement away"),
        ({"security_opt": ["no-new-privileges:true", "label:disable"]}, "takes a confinement away"),
        ({"ports": ["8000:8000"]}, "publishes ports"),
        ({"extra_hosts": ["a:1.2.3.4"]}, "has extra_hosts"),
        ({"volumes_from": ["x"]}, "takes the volumes of others"),
        ({"volumes": ["/var/run/docker.sock:/var/run/docker.sock"]}, "sees /var/run/docker.sock"),
        ({"volumes": [{"type": "bind", "source": "/", "target": "/host"}]}, "sees / of the host"),
        ({"volumes": ["/etc/mushishi/secrets:/s:ro"]}, "sees /etc/mushishi/secrets"),
        ({"volumes": ["/var:/v"]}, "sees /var of the host"),
        ({"volumes": ["./x:/x"]}, "not absolute"),
        ({"volumes": ["/data/../etc:/x"]}, "not absolute"),
        ({"use_api_socket": True}, "has use_api_socket, which no tenant may have"),
        ({"extends": {"file": "/srv/x.yml", "service": "x"}}, "has extends,"),
        ({"post_start": [{"command": ["x"], "privileged": True}]}, "has post_start,"),
        ({"provider": {"type": "x"}}, "has provider,"),
        ({"build": "."}, "has build,"),
        ({"env_file": "/etc/mushishi/secrets/x"}, "has env_file,"),
        ({"secrets": ["x"]}, "has secrets,"),
        ({"device_cgroup_rules": ["b *:* rwm"]}, "has device_cgroup_rules,"),
        ({"gpus": "all"}, "has gpus,"),
        ({"devices": ["/dev/sda:/dev/sda"]}, "has the device /dev/sda:/dev/sda"),
        ({"devices": [{"source": "/dev/mem", "target": "/dev/mem"}]}, "has the device /dev/mem"),
        ({"devices": ["nvidia.com/gpu=all", "x/../dev=a/b"]}, "has the device x/../dev=a/b"),
        ({"logging": {"driver": "gelf", "options": {"gelf-address": "udp://192.0.2.1:1"}}}, "logs by gelf"),
    ],
)
def test_what_no_tenant_may_have(changes: dict[str, Any], words: str) -> None:
    (found,) = compose_rules.problems(project(**changes))
    assert words in found and "service engine" in found


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": ["nvidia.com/gpu=all", {"source": "nvidia.com/gpu=GPU-1a:0"}], "x-mine": {"privileged": True}},
        {"logging": {"driver": "local"}, "environment": {"PRICE": "5 $$"}, "command": ["sh", "-c", "echo $$HOME"]},
        {"depends_on": ["a"], "healthcheck": {"test": ["CMD", "true"]}, "working_dir": "/x", "user": "0:0"},
    ],
)
def test_what_a_tenant_may_have(changes: dict[str, Any]) -> None:
    assert compose_rules.problems(project(**changes)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"volumes": ["${SOCK}:/s"]},
        {"volumes": [{"type": "bind", "source": "/data/$X", "target": "/x"}]},
        {"volumes": ["/data/$$$X:/x"]},
        {"security_opt": ["no-new-privileges:true", "${MORE}"]},
        {"labels": {"a": {"b": "${X:-y}"}}},
    ],
)
def test_what_compose_would_fill_in_is_refused(changes: dict[str, Any]) -> None:
    (found,) = compose_rules.problems(project(**changes))
    assert "would be filled in by compose" in found


@pytest.mark.parametrize(
    "settings",
    [
        {"driver_opts": {"type": "none", "o": "bind", "device": "/var/run"}},
        {"external": True},
        {"name": "of_somebody_else"},
        {"driver": "nfs"},
    ],
)
def test_a_volume_of_one_s_own_is_an_empty_one(settings: dict[str, Any]) -> None:
    made = project()
    made["volumes"] = {"cache": settings}
    (found,) = compose_rules.problems(made)
    assert found == f"volume cache has {', '.join(settings)}, which no tenant's may have"
    for fine in (None, {}, {"labels": {"a": "b"}}):
        made["volumes"] = {"cache": fine}
        assert compose_rules.problems(made) == []


def test_a_word_of_the_project_that_is_not_known() -> None:
    made = project()
    made |= {"secrets": {"x": {"file": "/etc/shadow"}}, "configs": {"x": {"file": "/etc/shadow"}}, "x-mine": 1}
    assert compose_rules.problems(made) == [
        "the project has configs, which no tenant's may have",
        "the project has secrets, which no tenant's may have",
    ]


def test_other_ways_out() -> None:
    assert compose_rules.problems({}) == ["the project has no service"]
    made = project()
    made["networks"]["sovereign"] = {"driver": "bridge"}
    made["include"] = ["other.yml"]
    assert len(compose_rules.problems(made)) == 2


def test_the_engines_project_of_this_collection_is_a_good_one(checkout: Any) -> None:
    """The role's own template, as the lab gets it."""
    template = (checkout / "roles/vllm/templates/compose.yml.j2").read_text(encoding="utf-8")
    for word in ("cap_drop: [ALL]", "no-new-privileges:true", "external: true"):
        assert word in template
