# SPDX-License-Identifier: MIT
"""Holes to plant: each mutant has one way from a T1 profile out of the machine, in the policy or in the text."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from policy_samples import Raw

TERMINALS = ("queue", "error")
Mutant = tuple[str, Raw]
TextMutant = tuple[str, str]


def t1_profiles(raw: Raw) -> list[str]:
    """Sorted names of the profiles of tier T1."""
    return sorted(name for name, profile in raw["profiles"].items() if profile["tier"] == "T1")


def cloud_backends(raw: Raw) -> list[str]:
    """Sorted names of the cloud backends."""
    return sorted(name for name, backend in raw["backends"].items() if backend["location"] == "cloud")


def _changed(raw: Raw, path: tuple[str, ...], value: Any) -> Raw:
    """A copy with one value replaced or added."""
    mutant = copy.deepcopy(raw)
    held = mutant
    for step in path[:-1]:
        held = held[step]
    held[path[-1]] = value
    return mutant


# --- in the policy ----------------------------------------------------------------------------------------------------


def policy_mutants(raw: Raw) -> list[Mutant]:
    """Mutants of a policy that keep its *shape*: without rules and proof they compile, and they leak."""
    return [
        *_chain_mutants(raw),
        *_relabelled_backends(raw),
        *_urls_that_leave(raw),
    ]


def _chain_mutants(raw: Raw) -> Iterator[Mutant]:
    for profile in t1_profiles(raw):
        chain = raw["profiles"][profile]["chain"]
        links = [link for link in chain if link not in TERMINALS]
        for cloud in cloud_backends(raw):
            variants = {
                **{f"insert[{at}]": [*chain[:at], cloud, *chain[at:]] for at in range(len(chain) + 1)},
                **{f"replace[{at}]": [*chain[:at], cloud, *chain[at + 1 :]] for at in range(len(chain))},
                "open end": [*links, cloud],
                "alone": [cloud],
            }
            for how, variant in variants.items():
                yield f"{profile}: {how} {cloud}", _changed(raw, ("profiles", profile, "chain"), variant)


def _t1_engines(raw: Raw) -> list[str]:
    return sorted(
        {link for profile in t1_profiles(raw) for link in raw["profiles"][profile]["chain"] if link not in TERMINALS}
    )


def _relabelled_backends(raw: Raw) -> Iterator[Mutant]:
    """An engine's name now means a provider."""
    for engine in _t1_engines(raw):
        for cloud in cloud_backends(raw):
            mutant = copy.deepcopy(raw)
            mutant["backends"][engine] = copy.deepcopy(raw["backends"][cloud])
            yield f"{engine} is {cloud}", mutant


def _urls_that_leave(raw: Raw) -> Iterator[Mutant]:
    """An engine that calls itself local and answers elsewhere."""
    for engine in _t1_engines(raw):
        own = raw["backends"][engine]["url"]
        cloud = [raw["backends"][name]["url"] for name in cloud_backends(raw)]
        tricks = {
            own.replace("http://", "https://api.example.com/"),
            f"http://{urlsplit(own).netloc}@api.example.com:80/v1",
            own.replace("/v1", "@api.example.com:80/v1"),
            "http://api.example.com:80/v1",
            "http://93.184.216.34:8000/v1",
            "http://169.254.169.254:80/v1",
            "http://127.0.0.1:4000/v1",
            "http://[2001:db8::1]:8000/v1",
            "http://1572395042:8000/v1",
            "http://0x5db8d822:8000/v1",
            "http://10.88.1.10:8000/v1",
        }
        for url in [*cloud, *sorted(tricks)]:
            mutant = copy.deepcopy(raw)
            mutant["backends"][engine]["url"] = url
            yield f"{engine} at {url}", mutant


def shapeless_mutants(raw: Raw) -> list[Mutant]:
    """Mutants that already the shape refuses, or that name what is no backend."""
    found: list[Mutant] = []
    for profile in t1_profiles(raw):
        chain = raw["profiles"][profile]["chain"]
        for word in ("groq/llama-3.3-70b-versatile", f"{profile}.groq", "gpu,groq", "*", "openai/*", "os.environ/GROQ"):
            variant = [chain[0], word, *chain[1:]]
            found.append((f"{profile}: {word}", _changed(raw, ("profiles", profile, "chain"), variant)))
        for key in ("fallbacks", "default_fallbacks", "context_window_fallbacks", "alias", "cloud"):
            found.append((f"{profile}: key {key}", _changed(raw, ("profiles", profile, key), ["groq"])))
    for cloud in ("fallback", "explicit"):
        found.append((f"T1 cloud {cloud}", _changed(raw, ("tiers", "T1", "cloud"), cloud)))
    return found


