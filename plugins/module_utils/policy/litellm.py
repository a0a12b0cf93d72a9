# SPDX-License-Identifier: MIT
"""Compiles a policy into the LiteLLM configuration of one plane.

What comes out is a plain dict, ready to be rendered as YAML. It is a closed shape: every key that may appear is written
in this file, and ``proof.py`` refuses a rendered file that holds any other. The reasons for each setting were measured
on LiteLLM 1.108.5; ``docs/decisions/`` holds the figures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .model import Chain, CloudBackend, Link, LocalBackend, Plane, Policy

#: Most tokens a cloud answer may have when the request names no bound itself. It also bounds what one request can cost.
DEFAULT_MAX_ANSWER_TOKENS = 16384

#: Environment variable with the key of the llama.cpp servers, set by the launcher from a systemd credential.
LLAMA_KEY_ENV = "LLAMA_API_KEY"

#: Environment variable with LiteLLM's own admin key: random at every start, known to nobody.
MASTER_KEY_ENV = "LITELLM_MASTER_KEY"

#: The two hooks of ours that LiteLLM loads (roles/gateway/files).
AUTH_HOOK = "mushishi_gateway_auth.authenticate"
BUDGET_HOOK = "mushishi_gateway_budget.ledger"

#: LiteLLM's provider prefix, the same for every backend: all of them speak the OpenAI protocol, and only this code path
#: honours ``max_retries: 0`` (measured: the ``nvidia_nim/`` path sends three requests where one was asked for).
PROVIDER_PREFIX = "openai"

#: vLLM has no key of its own (nobody but the plane reaches it); the client library insists on a value.
NO_KEY = "none"

_TOKENS_PER_PRICE = 1_000_000
_NOT_ENV = re.compile(r"[^A-Z0-9]")


class LitellmError(ValueError):
    """The policy or an option cannot be compiled; the message names the object, the value and the remedy."""


@dataclass(frozen=True)
class Options:
    """What is not policy: the bound of a cloud answer in tokens."""

    max_answer_tokens: int = DEFAULT_MAX_ANSWER_TOKENS

    @classmethod
    def read(cls, given: Mapping[str, Any] | None) -> Options:
        """Build options from a mapping (``None``: defaults). Raises :class:`LitellmError` for a bad name or value."""
        values = dict(given or {})
        known = sorted(field.name for field in fields(cls))
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise LitellmError(f"litellm option {unknown[0]!r} is not known: use one of {', '.join(known)}")
        options = cls(**values)
        tokens = options.max_answer_tokens
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise LitellmError(f"litellm option max_answer_tokens is {tokens!r}: give a number of tokens above 0")
        return options


def compile_litellm(policy: Policy, plane: Plane | str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Compile the configuration of the gateway of one plane.

    Args:
        policy: a validated policy.
        plane: ``sovereign`` or ``hybrid``.
        options: see :class:`Options`.

    Returns:
        The configuration as plain data. The same policy gives the same data, in the same order.

    Raises:
        LitellmError: for an unknown option, and for a provider with a budget whose backend has no price.
    """
    where = Plane(plane)
    chosen = Options.read(options)
    chains = policy.chains(where)
    _check_prices(policy, chains)
    compiled: dict[str, Any] = {
        "model_list": [_deployment(policy, chain, link, chosen) for chain in chains for link in chain.links],
        "router_settings": _router_settings(chains),
        "litellm_settings": _litellm_settings(where),
        "general_settings": _general_settings(),
    }
    if where is Plane.HYBRID:
        compiled["mushishi"] = {"budgets": _budgets(policy, chains)}
    return compiled


def cloud_key_env(key_name: str) -> str:
    """The environment variable that carries a cloud key: ``nvidia`` → ``CLOUD_KEY_NVIDIA``.

    Never a name that LiteLLM knows by itself (``GROQ_API_KEY`` …): only the deployment that names a key may use it.
    """
    return "CLOUD_KEY_" + _NOT_ENV.sub("_", key_name.upper())


def _deployment(policy: Policy, chain: Chain, link: Link, options: Options) -> dict[str, Any]:
    return {
        "model_name": link.group,
        "litellm_params": _litellm_params(policy, chain, link, options),
        "model_info": _model_info(link),
    }


