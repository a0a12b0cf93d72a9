# SPDX-License-Identifier: MIT
"""LiteLLM's callback that keeps the provider budgets of the policy.

The arithmetic and the file are in ``mushishi_gateway_ledger``. Loaded by LiteLLM from the name in
``litellm_settings.callbacks``. ``MUSHISHI_GATEWAY_CONFIG`` names the configuration (its key ``mushishi.budgets``),
``MUSHISHI_GATEWAY_LEDGER`` the ledger's file. Where the ledger cannot be opened LiteLLM does not start; where it cannot
be written the cloud link is refused and the chain goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from litellm.exceptions import RateLimitError
from litellm.integrations.custom_logger import CustomLogger
from mushishi_gateway_ledger import Budget, BudgetSpent, Ledger, Price, prompt_bound

#: Parts of a request that reach the model as tokens, beside the messages.
_PROMPT_FIELDS = ("tools", "tool_choice", "response_format")

#: Status codes with which a provider says that it did not do the work.
_REFUSED = frozenset({400, 401, 402, 403, 404, 413, 422, 429, 500, 502, 503})

#: Errors of the HTTP client for a connection that never stood.
_NEVER_CONNECTED = frozenset({"ConnectError", "ConnectTimeout"})

#: How far a chain of causes is followed.
_LONGEST_CAUSE = 8


def open_ledger(environment: Mapping[str, str]) -> Ledger:
    """Open the ledger with the budgets of the configuration. Raises when either is missing or malformed."""
    config = yaml.safe_load(Path(environment["MUSHISHI_GATEWAY_CONFIG"]).read_text(encoding="utf-8"))
    budgets = config["mushishi"]["budgets"]
    return Ledger(
        Path(environment["MUSHISHI_GATEWAY_LEDGER"]),
        {provider: Budget.read(entry["usd"], entry["period"]) for provider, entry in budgets.items()},
    )


def worst_case(deployment: Mapping[str, Any], messages: object, request: Mapping[str, Any]) -> int | None:
    """The most a request can cost at a deployment, in nanodollars; ``None`` where the deployment has no price."""
    params, info = deployment.get("litellm_params") or {}, deployment.get("model_info") or {}
    price = Price.read(params)
    if price is None:
        return None
    prompt = [messages, *(request[field] for field in _PROMPT_FIELDS if request.get(field) is not None)]
    text = json.dumps(prompt, ensure_ascii=False, default=str)
    count = len(messages) if isinstance(messages, list) else 1
    answer = request.get("max_tokens") or params.get("max_tokens")
    if not isinstance(answer, int) or answer < 1:
        return None
    return price.cost(prompt_bound(text, count, info.get("max_input_tokens")), answer)


def was_refused(error: BaseException | None) -> bool:
    """True when the provider certainly did no work: it was not reached, or it answered with an error status.

    LiteLLM gives even a lost connection a status of its own, so the first error of the client library ``openai`` in the
    chain of causes decides. Later ones in that chain belong to earlier links.
    """
    for _unused in range(_LONGEST_CAUSE):
        if error is None:
            return False
        if type(error).__module__ == "openai":
            if hasattr(error, "status_code"):
                return error.status_code in _REFUSED
            return type(error.__cause__).__name__ in _NEVER_CONNECTED
        error = error.__cause__ or error.__context__
    return False


class BudgetHook(CustomLogger):  # type: ignore[misc]  # LiteLLM is not installed where types are checked
    """Reserves before a cloud request leaves, settles or releases after it."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: Any
    ) -> dict[str, Any]:
        """Name the bound of an answer one way: every provider knows ``max_tokens``, not all know the newer name."""
        newer = data.pop("max_completion_tokens", None)
        if newer is not None:
            data["max_tokens"] = newer
        return data

    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: list[dict[str, Any]],
        messages: list[Any] | None,
        request_kwargs: dict[str, Any] | None = None,
        parent_otel_span: Any = None,
    ) -> list[dict[str, Any]]:
        """Reserve the worst case of this group's one deployment. Raises a 429 if the budget does not hold it."""
        request = request_kwargs or {}
        for deployment in healthy_deployments:
            info = deployment.get("model_info") or {}
            provider = info.get("provider")
            if provider is not None and self.ledger.has_budget(provider):
                self._reserve(model, provider, deployment, messages, request)
        return healthy_deployments

    def _reserve(
        self, model: str, provider: str, deployment: dict[str, Any], messages: object, request: dict[str, Any]
    ) -> None:
        worst = worst_case(deployment, messages, request)
        call = request.get("litellm_call_id")
        if worst is None or not call:
            raise RateLimitError(
                f"provider {provider} has a budget, and the most this request can cost is not known", provider, model
            )
        try:
            self.ledger.reserve(f"{call} {deployment['model_info']['id']}", provider, worst)
        except BudgetSpent as spent:
            raise RateLimitError(str(spent), provider, model) from None

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Settle at the provider's own count. An answer that the client left before its end stays at its worst case."""
        usage = getattr(response_obj, "usage", None)
        params = kwargs.get("litellm_params") or {}
        price = Price.read(params.get("model_info") or {}) or Price.read(params)
        if usage is None or price is None or (params.get("metadata") or {}).get("client_disconnected"):
            return
        self.ledger.settle(_charge(kwargs, params), price.cost(usage.prompt_tokens, usage.completion_tokens))

    async def async_post_call_failure_deployment_hook(
        self,
        request_data: Mapping[str, Any],
        exception: BaseException,
        call_type: Any,
        fallback_depth: int | None = None,
    ) -> None:
        """Release what a provider refused before its first token. A time-out or a cut answer stays counted.

        LiteLLM's ``async_log_failure_event`` is no use here: it fires once for a request, not once for each link.
        """
        if was_refused(exception):
            self.ledger.release(_charge(request_data, request_data))


def _charge(kwargs: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    return f"{kwargs.get('litellm_call_id')} {(params.get('model_info') or {}).get('id')}"


ledger = BudgetHook(open_ledger(os.environ))