# --- in the rendered document -----------------------------------------------------------------------------------------

ESCAPE = "escape"


def document_mutants(document: Raw, raw: Raw) -> list[Mutant]:
    """Mutants of a sovereign document, as parsed data: each has one T1→cloud edge, by one of LiteLLM's ways."""
    found: list[Mutant] = []
    for cloud in cloud_backends(raw):
        backend = raw["backends"][cloud]
        for profile in t1_profiles(raw):
            found += [(f"{how} ({profile}, {cloud})", m) for how, m in _edges(document, profile, backend)]
        for position, entry in enumerate(document["model_list"]):
            name = entry["model_name"]
            found += [(f"{how} ({name}, {cloud})", m) for how, m in _deployments(document, position, backend)]
    return _distinct(found)


def _distinct(found: list[Mutant]) -> list[Mutant]:
    """Each content once: some holes are the same whichever provider is at their end."""
    return list({json.dumps(content, sort_keys=True): (name, content) for name, content in found}.values())


def _deployment(name: str, backend: Raw) -> Raw:
    return {
        "model_name": name,
        "litellm_params": {
            "model": f"openai/{backend['model']}",
            "api_base": backend["url"],
            "api_key": f"os.environ/{backend['key'].upper()}",
        },
    }


def _edges(document: Raw, profile: str, backend: Raw) -> Iterator[Mutant]:
    """A group that leads to the cloud, and each of the ways by which a request for the profile gets there."""
    provider_string = f"{backend['provider']}/{backend['model']}"
    first = next(entry for entry in document["model_list"] if entry["model_name"] == profile)
    model = first["litellm_params"]["model"]
    inline = {"model": provider_string, "api_base": backend["url"], "api_key": "x"}

    def plant(section: str, key: str, value: Any, group: str | None = ESCAPE) -> Raw:
        mutant = copy.deepcopy(document)
        if group is not None:
            mutant["model_list"].append(_deployment(group, backend))
        held = mutant.setdefault(section, {})
        held[key] = [*held[key], *value] if isinstance(held.get(key), list) else value
        return mutant

    for section in ("router_settings", "litellm_settings"):
        for key in ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks"):
            yield f"{section}.{key}", plant(section, key, [{profile: [ESCAPE]}])
        yield f"{section}.fallbacks from *", plant(section, "fallbacks", [{"*": [ESCAPE]}])
        yield f"{section}.fallbacks to a provider", plant(section, "fallbacks", [{profile: [provider_string]}], None)
        yield f"{section}.default_fallbacks", plant(section, "default_fallbacks", [ESCAPE])
    router = "router_settings"
    yield "fallback from the model", plant(router, "fallbacks", [{model: [ESCAPE]}])
    yield "fallback from the bare model", plant(router, "fallbacks", [{model.split("/")[-1]: [ESCAPE]}])
    yield "fallback with parameters", plant(router, "fallbacks", [{profile: [inline]}], None)
    yield "fallback to a batch", plant(router, "fallbacks", [{profile: [f"{profile},{ESCAPE}"]}])
    yield "fallback taken by *", plant(router, "fallbacks", [{profile: ["gone"]}], "*")
    yield "fallback taken by openai/*", plant(router, "fallbacks", [{profile: ["openai/gone"]}], "openai/*")
    yield "alias, text", plant(router, "model_group_alias", {profile: ESCAPE})
    yield "alias, mapping", plant(router, "model_group_alias", {profile: {"model": ESCAPE, "hidden": True}})
    yield "alias to a provider", plant(router, "model_group_alias", {profile: provider_string}, None)
    yield "alias map", plant("litellm_settings", "model_alias_map", {profile: ESCAPE})
    yield "forced model", plant("general_settings", "completion_model", ESCAPE)
    team = {"router_settings": {"fallbacks": [{profile: [ESCAPE]}]}}
    yield "a team's own routing", plant("litellm_settings", "default_team_settings", [team])
    key_params = {"router_settings": {"fallbacks": [{profile: [ESCAPE]}]}, "aliases": {profile: ESCAPE}}
    yield "a key's own routing", plant("litellm_settings", "default_key_generate_params", key_params)
    yield "its group is gone", _without_group(document, profile)
    yield "its group is a wildcard", _renamed_to_wildcard(document, profile, backend)


