# SPDX-License-Identifier: MIT
"""The cloud providers that are stood in for: names, base paths, keys, error shapes (from their API references)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ErrorBody = Callable[[int, str], dict[str, Any]]


@dataclass(frozen=True)
class Provider:
    """One provider as its clients see it."""

    name: str
    host: str
    bases: tuple[str, ...]
    """Base paths, without the slash at the end; the longest that fits wins."""
    key: str
    """The key that the lab gives to its clients."""
    models: tuple[str, ...]
    """What the model list shows; completions take any model name."""
    error: ErrorBody
    extra: Mapping[str, object]
    """Members of its answers beyond the common ones; clients rely on some."""
    greeting: bytes = b""
    """What a stream begins with."""

    def route(self, path: str) -> str | None:
        """The part of `path` below a base path (``chat/completions``), None outside."""
        for base in self.bases:
            if path.startswith(base + "/"):
                return path[len(base) + 1 :]
        return None


def _openai_error(status: int, message: str) -> dict[str, Any]:
    kinds = {
        401: ("invalid_request_error", "invalid_api_key"),
        404: ("invalid_request_error", "unknown_url"),
        429: ("tokens", "rate_limit_exceeded"),
        500: ("internal_server_error", None),
    }
    kind, code = kinds.get(status, ("invalid_request_error", None))
    return {"error": {"message": message, "type": kind, "code": code}}


def _nvidia_error(status: int, message: str) -> dict[str, Any]:
    titles = {
        401: "Unauthorized",
        404: "Not Found",
        429: "Too Many Requests",
        500: "Internal Server Error",
    }
    return {
        "status": status,
        "title": titles.get(status, "Bad Request"),
        "detail": message,
    }


def _openrouter_error(status: int, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "code": status}}


def _deepseek_error(status: int, message: str) -> dict[str, Any]:
    kinds = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error"}
    return {
        "error": {
            "message": message,
            "type": kinds.get(status, "invalid_request_error"),
            "param": None,
            "code": None if status >= 500 else "invalid_request_error",
        }
    }


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider(
            "nvidia_nim",
            "integrate.api.nvidia.com",
            ("/v1",),
            "lab-nvidia-key",
            ("moonshotai/kimi-k2.6",),
            _nvidia_error,
            {},
        ),
        Provider(
            "groq",
            "api.groq.com",
            ("/openai/v1",),
            "lab-groq-key",
            ("llama-3.3-70b-versatile",),
            _openai_error,
            {
                "service_tier": "on_demand",
                "system_fingerprint": "fp_standin",
                "x_groq": {"id": "req_standin"},
            },
        ),
        Provider(
            "openrouter",
            "openrouter.ai",
            ("/api/v1",),
            "lab-openrouter-key",
            ("meta-llama/llama-3.3-70b-instruct", "moonshotai/kimi-k2.6"),
            _openrouter_error,
            {"provider": "stand-in", "system_fingerprint": None},
            b": OPENROUTER PROCESSING\n\n",
        ),
        Provider(
            "deepseek",
            "api.deepseek.com",
            ("/beta", "/v1", ""),
            "lab-deepseek-key",
            ("deepseek-chat", "deepseek-reasoner"),
            _deepseek_error,
            {"system_fingerprint": "fp_standin"},
        ),
    )
}

FAULTS: dict[str, float | None] = {
    "ok": None,
    "refuse": None,
    "reset": None,
    "hang": None,
    "429": 30.0,
    "500": None,
    "cut": 3.0,
    "slow": 5.0,
}
"""What a provider can be told, with the default number of those that take one (seconds, or chunks for ``cut``)."""
