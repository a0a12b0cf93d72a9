# SPDX-License-Identifier: MIT
"""LiteLLM's ``custom_auth`` hook: one key per profile, without a database.

Loaded by LiteLLM from the name in ``general_settings.custom_auth``. What it decides is in
``mushishi_gateway_rules``; what it returns makes LiteLLM check the same limits a second time, on the first group and
on each fallback.

The credential is named by the environment: ``MUSHISHI_GATEWAY_INDEX`` (the hybrid gateway: an index of profile keys)
or ``MUSHISHI_GATEWAY_KEY`` (the sovereign gateway: the one key of admission). It is read when LiteLLM starts; where it
is missing or unreadable LiteLLM does not start.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from litellm.proxy._types import ProxyException, UserAPIKeyAuth
from litellm.proxy.common_utils.http_parsing_utils import _read_request_body
from mushishi_gateway_rules import (
    Refusal,
    allowed_groups,
    check_body,
    check_route,
    first_links,
    load_clients,
)

if TYPE_CHECKING:
    from fastapi import Request


CLIENTS = load_clients(os.environ)


async def authenticate(request: Request, api_key: str) -> UserAPIKeyAuth:
    """Let a request in, or raise LiteLLM's own error (400, 401, 403, 404) for it."""
    try:
        return await _admit(request, api_key)
    except Refusal as refusal:
        kind = "authentication_error" if refusal.status == 401 else "invalid_request_error"
        raise ProxyException(
            message=refusal.message,
            type=kind,
            param=refusal.field,
            code=refusal.status,
            openai_code=refusal.code,
        ) from None


async def _admit(request: Request, api_key: str) -> UserAPIKeyAuth:
    # Imported here: LiteLLM sets it after it has loaded this file.
    from litellm.proxy.proxy_server import llm_router

    if llm_router is None:
        raise Refusal(503, "not_ready", "The gateway is starting. Ask again in a few seconds.")
    digest, profile = CLIENTS.profile_of(api_key)
    fallbacks = llm_router.fallbacks
    profiles = first_links(llm_router.get_model_names(), fallbacks)
    completion = check_route(request.method, request.url.path, request.url.query)
    if completion:
        # The same reader, and so the same view of the body, as LiteLLM's own.
        name = check_body(await _read_request_body(request), profile, profiles)
        models = allowed_groups(name, fallbacks)
    else:
        name = profile or "admission"
        models = sorted(profiles) if profile is None else [profile]
    return UserAPIKeyAuth(api_key=digest, models=models, key_alias=name, user_id=name)
