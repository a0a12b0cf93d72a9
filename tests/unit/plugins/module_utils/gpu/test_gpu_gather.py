# SPDX-License-Identifier: MIT
"""The registry from what roles and the inventory say: merged, checked, and each project judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.mushishi.sovereign.plugins.filter.gpu_registry import FilterModule
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.gather import compiled, floors, merged
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Registry
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.validate import load_policy

CHECKOUT = Path(__file__).resolve().parents[5]
RAW = yaml.safe_load((CHECKOUT / "inventory/example/group_vars/all/policy.yml").read_text())["sovereign_policy"]
POLICY = load_policy(RAW)

SERVICE = {
    "container_name": "one",
    "image": "x",
    "networks": {"sovereign": {"ipv4_address": "10.88.0.40"}},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}
PROJECT = {
    "name": "mushishi-one",
    "services": {"engine": SERVICE},
    "networks": {"sovereign": {"external": True, "name": "sovereign"}},
}
TENANT = {
    "project": "/srv/one/compose.yml",
    "containers": ["one"],
    "vram_mib": 9000,
    "ready": {"kind": "answer", "url": "http://10.88.0.40:9000/status", "key": "ok"},
    "engine": "agent",
}


def given(**changes: Any) -> list[dict[str, Any]]:
    one = {
        "tenants": {"one": dict(TENANT)},
        "modes": {"mine": {"tenants": ["one"], "cpu_floors": ["cpu"]}},
        "projects": {"one": yaml.safe_dump(PROJECT)},
    }
    return [one, *([changes] if changes else [])]


def made(parts: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    return compiled(parts, POLICY, **{"card_mib": 32607, "reserve_mib": 1024, **settings})


def test_the_document_is_what_the_machine_reads() -> None:
    document = made(given(), guests=["Xorg"])
    registry = Registry.from_document(document)
    assert set(registry.modes) == {"mine", "off"} and registry.guests == ("Xorg",)
    assert registry.tenants["one"].engine == "agent" and registry.modes["mine"].cpu_floors == ("cpu",)
    assert registry.floors["cpu-coder"] == {
        "kind": "completion",
        "url": "http://10.88.0.2:8002",
        "model": "coder-cpu",
        "key_file": "/etc/mushishi/secrets/llama-sovereign.key",
    }
    assert made(given(), guests=["Xorg"]) == document, "the same for the same"


def test_only_the_floors_of_the_policy() -> None:
    assert set(floors(POLICY)) == {"cpu", "cpu-coder"}
    with pytest.raises(SovereignError, match="there is no CPU floor gpu"):
        made(given(modes={"mine": {"tenants": ["one"], "cpu_floors": ["gpu"]}}))


def test_the_later_word_counts() -> None:
    found = merged(given(tenants={"one": {"vram_mib": 7}, "two": {"vram_mib": 8}}, modes={"mine": {"tenants": []}}))
    assert found["tenants"]["one"] == {**TENANT, "vram_mib": 7} and found["tenants"]["two"] == {"vram_mib": 8}
    assert found["modes"] == {"mine": {"tenants": []}}, "a mode as a whole"
    assert merged(given(tenants={"one": None}, modes={"mine": None}))["tenants"] == {}
    assert merged([{"tenants": None}, {}]) == {"tenants": {}, "modes": {}, "projects": {}}
    with pytest.raises(SovereignError, match="tenant is nothing that can be given"):
        merged([{"tenant": {}}])


def test_an_engine_that_no_backend_names_has_no_door() -> None:
    assert made(given(tenants={"one": {"engine": "creative"}}))["tenants"]["one"]["engine"] is None


def test_a_mode_that_does_not_fit_is_refused_with_its_sum() -> None:
    with pytest.raises(SovereignError, match=r"one 9000 \+ reserve 1024 = 10024 MiB, and the card has 10000 MiB"):
        made(given(), card_mib=10000)
    assert made(given(), card_mib=10024) and made(given(), card_mib=None)["card_mib"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network_mode": "host"}, "network_mode host"),
        ({"ipc": "host"}, "has ipc: host"),
        ({"privileged": True}, "is privileged"),
        ({"cap_add": ["NET_RAW"]}, "adds capabilities"),
        ({"networks": {"sovereign": {}, "other": {}}}, "not on sovereign alone"),
        ({"volumes": ["/var/run/docker.sock:/x"]}, "sees /var/run/docker.sock"),
        ({"container_name": "two"}, "makes the containers two, and it names one"),
    ],
)
def test_a_way_around_the_plane_is_refused(change: dict[str, Any], words: str) -> None:
    project = {**PROJECT, "services": {"engine": {**SERVICE, **change}}}
    with pytest.raises(SovereignError, match=f"tenant one: .*{words}"):
        made(given(projects={"one": yaml.safe_dump(project)}))


@pytest.mark.parametrize("name", [None, "one", "mushishi-two"])
def test_a_project_by_a_name_that_others_may_have_is_refused(name: str | None) -> None:
    """What compose finds under the name of a project, it also takes away."""
    project = {**PROJECT, "name": name}
    with pytest.raises(SovereignError, match=f"tenant one: its project's name is {name}, not mushishi-one"):
        made(given(projects={"one": yaml.safe_dump(project)}))


@pytest.mark.parametrize(
    ("text", "words"), [("a: [", "is no YAML"), ("[]", "is no compose project"), ("{}", "no service")]
)
def test_what_is_no_project_is_refused(text: str, words: str) -> None:
    with pytest.raises(SovereignError, match=words):
        made(given(projects={"one": text}))


def test_a_project_on_the_machine_is_judged_like_all_others() -> None:
    path = TENANT["project"]
    parts = given(projects={"one": None})
    assert made(parts, files={path: yaml.safe_dump(PROJECT)})
    for files in (None, {}, {path: None}):
        with pytest.raises(SovereignError, match=r"its project /srv/one/compose\.yml is not there"):
            made(parts, files=files)
    with pytest.raises(SovereignError, match="is privileged"):
        made(parts, files={path: yaml.safe_dump({**PROJECT, "services": {"engine": {**SERVICE, "privileged": True}}})})


def test_the_filter_says_it_as_ansible_does() -> None:
    compile_it = FilterModule().filters()["gpu_registry"]
    assert compile_it(given(), RAW, card_mib=0)["card_mib"] is None
    assert compile_it(given(), RAW, card_mib=32607, guests=["Xorg"]) == made(given(), guests=["Xorg"])
    for parts, policy in ((given(modes={"x": {"tenants": ["nobody"]}}), RAW), (given(), {}), ([{"tenants": 5}], RAW)):
        with pytest.raises(AnsibleFilterError):
            compile_it(parts, policy)
