# SPDX-License-Identifier: MIT
"""What a policy compiles into for LiteLLM, on each plane."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.litellm import (
    LitellmError,
    Options,
    cloud_key_env,
    compile_litellm,
)
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.model import Plane, Policy
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.validate import load_policy
from policy_samples import default_policy


@pytest.fixture
def policy() -> Policy:
    return load_policy(default_policy())


def _deployments(compiled: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["model_info"]["id"]: entry for entry in compiled["model_list"]}


def test_each_link_is_one_group_with_one_deployment(policy: Policy) -> None:
    for plane in Plane:
        compiled = compile_litellm(policy, plane)
        groups = [entry["model_name"] for entry in compiled["model_list"]]
        assert len(groups) == len(set(groups))
        assert groups == [link.group for chain in policy.chains(plane) for link in chain.links]
        assert set(_deployments(compiled)) == {
            f"{chain.profile}/{link.backend_name}" for chain in policy.chains(plane) for link in chain.links
        }


def test_chain_of_personal_is_walked_in_the_order_of_the_policy(policy: Policy) -> None:
    compiled = compile_litellm(policy, "hybrid")
    fallbacks = {name: groups for entry in compiled["router_settings"]["fallbacks"] for name, groups in entry.items()}
    assert fallbacks["personal"] == ["personal.cpu", "personal.kimi", "personal.groq", "personal.openrouter"]
    assert compiled["router_settings"]["max_fallbacks"] >= 5
    assert "planning" not in fallbacks


def test_sovereign_output_knows_no_cloud(policy: Policy) -> None:
    compiled = compile_litellm(policy, "sovereign")
    text = json.dumps(compiled)
    assert set(re.findall(r"os\.environ/(\w+)", text)) <= {"LLAMA_API_KEY", "LITELLM_MASTER_KEY"}
    assert all(entry["model_info"]["location"] == "local" for entry in compiled["model_list"])
    assert "https" not in text
    assert "callbacks" not in compiled["litellm_settings"]
    assert "mushishi" not in compiled


@pytest.mark.parametrize(
    ("plane", "door"), [("sovereign", "http://127.0.0.1:4022"), ("hybrid", "http://10.88.0.2:4021")]
)
def test_engines_are_reached_through_the_door_only(policy: Policy, plane: str, door: str) -> None:
    compiled = compile_litellm(policy, plane)
    local = [entry for entry in compiled["model_list"] if entry["model_info"]["location"] == "local"]
    assert local
    for entry in local:
        backend = entry["model_info"]["id"].split("/")[1]
        assert entry["litellm_params"]["api_base"] == f"{door}/{backend}/v1"


def test_every_deployment_is_bounded_and_never_retried(policy: Policy) -> None:
    for plane in Plane:
        compiled = compile_litellm(policy, plane)
        assert compiled["router_settings"]["num_retries"] == compiled["litellm_settings"]["num_retries"] == 0
        assert compiled["router_settings"]["disable_cooldowns"] is True
        for entry in compiled["model_list"]:
            params = entry["litellm_params"]
            backend = policy.backends[entry["model_info"]["id"].split("/")[1]]
            assert params["max_retries"] == 0
            assert (params["timeout"], params["stream_timeout"]) == (backend.timeout, backend.stream_timeout)
            # The only code path of LiteLLM that honours max_retries.
            assert params["model"] == f"openai/{backend.model}"
        assert "request_timeout" not in json.dumps(compiled)


def test_prices_are_dollars_for_a_token(policy: Policy) -> None:
    kimi = _deployments(compile_litellm(policy, "hybrid"))["personal/kimi"]
    backend = policy.backends["kimi"]
    assert kimi["litellm_params"]["input_cost_per_token"] == pytest.approx(backend.price.input_usd_per_mtok / 1e6)
    assert kimi["litellm_params"]["output_cost_per_token"] == pytest.approx(backend.price.output_usd_per_mtok / 1e6)
    assert kimi["litellm_params"]["max_tokens"] == 16384
    assert kimi["model_info"]["provider"] == "nvidia_nim"
    assert kimi["model_info"]["max_input_tokens"] == backend.context_length


def test_each_cloud_deployment_names_its_own_key(policy: Policy) -> None:
    names = {
        entry["model_info"]["id"].split("/")[1]: entry["litellm_params"]["api_key"]
        for entry in compile_litellm(policy, "hybrid")["model_list"]
        if entry["model_info"]["location"] == "cloud"
    }
    assert names == {
        name: f"os.environ/CLOUD_KEY_{backend.key.upper()}"
        for name, backend in policy.backends.items()
        if backend.location == "cloud"
    }
    assert cloud_key_env("my-key_2") == "CLOUD_KEY_MY_KEY_2"


def test_engines_that_share_a_cache_get_a_salt_per_profile(policy: Policy) -> None:
    for plane in Plane:
        for entry in compile_litellm(policy, plane)["model_list"]:
            profile, name = entry["model_info"]["id"].split("/")
            shares = getattr(policy.backends[name], "engine", "") == "vllm"
            assert entry["litellm_params"].get("extra_body") == ({"cache_salt": profile} if shares else None)


def test_budget_of_nothing_takes_the_cloud_links_away(policy: Policy) -> None:
    assert policy.profiles["coordination"].cloud_budget_usd == 0
    ids = set(_deployments(compile_litellm(policy, "hybrid")))
    assert {name for name in ids if name.startswith("coordination/")} == {"coordination/gpu", "coordination/cpu"}


def test_budgets_are_those_of_the_providers_in_use(policy: Policy) -> None:
    budgets = compile_litellm(policy, "hybrid")["mushishi"]["budgets"]
    assert budgets == {
        name: {"usd": float(budget.usd), "period": budget.period} for name, budget in sorted(policy.budgets.items())
    }


def test_litellm_opens_no_connection_of_its_own(policy: Policy) -> None:
    for plane in Plane:
        compiled = compile_litellm(policy, plane)
        general, settings = compiled["general_settings"], compiled["litellm_settings"]
        assert general["disable_model_info_refresh"] is True
        assert general["background_health_checks"] is False
        assert settings["telemetry"] is False
        assert settings["disable_hf_tokenizer_download"] is True


def test_same_policy_gives_the_same_bytes_whatever_the_order_of_its_keys() -> None:
    raw = default_policy()
    turned = json.loads(json.dumps(raw))
    for section in ("backends", "profiles", "budgets"):
        turned[section] = dict(reversed(list(turned[section].items())))
    for plane in Plane:
        first = json.dumps(compile_litellm(load_policy(raw), plane))
        assert first == json.dumps(compile_litellm(load_policy(turned), plane))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"door": "x"}, "'door' is not known"),
        ({"max_answer_tokens": 0}, "above 0"),
        ({"max_answer_tokens": True}, "above 0"),
        ({"max_answer_tokens": "many"}, "above 0"),
    ],
)
def test_bad_options_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(LitellmError, match=re.escape(said)):
        Options.read(given)


def test_budget_without_a_price_cannot_be_kept(policy: Policy) -> None:
    kimi = policy.backends["kimi"].model_copy(update={"price": None})
    broken = policy.model_copy(update={"backends": {**policy.backends, "kimi": kimi}})
    with pytest.raises(LitellmError, match=r"backends\.kimi\.price is missing"):
        compile_litellm(broken, "hybrid")