def _litellm_params(policy: Policy, chain: Chain, link: Link, options: Options) -> dict[str, Any]:
    backend = link.backend
    params: dict[str, Any] = {
        "model": f"{PROVIDER_PREFIX}/{backend.model}",
        "api_base": _api_base(policy, chain, link),
        "api_key": _api_key(backend),
        "timeout": backend.timeout,
        "stream_timeout": backend.stream_timeout,
        "max_retries": 0,
        **_prices(backend),
    }
    if isinstance(backend, CloudBackend):
        params["max_tokens"] = min(options.max_answer_tokens, backend.context_length)
    elif backend.engine == "vllm":
        params["extra_body"] = {"cache_salt": chain.profile}
    return params


def _model_info(link: Link) -> dict[str, Any]:
    info: dict[str, Any] = {"id": link.deployment_id, "mode": "chat", "location": link.backend.location}
    if isinstance(link.backend, CloudBackend):
        # Read by the budget ledger: whose budget it is, and the most tokens a prompt can have.
        info["provider"] = link.backend.provider
        info["max_input_tokens"] = link.backend.context_length
    return info


def _api_base(policy: Policy, chain: Chain, link: Link) -> str:
    """An engine is called through the door, on either plane: the door cuts what a hung engine keeps waiting."""
    if link.local:
        return f"{policy.door_url(chain.plane)}/{link.backend_name}/v1"
    return link.backend.url


def _api_key(backend: LocalBackend | CloudBackend) -> str:
    if isinstance(backend, CloudBackend):
        return f"os.environ/{cloud_key_env(backend.key)}"
    return f"os.environ/{LLAMA_KEY_ENV}" if backend.engine == "llama.cpp" else NO_KEY


def _prices(backend: LocalBackend | CloudBackend) -> dict[str, float]:
    """Dollars for a token, in and out. Always written: else LiteLLM looks the model up in a price table of its own."""
    price = backend.price if isinstance(backend, CloudBackend) else None
    return {
        "input_cost_per_token": price.input_usd_per_mtok / _TOKENS_PER_PRICE if price else 0.0,
        "output_cost_per_token": price.output_usd_per_mtok / _TOKENS_PER_PRICE if price else 0.0,
    }


def _router_settings(chains: list[Chain]) -> dict[str, Any]:
    return {
        "routing_strategy": "simple-shuffle",
        "num_retries": 0,
        # LiteLLM stops after 5 by itself; a longer chain would lose its last links.
        "max_fallbacks": max([1, *(len(chain.links) for chain in chains)]),
        # A backend that is back answers the very next request.
        "disable_cooldowns": True,
        "fallbacks": [
            {chain.profile: [link.group for link in chain.links[1:]]} for chain in chains if len(chain.links) > 1
        ],
    }


def _litellm_settings(plane: Plane) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "num_retries": 0,
        "telemetry": False,
        "drop_params": True,
        "disable_hf_tokenizer_download": True,
        "enable_post_custom_auth_checks": True,
        "turn_off_message_logging": True,
        "suppress_debug_info": True,
    }
    if plane is Plane.HYBRID:
        settings["callbacks"] = [BUDGET_HOOK]
    return settings


def _general_settings() -> dict[str, Any]:
    return {
        "master_key": f"os.environ/{MASTER_KEY_ENV}",
        "custom_auth": AUTH_HOOK,
        "custom_auth_run_common_checks": True,
        "enforce_fallback_model_access": True,
        "allow_client_side_credentials": False,
        "store_model_in_db": False,
        "disable_spend_logs": True,
        "background_health_checks": False,
        # Else LiteLLM asks every deployment, cloud ones included, for its model list at start and every 5 minutes.
        "disable_model_info_refresh": True,
    }


def _cloud_links(chains: list[Chain]) -> list[tuple[Chain, Link, CloudBackend]]:
    links = [(chain, link) for chain in chains for link in chain.links]
    return [(chain, link, link.backend) for chain, link in links if isinstance(link.backend, CloudBackend)]


def _budgets(policy: Policy, chains: list[Chain]) -> dict[str, dict[str, Any]]:
    used = {backend.provider for _chain, _link, backend in _cloud_links(chains)}
    return {
        provider: {"usd": float(budget.usd), "period": budget.period}
        for provider, budget in sorted(policy.budgets.items())
        if provider in used
    }


def _check_prices(policy: Policy, chains: list[Chain]) -> None:
    """A budget can only be kept where the price is known."""
    for chain, link, backend in _cloud_links(chains):
        if backend.provider in policy.budgets and backend.price is None:
            raise LitellmError(
                f"backends.{link.backend_name}.price is missing: profile {chain.profile} uses it and provider "
                f"{backend.provider} has a budget, which cannot be kept without a price; "
                f"give input_usd_per_mtok and output_usd_per_mtok"
            )