def _without_group(document: Raw, profile: str) -> Raw:
    mutant = copy.deepcopy(document)
    mutant["model_list"] = [entry for entry in mutant["model_list"] if entry["model_name"] != profile]
    return mutant


def _renamed_to_wildcard(document: Raw, profile: str, backend: Raw) -> Raw:
    mutant = _without_group(document, profile)
    mutant["model_list"].append(_deployment(f"{profile[:2]}*", backend))
    return mutant


def _deployments(document: Raw, position: int, backend: Raw) -> Iterator[Mutant]:
    """A deployment of a T1 group that is somewhere else."""
    group = document["model_list"][position]["model_name"]

    def plant(**params: Any) -> Raw:
        mutant = copy.deepcopy(document)
        held = mutant["model_list"][position]["litellm_params"]
        held.update(params)
        for name in [name for name, value in params.items() if value is None]:
            del held[name]
        return mutant

    provider_string = f"{backend['provider']}/{backend['model']}"
    twin = copy.deepcopy(document)
    twin["model_list"].append(_deployment(group, backend))
    yield "another deployment shares the name", twin
    yield "api_base is the provider's", plant(api_base=backend["url"])
    yield "no api_base", plant(api_base=None, model=provider_string)
    yield "base_url beside api_base", plant(base_url=backend["url"])
    yield "a deployment's own fallbacks", plant(fallbacks=[provider_string])
    yield "a deployment's own overflow", plant(context_window_fallback_dict={group: provider_string})


def setting_mutants(document: Raw) -> list[Mutant]:
    """Settings by which content, or the choice of where it goes, leaves the proven document."""
    away = "https://collector.example.com/v1"
    planted: list[tuple[str, Any]] = [
        ("general_settings.pass_through_endpoints", [{"path": "/away", "target": away}]),
        ("litellm_settings.callbacks", ["langfuse"]),
        ("litellm_settings.callbacks", ["mushishi_gateway_budget.ledger"]),
        ("litellm_settings.success_callback", ["langfuse"]),
        ("litellm_settings.failure_callback", ["sentry"]),
        ("litellm_settings.service_callback", ["datadog"]),
        ("litellm_settings.input_callback", ["lunary"]),
        ("litellm_settings.audit_log_callbacks", ["s3_v2"]),
        ("litellm_settings.callback_settings", {"otel": {"endpoint": away}}),
        ("general_settings.alerting", ["slack"]),
        ("general_settings.alert_to_webhook_url", {"budget_alerts": away}),
        ("search_tools", [{"search_tool_name": "s", "litellm_params": {"search_provider": "perplexity"}}]),
        ("mcp_servers", {"tools": {"url": away}}),
        ("mcp_tools", [{"name": "t"}]),
        ("vector_store_registry", [{"vector_store_name": "v", "litellm_params": {"custom_llm_provider": "openai"}}]),
        ("guardrails", [{"guardrail_name": "g", "litellm_params": {"guardrail": "lakera", "mode": "pre_call"}}]),
        ("prompts", [{"prompt_id": "p", "litellm_params": {"model": "groq/llama-3.3-70b-versatile"}}]),
        ("litellm_settings.cache", True),
        ("litellm_settings.cache_params", {"type": "redis", "host": "cache.example.com"}),
        ("router_settings.redis_host", "cache.example.com"),
        ("router_settings.redis_url", "redis://cache.example.com:6379"),
        ("general_settings.database_url", "postgresql://db.example.com/litellm"),
        ("general_settings.store_model_in_db", True),
        ("general_settings.allow_client_side_credentials", True),
        ("litellm_settings.allow_client_side_credentials", False),
        ("general_settings.enforce_fallback_model_access", False),
        ("general_settings.custom_auth", "other_auth.authenticate"),
        ("general_settings.master_key", "os.environ/GROQ_API_KEY"),
        ("general_settings.custom_auth_run_common_checks", False),
        ("litellm_settings.enable_post_custom_auth_checks", False),
        ("litellm_settings.disable_hf_tokenizer_download", False),
        ("litellm_settings.telemetry", True),
        ("litellm_settings.telemetry", 0),
        ("litellm_settings.request_timeout", 600),
        ("litellm_settings.num_retries", 2),
        ("litellm_settings.num_retries", False),
        ("router_settings.num_retries", 1),
        ("router_settings.retry_policy", {"TimeoutErrorRetries": 3}),
        ("router_settings.model_group_retry_policy", {"private": {"TimeoutErrorRetries": 3}}),
        ("router_settings.enable_tag_filtering", True),
        ("router_settings.routing_strategy", "latency-based-routing"),
        ("router_settings.disable_cooldowns", False),
        ("router_settings.optional_pre_call_checks", ["prompt_caching"]),
        ("general_settings.background_health_checks", True),
        ("general_settings.disable_model_info_refresh", False),
        ("general_settings.proxy_config_url", away),
        ("model_list.0.litellm_params.configurable_clientside_auth_params", ["api_base"]),
        ("model_list.0.litellm_params.litellm_credential_name", "groq"),
        ("model_list.0.litellm_params.tags", ["cloud"]),
        ("model_list.0.litellm_params.max_retries", 2),
        ("model_list.0.litellm_params.custom_llm_provider", "groq"),
        ("model_list.0.litellm_params.organization", "os.environ/GROQ_API_KEY"),
        ("model_list.0.litellm_params.extra_body", {"cache_salt": "shared"}),
        ("model_list.0.litellm_params.extra_headers", {"x-forward": away}),
        ("model_list.0.litellm_params.mock_response", "no answer"),
        ("model_list.0.litellm_params.model", "groq/llama-3.3-70b-versatile"),
        ("model_list.0.litellm_params.api_base", "os.environ/GROQ_API_BASE"),
        ("model_list.0.litellm_params.api_key", "gsk_planted"),
        ("model_list.0.model_info.access_groups", ["personal"]),
        ("model_list.0.model_info.base_model", "groq/llama-3.3-70b-versatile"),
        ("environment_variables", {"OPENAI_API_BASE": away}),
        ("include", ["more.yaml"]),
        ("credential_list", [{"credential_name": "groq", "credential_values": {"api_key": "x"}}]),
        ("files_settings", [{"custom_llm_provider": "openai"}]),
        ("finetune_settings", [{"custom_llm_provider": "openai"}]),
        ("mushishi", {"budgets": {}}),
        ("policies", {"p": {}}),
        ("what_nobody_thought_of", True),
        ("router_settings.what_nobody_thought_of", away),
        ("general_settings.what_nobody_thought_of", "collector.example.com"),
    ]
    return [(f"{path} = {json.dumps(value)}", _set(document, path, value)) for path, value in planted]


