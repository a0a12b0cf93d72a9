# SPDX-License-Identifier: MIT
"""What a policy compiles into: the default one figure by figure, generated ones by what must hold for each."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy import compile as compiled
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy import render
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.flows import namespace_flows
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.model import Plane, Policy
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.validate import load_policy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_samples import Raw, default_policy, policies, shuffled

POLICY = load_policy(default_policy())
ALL_LOCAL = ["gpu", "gpu-forensic", "gpu-coder", "cpu", "cpu-coder"]
ALL_CLOUD = ["kimi", "groq", "openrouter", "deepseek"]


def everything(policy: Policy) -> list[str]:
    """Every output as text, to compare byte by byte."""
    return [
        compiled.render_litellm(policy, Plane.SOVEREIGN),
        compiled.render_litellm(policy, Plane.HYBRID),
        render.chain_table(policy),
        render.chain_diagram(policy),
        *(
            json.dumps(output)
            for output in (
                compiled.policy_to_dict(policy),
                compiled.admission_rules(policy),
                compiled.door_routes(policy),
                compiled.egress_hosts(policy),
                compiled.plane_clients(policy),
                compiled.route_matrix(policy, []),
                compiled.cloud_key_names(policy),
            )
        ),
    ]


def expected(available: list[str]) -> dict[str, Any]:
    return {row["profile"]: row["expect"] for row in compiled.route_matrix(POLICY, available)}


NO_LOCAL = {"error": "queued", "status": 503, "mode": None}
FORENSIC = {"error": "engine_unavailable", "status": 503, "mode": "forensic"}
CODING = {"error": "engine_unavailable", "status": 503, "mode": "coding"}
UPSTREAM = {"error": "upstream_failed", "status": 500, "mode": None}

MATRIX: list[tuple[str, list[str], dict[str, Any]]] = [
    (
        "GPU in agent mode",
        ["gpu", "cpu", "cpu-coder", *ALL_CLOUD],
        {
            "personal": {"backend": "gpu"},
            "private": {"backend": "gpu"},
            "client": FORENSIC,
            "coding": {"backend": "cpu-coder"},
        },
    ),
    (
        "GPU in forensic mode",
        ["gpu-forensic", "cpu", "cpu-coder", *ALL_CLOUD],
        {"personal": {"backend": "cpu"}, "private": {"backend": "cpu"}, "client": {"backend": "gpu-forensic"}},
    ),
    (
        "GPU stopped",
        ["cpu", "cpu-coder", *ALL_CLOUD],
        {"personal": {"backend": "cpu"}, "private": {"backend": "cpu"}, "client": FORENSIC},
    ),
    (
        "nothing local",
        ALL_CLOUD,
        {
            "personal": {"backend": "kimi"},
            "private": NO_LOCAL,
            "client": FORENSIC,
            "coding": CODING,
            "coordination": UPSTREAM,
            "planning": {"backend": "deepseek"},
        },
    ),
    (
        "Kimi failed too",
        ["groq", "openrouter"],
        {"personal": {"backend": "groq"}, "private": NO_LOCAL, "planning": UPSTREAM},
    ),
    ("Groq failed too", ["openrouter"], {"personal": {"backend": "openrouter"}, "research": {"backend": "openrouter"}}),
    ("nothing at all", [], {"personal": UPSTREAM, "private": NO_LOCAL, "client": FORENSIC, "coding": CODING}),
]


@pytest.mark.parametrize(("state", "available", "rows"), MATRIX, ids=[state for state, _, _ in MATRIX])
def test_the_matrix_of_the_default_policy(state: str, available: list[str], rows: dict[str, Any]) -> None:
    assert len(expected(available)) == 7
    assert {profile: expected(available)[profile] for profile in rows} == rows


def test_a_matrix_of_unknown_backends_is_refused() -> None:
    with pytest.raises(ValueError, match="'gpu9': names no backend"):
        compiled.route_matrix(POLICY, ["gpu", "gpu9"])


def test_the_rules_of_admission() -> None:
    rules = compiled.admission_rules(POLICY)
    assert rules["version"] == 1
    assert sorted(rules["profiles"]) == ["client", "coding", "private"]
    assert rules["profiles"]["private"] == {
        "tier": "T1",
        "group": "private",
        "terminal": "queue",
        "links": [
            {"backend": "gpu", "mode": "agent", "model": "nemotron"},
            {"backend": "cpu", "mode": None, "model": "nemotron-cpu"},
        ],
        "context_length": 32768,
        "timeout": 600 + 1200 + 10,
        "wait": 300,
    }
    assert {rules["profiles"][name]["wait"] for name in ("client", "coding")} == {0}


@pytest.mark.parametrize("seconds", [0, 45, 3600])
def test_how_long_a_request_is_held(seconds: int) -> None:
    raw = default_policy()
    raw["profiles"]["private"]["queue_wait"] = seconds
    assert compiled.admission_rules(load_policy(raw))["profiles"]["private"]["wait"] == seconds


ADMISSION = ["POST /v1/completions", "POST /v1/embeddings", "POST /v1/responses", "POST /v1/messages"]


@pytest.mark.parametrize(("plane", "own"), [(Plane.SOVEREIGN, ADMISSION), (Plane.HYBRID, [])])
def test_the_ingress_passes_listed_routes(plane: Plane, own: list[str]) -> None:
    routes = [f"{route['method']} {route['path']}" for route in compiled.ingress_routes(plane)]
    queue = ["GET /v1/queue/{id}", "DELETE /v1/queue/{id}"] if own else []
    assert routes == ["POST /v1/chat/completions", *own, "GET /v1/models", *queue]


def test_the_door_leads_to_engines_only_and_hybrid_to_the_shared_ones() -> None:
    routes = compiled.door_routes(POLICY)
    assert {route["backend"]: route["planes"] for route in routes} == {
        "cpu": ["sovereign", "hybrid"],
        "cpu-coder": ["sovereign"],
        "gpu": ["sovereign", "hybrid"],
        "gpu-coder": ["sovereign"],
        "gpu-forensic": ["sovereign"],
    }
    assert {route["backend"] for route in routes if route["last"]} == {"cpu-coder", "gpu-forensic"}
    assert routes[2] == {
        "backend": "gpu",
        "prefix": "/gpu/v1",
        "upstream_host": "10.88.0.10",
        "upstream_port": 8000,
        "model": "nemotron",
        "engine": "vllm",
        "mode": "agent",
        "planes": ["sovereign", "hybrid"],
        "last": False,
    }


def test_who_may_enter_the_bridge() -> None:
    assert [(client["user"], client["address"], client["port"]) for client in compiled.plane_clients(POLICY)] == [
        ("mushishi-ingress-sovereign", "10.88.0.2", 4001),
        ("mushishi-hybrid-gateway", "10.88.0.2", 4021),
    ]


def test_who_may_open_what_in_the_namespace() -> None:
    flows = {(flow["user"], flow["address"], flow["port"]) for flow in namespace_flows(POLICY)}
    engines = {("10.88.0.2", 8001), ("10.88.0.2", 8002), *((f"10.88.0.{host}", 8000) for host in (10, 11, 12))}
    assert flows == {
        ("mushishi-sovereign-admission", "127.0.0.1", 4011),
        ("mushishi-sovereign-gateway", "127.0.0.1", 4022),
        ("mushishi-sovereign-prober", "127.0.0.1", 4023),
        *(("mushishi-sovereign-door", *engine) for engine in engines),
        *(("mushishi-sovereign-prober", *engine) for engine in engines),
    }


def test_only_the_hybrid_gateway_reaches_providers() -> None:
    hosts = compiled.egress_hosts(POLICY)
    assert [entry["host"] for entry in hosts["mushishi-hybrid-gateway"]] == [
        "api.deepseek.com",
        "api.groq.com",
        "integrate.api.nvidia.com",
        "openrouter.ai",
    ]
    assert all(entry["port"] == 443 for entry in hosts["mushishi-hybrid-gateway"])
    assert list(hosts) == ["mushishi-hybrid-gateway"], "nothing else has a way to a provider"
    assert not [unit for unit in hosts if "sovereign" in unit]


def test_the_keys_that_are_needed() -> None:
    assert compiled.cloud_key_names(POLICY) == ["deepseek", "groq", "nvidia", "openrouter"]
    raw = default_policy()
    del raw["profiles"]["planning"], raw["budgets"]["deepseek"]
    assert compiled.cloud_key_names(load_policy(raw)) == ["groq", "nvidia", "openrouter"]


def test_a_budget_of_zero_takes_the_cloud_away() -> None:
    document = yaml.safe_load(compiled.render_litellm(POLICY, Plane.HYBRID))
    groups = [entry["model_name"] for entry in document["model_list"]]
    assert [group for group in groups if group.startswith("coordination")] == ["coordination", "coordination.cpu"]
    raw = default_policy()
    raw["profiles"]["coordination"]["cloud_budget_usd"] = None
    groups = [chain.profile for chain in load_policy(raw).chains() if any(not link.local for link in chain.links)]
    assert "coordination" in groups


def test_the_table_shows_every_profile() -> None:
    lines = render.chain_table(POLICY).splitlines()
    assert lines[0].split("|")[1].strip() == "profile"
    assert len(lines) == 2 + 7
    assert len({len(line) for line in lines}) == 1, "the columns are aligned"
    private = next(line for line in lines if line.startswith("| `private`"))
    assert "`gpu` → `cpu`" in private
    assert "never the cloud" in private
    client = next(line for line in lines if line.startswith("| `client`"))
    assert "names the mode `forensic`" in client


def test_the_diagram_has_no_arrow_from_t1_to_the_cloud() -> None:
    arrows = [line.split() for line in render.chain_diagram(POLICY).splitlines() if "-->" in line]
    targets = {(words[0], words[-1]) for words in arrows}
    assert ("p_private", "b_cpu") in targets
    assert ("p_personal", "b_kimi") in targets
    assert not [pair for pair in targets if pair[0] == "p_private" and pair[1] in {f"b_{name}" for name in ALL_CLOUD}]


def test_one_change_of_the_policy_changes_the_text() -> None:
    raw = default_policy()
    raw["backends"]["cpu"]["timeout"] = 1199
    raw["backends"]["cpu"]["stream_timeout"] = 599
    changed = everything(load_policy(raw))
    assert changed[0] != everything(POLICY)[0]
    assert changed[1] != everything(POLICY)[1]


MANY = settings(
    max_examples=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@MANY
@given(raw=policies(), data=st.data())
def test_any_valid_policy_is_accepted_and_gives_the_same_bytes(raw: Raw, data: st.DataObject) -> None:
    policy = load_policy(raw)
    first = everything(policy)
    assert everything(load_policy(json.loads(json.dumps(raw)))) == first
    other_order = shuffled(raw, lambda keys: data.draw(st.permutations(keys)))
    assert everything(load_policy(other_order)) == first
    assert everything(load_policy(compiled.policy_to_dict(policy))) == first


@MANY
@given(raw=policies(with_t1=True))
def test_nothing_of_the_cloud_stands_in_a_sovereign_output(raw: Raw) -> None:
    policy = load_policy(raw)
    sovereign = compiled.render_litellm(policy, Plane.SOVEREIGN) + json.dumps(compiled.admission_rules(policy))
    assert "example.com" not in sovereign
    assert "CLOUD_KEY" not in sovereign
    assert "https" not in sovereign


@MANY
@given(raw=policies(), data=st.data())
def test_the_matrix_follows_the_chain(raw: Raw, data: st.DataObject) -> None:
    policy = load_policy(raw)
    available = data.draw(st.sets(st.sampled_from(sorted(policy.backends))))
    rows = compiled.route_matrix(policy, available)
    assert [row["profile"] for row in rows] == sorted(policy.profiles)
    for row in rows:
        answering = [name for name in row["chain"] if name in available and name in policy.backends]
        if row["expect"].get("backend"):
            assert row["expect"]["backend"] == answering[0]
        else:
            free = policy.profiles[row["profile"]].cloud_budget_usd == 0
            assert not [name for name in answering if not free or policy.backends[name].location == "local"]
            assert row["expect"]["status"] in (500, 503)
