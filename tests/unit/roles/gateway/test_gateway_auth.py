# SPDX-License-Identifier: MIT
"""LiteLLM's auth hook: the same rules once more, and the limits it gives to LiteLLM."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FALLBACKS = [{"personal": ["personal.cpu"]}]


class _Router:
    fallbacks = FALLBACKS

    def get_model_names(self) -> list[str]:
        return ["personal", "personal.cpu", "planning"]


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    index = tmp_path / "clients.json"
    index.write_text(json.dumps({hashlib.sha256(b"sk-personal").hexdigest(): "personal"}))
    monkeypatch.setenv("MUSHISHI_GATEWAY_INDEX", str(index))
    monkeypatch.setattr(sys.modules["litellm.proxy.proxy_server"], "llm_router", _Router())
    sys.modules.pop("mushishi_gateway_auth", None)
    return importlib.import_module("mushishi_gateway_auth")


def _request(path: str = "/v1/chat/completions", method: str = "POST", **body: Any) -> Any:
    return SimpleNamespace(
        method=method,
        url=SimpleNamespace(path=path, query=""),
        body={"model": "personal", "messages": [{"role": "user", "content": "x"}], **body},
    )


def test_client_is_limited_to_its_own_groups(hook: Any) -> None:
    client = asyncio.run(hook.authenticate(_request(), "sk-personal"))
    assert client.given["models"] == ["personal", "personal.cpu"]
    assert client.given["key_alias"] == "personal"
    assert "sk-personal" not in str(client.given)


def test_model_list_names_the_profile_alone(hook: Any) -> None:
    client = asyncio.run(hook.authenticate(_request("/v1/models", "GET"), "sk-personal"))
    assert client.given["models"] == ["personal"]


@pytest.mark.parametrize(
    ("key", "body", "status"),
    [
        ("nobody", {}, 401),
        ("sk-personal", {"model": "planning"}, 403),
        ("sk-personal", {"fallbacks": ["planning"]}, 400),
    ],
)
def test_refusal_is_litellms_own_error(hook: Any, key: str, body: dict[str, Any], status: int) -> None:
    error = sys.modules["litellm.proxy._types"].ProxyException
    with pytest.raises(error) as refused:
        asyncio.run(hook.authenticate(_request(**body), key))
    assert refused.value.given["code"] == status


def test_nothing_is_let_in_before_the_router_is_there(hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["litellm.proxy.proxy_server"], "llm_router", None)
    with pytest.raises(sys.modules["litellm.proxy._types"].ProxyException) as refused:
        asyncio.run(hook.authenticate(_request(), "sk-personal"))
    assert refused.value.given["code"] == 503


def test_litellm_does_not_start_without_a_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSHISHI_GATEWAY_INDEX", raising=False)
    monkeypatch.delenv("MUSHISHI_GATEWAY_KEY", raising=False)
    sys.modules.pop("mushishi_gateway_auth", None)
    with pytest.raises(RuntimeError):
        importlib.import_module("mushishi_gateway_auth")