def _set(document: Raw, path: str, value: Any) -> Raw:
    mutant = copy.deepcopy(document)
    held: Any = mutant
    *way, last = path.split(".")
    for step in way:
        held = held[int(step)] if isinstance(held, list) else held[step]
    held[last] = value
    return mutant


def text_mutants(text: str, raw: Raw) -> list[TextMutant]:
    """Mutants that only exist in the text: what YAML itself can hide."""
    cloud = raw["backends"][cloud_backends(raw)[0]]
    entry = json.dumps(_deployment(ESCAPE, cloud))
    profile = t1_profiles(raw)[0]
    escape = f"router_settings:\n  fallbacks:\n  - {profile}: [{ESCAPE}]\n"
    base = "    api_base: "
    return [
        ("the same section twice", f"{text}{escape}"),
        ("a second document", f"{text}---\n{escape}"),
        ("the same key twice in a deployment", text.replace(base, f"{base}{cloud['url']}\n{base}", 1)),
        (
            "a merge key",
            text.replace("router_settings:\n", f"router_settings:\n  <<: {{default_fallbacks: [{ESCAPE}]}}\n"),
        ),
        ("an anchor", text.replace("- model_name:", "- &one\n  model_name:", 1)),
        ("a tag", text.replace("telemetry: false", "telemetry: !!str false")),
        ("a tag of Python", text.replace("telemetry: false", "telemetry: !!python/name:os.system")),
        ("a group in flow style", text.replace("model_list:\n", f"model_list:\n- {entry}\n")),
        ("a host in a comment", f"# {cloud['url']}\n{text}"),
        ("no mapping at all", f"- {entry}\n"),
        ("broken YAML", f"{text}\n  : :\n - ["),
        ("a key that is no text", f"{text}1: {cloud['url']}\n"),
        ("nothing", ""),
    ]
