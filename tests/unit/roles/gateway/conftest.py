# SPDX-License-Identifier: MIT
"""Makes the gateway's programs importable, with small stand-ins for the parts of LiteLLM that its two hooks import."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).parents[4] / "roles" / "gateway" / "files" / "mushishi_gateway"
sys.path.insert(0, str(PROGRAMS))
sys.path.insert(0, str(PROGRAMS.parent))  # the package prober


class ProxyException(Exception):
    """Keeps what the hook gives to LiteLLM's own error."""

    def __init__(self, **given: Any) -> None:
        super().__init__(given["message"])
        self.given = given


class UserAPIKeyAuth:
    """Keeps what the hook lets LiteLLM know of a client."""

    def __init__(self, **given: Any) -> None:
        self.given = given


class RateLimitError(Exception):
    """LiteLLM's 429."""

    def __init__(self, message: str, llm_provider: str, model: str) -> None:
        super().__init__(message)


class CustomLogger:
    """LiteLLM's base class of callbacks."""


async def _read_request_body(request: Any) -> Any:
    return request.body


def _module(name: str, **content: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module


if "litellm" not in sys.modules:
    for package in ("litellm", "litellm.integrations", "litellm.proxy", "litellm.proxy.common_utils"):
        _module(package)
    _module("litellm.exceptions", RateLimitError=RateLimitError)
    _module("litellm.integrations.custom_logger", CustomLogger=CustomLogger)
    _module("litellm.proxy._types", ProxyException=ProxyException, UserAPIKeyAuth=UserAPIKeyAuth)
    _module("litellm.proxy.common_utils.http_parsing_utils", _read_request_body=_read_request_body)
    _module("litellm.proxy.proxy_server", llm_router=None)
