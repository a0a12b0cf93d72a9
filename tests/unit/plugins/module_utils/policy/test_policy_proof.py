# SPDX-License-Identifier: MIT
"""A detector that has never caught anything proves nothing: every hole planted here must be refused.

The control beside each refusal: with rules and proof out of the way the very same mutant compiles, and leaks.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any
from urllib.parse import urlsplit

import policy_mutants as mutants
import pytest
import yaml
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy import compile as compiled
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.errors import PolicyError, ProofError
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.litellm import compile_litellm
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.model import Plane, Policy
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.proof import (
    prove_door,
    prove_litellm,
    prove_policy,
)
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.validate import load_policy, parse_policy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_samples import Raw, default_policy, policies

RAW = default_policy()
POLICY = load_policy(RAW)
SOVEREIGN = compiled.render_litellm(POLICY, Plane.SOVEREIGN)
DOCUMENT: Raw = yaml.safe_load(SOVEREIGN)
DOOR = "http://127.0.0.1:4022/"

IN_POLICY = mutants.policy_mutants(RAW)
SHAPELESS = mutants.shapeless_mutants(RAW)
IN_DOCUMENT = mutants.document_mutants(DOCUMENT, RAW)
IN_SETTINGS = mutants.setting_mutants(DOCUMENT)
IN_TEXT = mutants.text_mutants(SOVEREIGN, RAW)


def leaks(policy: Policy) -> bool:
    """The naive oracle: does what LiteLLM would call, or what the door would call for it, lie outside the LAN?"""
    called = [entry["litellm_params"]["api_base"] for entry in compile_litellm(policy, Plane.SOVEREIGN)["model_list"]]
    engines = [backend.url for backend in policy.engines(Plane.SOVEREIGN).values()]
    return any(not url.startswith(DOOR) for url in called) or any(not _on_lan(url) for url in engines)


def _on_lan(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network("10.88.0.0/24")
    except ValueError:
        return False


def distinct(found: list[tuple[str, Any]]) -> int:
    """How many mutants differ in content, whatever they are called."""
    return len({json.dumps(content, sort_keys=True) for _name, content in found})


def test_there_are_enough_mutants() -> None:
    assert distinct(IN_POLICY) >= 100
    assert distinct(IN_DOCUMENT) >= 100
    assert distinct(IN_POLICY) + distinct(IN_DOCUMENT) >= 200
    assert distinct([("", RAW), *IN_POLICY]) == distinct(IN_POLICY) + 1, "a mutant is the unchanged policy"
    assert distinct([("", DOCUMENT), *IN_DOCUMENT]) == distinct(IN_DOCUMENT) + 1, "a mutant is the unchanged document"


def test_the_unchanged_policy_is_accepted_on_both_planes() -> None:
    for plane in Plane:
        prove_litellm(compiled.render_litellm(POLICY, plane), POLICY, plane)


@pytest.mark.parametrize(("name", "raw"), IN_POLICY, ids=[name for name, _ in IN_POLICY])
def test_a_hole_in_the_policy_is_refused_by_each_lock_alone(name: str, raw: Raw) -> None:
    policy = parse_policy(raw)
    document = compile_litellm(policy, Plane.SOVEREIGN)
    assert leaks(policy), "control: without rules and proof this mutant leaks"
    assert not leaks(POLICY), "control: the unchanged policy does not"
    with pytest.raises(PolicyError):
        load_policy(raw)
    with pytest.raises(PolicyError, match="leads from T1 to the cloud"):
        prove_policy(policy)
    with pytest.raises(ProofError):
        prove_litellm(compiled.dump_yaml(document), policy, Plane.SOVEREIGN)


@pytest.mark.parametrize(("name", "raw"), SHAPELESS, ids=[name for name, _ in SHAPELESS])
def test_a_hole_of_another_shape_is_refused(name: str, raw: Raw) -> None:
    with pytest.raises(PolicyError):
        load_policy(raw)


def test_the_message_shows_the_way() -> None:
    raw = default_policy()
    raw["profiles"]["private"]["chain"] = ["cpu", "groq"]
    for refuse in (load_policy, lambda data: prove_policy(parse_policy(data))):
        with pytest.raises(PolicyError, match="private → cpu → groq"):
            refuse(raw)
    policy = parse_policy(raw)
    with pytest.raises(ProofError, match=r"private → private\.groq → groq \(https://api\.groq\.com/openai/v1\)"):
        prove_litellm(compiled.dump_yaml(compile_litellm(policy, Plane.SOVEREIGN)), policy, Plane.SOVEREIGN)


def render(monkeypatch: pytest.MonkeyPatch, document: Raw, policy: Policy = POLICY, *, proven: bool = True) -> str:
    """What the filter would print if the compiler had made this document."""
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "compile_litellm", lambda *_arguments: document)
        if not proven:
            patch.setattr(compiled, "prove_litellm", lambda *_arguments, **_options: None)
        return compiled.render_litellm(policy, Plane.SOVEREIGN)


@pytest.mark.parametrize(
    ("name", "document"), [*IN_DOCUMENT, *IN_SETTINGS], ids=[name for name, _ in [*IN_DOCUMENT, *IN_SETTINGS]]
)
def test_a_hole_in_the_rendered_text_is_refused(name: str, document: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = render(monkeypatch, document, proven=False)
    assert yaml.safe_load(planted) == document, "control: without the proof this mutant is printed"
    with pytest.raises(ProofError) as refusal:
        render(monkeypatch, document)
    assert refusal.value.where, "the refusal names a way or a key"


@pytest.mark.parametrize(("name", "document"), IN_DOCUMENT, ids=[name for name, _ in IN_DOCUMENT])
def test_an_edge_is_refused_by_the_walk_alone_with_its_way(name: str, document: Raw) -> None:
    from ansible_collections.mushishi.sovereign.plugins.module_utils.policy import proof

    with pytest.raises(ProofError, match=r"^(private|client|coding)[^:]* → .*a way out of the chain of"):
        proof._prove_ways(document, POLICY, Plane.SOVEREIGN)


@pytest.mark.parametrize(("name", "document"), [*IN_DOCUMENT, *IN_SETTINGS])
def test_a_hole_is_refused_by_the_closed_list_alone(name: str, document: Raw) -> None:
    from ansible_collections.mushishi.sovereign.plugins.module_utils.policy import proof

    with pytest.raises(ProofError):
        proof._prove_closed(document, proof._expected(POLICY, Plane.SOVEREIGN, proof.DEFAULT_MAX_ANSWER_TOKENS))


@pytest.mark.parametrize(("name", "text"), IN_TEXT, ids=[name for name, _ in IN_TEXT])
def test_a_hole_that_only_the_text_shows_is_refused(name: str, text: str) -> None:
    assert text != SOVEREIGN
    with pytest.raises(ProofError):
        prove_litellm(text, POLICY, Plane.SOVEREIGN)


@pytest.mark.parametrize(
    ("document", "where"),
    [
        (mutants._set(DOCUMENT, "search_tools", []), "search_tools"),
        (mutants._set(DOCUMENT, "router_settings.enable_tag_filtering", True), "router_settings.enable_tag_filtering"),
        (mutants._set(DOCUMENT, "general_settings.new_in_1_109", 1), "general_settings.new_in_1_109"),
        (
            mutants._set(DOCUMENT, "model_list.1.litellm_params.max_retries", 3),
            "model_list[1].litellm_params.max_retries",
        ),
    ],
)
def test_the_refusal_names_the_key(document: Raw, where: str) -> None:
    with pytest.raises(ProofError) as refusal:
        prove_litellm(compiled.dump_yaml(document), POLICY, Plane.SOVEREIGN)
    assert refusal.value.where == where


# --- the hybrid document ----------------------------------------------------------------------------------------------

HYBRID: Raw = yaml.safe_load(compiled.render_litellm(POLICY, Plane.HYBRID))
T1_GROUP = {
    "model_name": "private",
    "litellm_params": {"model": "openai/x", "api_base": "http://10.88.0.2:4021/gpu/v1"},
}


def _appended(path: str, value: Any) -> Raw:
    section, key = path.split(".") if "." in path else (path, "")
    held = HYBRID[section][key] if key else HYBRID[section]
    return mutants._set(HYBRID, path, [*held, value])


IN_HYBRID = [
    ("a T1 group", _appended("model_list", T1_GROUP)),
    ("wildcard", _appended("model_list", {**T1_GROUP, "model_name": "*"})),
    ("alias", mutants._set(HYBRID, "router_settings.model_group_alias", {"private": "personal"})),
    ("default fallbacks", mutants._set(HYBRID, "router_settings.default_fallbacks", ["planning"])),
    ("overflow", mutants._set(HYBRID, "litellm_settings.context_window_fallbacks", [{"personal": ["planning"]}])),
    ("past a budget of 0", _appended("router_settings.fallbacks", {"coordination": ["personal.kimi"]})),
    (
        "a host the policy does not name",
        mutants._set(HYBRID, "model_list.2.litellm_params.api_base", "https://x.example.com"),
    ),
    (
        "an engine past the door",
        mutants._set(HYBRID, "model_list.0.litellm_params.api_base", "http://10.88.0.10:8000/v1"),
    ),
    (
        "another engine",
        mutants._set(HYBRID, "model_list.0.litellm_params.api_base", "http://10.88.0.2:4021/gpu-forensic/v1"),
    ),
    (
        "the sovereign gateway's side of the door",
        mutants._set(HYBRID, "model_list.0.litellm_params.api_base", "http://127.0.0.1:4022/gpu/v1"),
    ),
    ("another key", mutants._set(HYBRID, "model_list.4.litellm_params.api_key", "os.environ/CLOUD_KEY_DEEPSEEK")),
    ("no ledger", mutants._set(HYBRID, "litellm_settings.callbacks", [])),
    ("another callback", _appended("litellm_settings.callbacks", "langfuse")),
    ("a bigger budget", mutants._set(HYBRID, "mushishi.budgets.groq", {"usd": 100.0, "period": "1d"})),
    ("no price", mutants._set(HYBRID, "model_list.4.litellm_params.input_cost_per_token", 0.0)),
    ("client credentials", mutants._set(HYBRID, "general_settings.allow_client_side_credentials", True)),
    ("an unknown key", mutants._set(HYBRID, "general_settings.what_nobody_thought_of", True)),
]


@pytest.mark.parametrize(("name", "document"), IN_HYBRID, ids=[name for name, _ in IN_HYBRID])
def test_a_hole_in_the_hybrid_document_is_refused(name: str, document: Raw) -> None:
    with pytest.raises(ProofError):
        prove_litellm(compiled.dump_yaml(document), POLICY, Plane.HYBRID)


# --- the engine door --------------------------------------------------------------------------------------------------

ROUTES = compiled.door_routes(POLICY)


def _route(name: str, **changed: Any) -> list[Raw]:
    return [{**route, **changed} if route["backend"] == name else dict(route) for route in ROUTES]


AT_THE_DOOR = [
    ("an engine elsewhere", _route("gpu", upstream_host="93.184.216.34")),
    ("a cloud's host", _route("cpu", upstream_host="api.groq.com", upstream_port=443)),
    ("another engine of the LAN", _route("gpu", upstream_host="10.88.0.11")),
    ("another port", _route("gpu", upstream_port=8001)),
    ("the host", _route("gpu", upstream_host="10.88.0.1")),
    ("another prefix", _route("gpu-forensic", prefix="/gpu/v1")),
    ("the forensic engine for both planes", _route("gpu-forensic", planes=["sovereign", "hybrid"])),
    ("an engine of T1 alone for both planes", _route("cpu-coder", planes=["sovereign", "hybrid"])),
    ("another mode", _route("gpu-forensic", mode="agent")),
    ("an engine of T1 for nobody", _route("gpu-forensic", planes=[])),
    ("a cloud backend", [*ROUTES, {**ROUTES[0], "backend": "groq"}]),
    ("one more", [*ROUTES, {**ROUTES[0], "backend": "other"}]),
    ("one twice", [*ROUTES[1:], ROUTES[1]]),
    ("one missing", ROUTES[1:]),
    ("a further key", _route("gpu", upstream_path="/metrics")),
    ("a missing key", [{key: value for key, value in route.items() if key != "engine"} for route in ROUTES]),
]


def test_the_routes_of_the_policy_are_accepted() -> None:
    prove_door(ROUTES, POLICY)


@pytest.mark.parametrize(("name", "routes"), AT_THE_DOOR, ids=[name for name, _ in AT_THE_DOOR])
def test_a_hole_in_the_door_is_refused(name: str, routes: list[Raw]) -> None:
    with pytest.raises(ProofError):
        prove_door(routes, POLICY)


@pytest.mark.parametrize(("name", "raw"), IN_POLICY, ids=[name for name, _ in IN_POLICY])
def test_a_hole_in_the_policy_is_refused_at_the_door(name: str, raw: Raw) -> None:
    """Where an engine that calls itself local answers elsewhere, the door would be the way out."""
    policy = parse_policy(raw)
    engines = policy.engines(Plane.SOVEREIGN)
    if all(_on_lan(backend.url) for backend in engines.values()):
        return  # the hole is in LiteLLM's document, where the proof above finds it
    with pytest.raises(ProofError, match="engine door"):
        compiled.door_routes(policy)


def test_each_document_is_refused_as_the_other_planes() -> None:
    for plane, other in ((Plane.SOVEREIGN, Plane.HYBRID), (Plane.HYBRID, Plane.SOVEREIGN)):
        with pytest.raises(ProofError):
            prove_litellm(compiled.render_litellm(POLICY, plane), POLICY, other)


def test_rules_for_admission_hold_nothing_of_the_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = default_policy()
    raw["backends"]["cpu"]["model"] = "api.groq.com"
    with pytest.raises(ProofError, match=r"private\.links\[1\]\.model.*the host of groq"):
        compiled.admission_rules(parse_policy(raw))


# --- generated --------------------------------------------------------------------------------------------------------

SLOW_TO_MAKE = settings(
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@SLOW_TO_MAKE
@given(raw=policies(with_t1=True), data=st.data())
def test_a_hole_in_any_policy_is_refused(raw: Raw, data: st.DataObject) -> None:
    load_policy(raw)
    _name, mutant = data.draw(st.sampled_from(mutants.policy_mutants(raw)))
    with pytest.raises(PolicyError):
        load_policy(mutant)
    with pytest.raises(PolicyError, match="leads from T1 to the cloud"):
        prove_policy(parse_policy(mutant))


@SLOW_TO_MAKE
@given(raw=policies(with_t1=True), data=st.data())
def test_a_hole_in_any_rendered_text_is_refused(raw: Raw, data: st.DataObject) -> None:
    policy = load_policy(raw)
    text = compiled.render_litellm(policy, Plane.SOVEREIGN)
    document = yaml.safe_load(text)
    planted = [*mutants.document_mutants(document, raw), *mutants.setting_mutants(document)]
    _name, mutant = data.draw(st.sampled_from([entry for entry in planted if entry[1] != document]))
    with pytest.raises(ProofError):
        prove_litellm(compiled.dump_yaml(mutant), policy, Plane.SOVEREIGN)
