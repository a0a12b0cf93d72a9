# SPDX-License-Identifier: MIT
"""Who is let in, and with what: the rules, and the gate that applies them to real ASGI traffic."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import mushishi_gateway_rules as rules
import mushishi_gateway_serve as serve
import pytest

FALLBACKS = [{"personal": ["personal.cpu", "personal.kimi"]}]
CONFIG = {
    "model_list": [{"model_name": name} for name in ("personal", "personal.cpu", "personal.kimi", "planning")],
    "router_settings": {"fallbacks": FALLBACKS},
}
PROFILES = frozenset({"personal", "planning"})
MESSAGES = [{"role": "user", "content": "hello"}]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


CLIENTS = rules.Clients({_digest("sk-personal"): "personal", _digest("sk-planning"): "planning"})


def _body(**more: Any) -> dict[str, Any]:
    return {"model": "personal", "messages": MESSAGES, **more}


def test_profiles_are_the_groups_that_nothing_falls_back_to() -> None:
    assert rules.profiles_of(CONFIG) == PROFILES
    with pytest.raises(KeyError):
        rules.profiles_of({"model_list": [], "router_settings": []})


def test_profile_reaches_its_own_chain_and_nothing_else() -> None:
    assert rules.allowed_groups("personal", FALLBACKS) == ["personal", "personal.cpu", "personal.kimi"]
    assert rules.allowed_groups("planning", FALLBACKS) == ["planning"]


@pytest.mark.parametrize("key", ["", None, "sk-", "sk-personal ", _digest("sk-personal")])
def test_unknown_key_is_a_401(key: str | None) -> None:
    with pytest.raises(rules.Refusal) as refused:
        CLIENTS.profile_of(key)
    assert refused.value.status == 401


def test_known_key_opens_its_profile() -> None:
    assert CLIENTS.profile_of("sk-personal") == (_digest("sk-personal"), "personal")


def test_plain_request_passes() -> None:
    assert rules.check_body(_body(stream=True, temperature=0.5, tools=[]), "personal", PROFILES) == "personal"


@pytest.mark.parametrize(
    "model", ["planning", "personal.kimi", "personal,planning", "nvidia_nim/x", "*", "", None, 3, ["personal"]]
)
def test_another_model_is_a_403(model: object) -> None:
    with pytest.raises(rules.Refusal) as refused:
        rules.check_body(_body(model=model), "personal", PROFILES)
    assert refused.value.status == 403


@pytest.mark.parametrize(
    "field",
    [
        *("fallbacks", "context_window_fallbacks", "api_base", "base_url", "api_key", "user_config", "model_list"),
        *("extra_body", "extra_headers", "metadata", "litellm_metadata", "router_settings_override", "mock_response"),
        *("num_retries", "timeout", "specific_deployment", "custom_llm_provider", "guardrails", "callbacks", "cache"),
        *("cache_salt", "chat_template_kwargs", "web_search_options", "functions", "prompt_id", "never_heard_of"),
    ],
)
def test_field_that_is_not_listed_is_a_400(field: str) -> None:
    with pytest.raises(rules.Refusal) as refused:
        rules.check_body(_body(**{field: "x"}), "personal", PROFILES)
    assert (refused.value.status, refused.value.field) == (400, field)


def test_one_answer_to_a_request() -> None:
    assert rules.check_body(_body(n=1), "personal", PROFILES)
    with pytest.raises(rules.Refusal):
        rules.check_body(_body(n=2), "personal", PROFILES)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_id": "https://example.org/a.pdf"}},
        {"type": "file", "file": {"file_data": "data:,x"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "image_url", "image_url": "http://10.88.0.2/"},
        {"type": "image_url"},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AA"}},
        {"type": ["text"]},
        "text",
    ],
)
def test_content_that_must_be_fetched_is_a_400(part: object) -> None:
    with pytest.raises(rules.Refusal) as refused:
        rules.check_body(_body(messages=[{"role": "user", "content": [part]}]), "personal", PROFILES)
    assert refused.value.status == 400


FUNCTION = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "tools",
    [
        {"type": "function"},
        "function",
        [FUNCTION, {"type": "web_search"}],
        [{"type": "mcp", "server_url": "https://example.org", "require_approval": "never"}],
        [{**FUNCTION, "server_url": "https://example.org"}],
        [{"googleSearch": {}}],
        [{"type": "function"}],
        [{"type": ["function"], "function": {}}],
        ["function"],
        [None],
    ],
)
@pytest.mark.parametrize("profile", ["personal", None], ids=["a key of a profile", "admission"])
def test_a_tool_that_somebody_else_would_run_is_a_400(tools: object, profile: str | None) -> None:
    assert rules.check_body(_body(tools=[FUNCTION]), profile, PROFILES) == "personal", "control: functions pass"
    with pytest.raises(rules.Refusal) as refused:
        rules.check_body(_body(tools=tools), profile, PROFILES)
    assert (refused.value.status, refused.value.code) == (400, "tool_not_allowed")


@pytest.mark.parametrize("messages", [None, [], "x", [3], [{"role": "user", "content": 3}]])
def test_messages_of_another_shape_are_a_400(messages: object) -> None:
    with pytest.raises(rules.Refusal):
        rules.check_body(_body(messages=messages), "personal", PROFILES)


def test_admission_may_name_any_profile_and_send_what_engines_read() -> None:
    body = _body(model="planning", top_k=5, cache_salt="s", n=2)
    body["messages"] = [{"role": "user", "content": [{"type": "file", "file": {"file_data": "data:,x"}}]}]
    assert rules.check_body(body, None, PROFILES) == "planning"
    for bad in ({"model": "personal.kimi"}, {"model": "nobody"}, {"fallbacks": []}, {"user": "x"}):
        with pytest.raises(rules.Refusal):
            rules.check_body(_body(**bad), None, PROFILES)
    part = {"type": "file", "file": {"file_data": "data:,x", "file_id": "https://example.org"}}
    with pytest.raises(rules.Refusal):
        rules.check_body(_body(messages=[{"role": "user", "content": [part]}]), None, PROFILES)


def test_credentials_are_read_once_and_checked(tmp_path: Path) -> None:
    index, single = tmp_path / "clients.json", tmp_path / "client.key"
    index.write_text(json.dumps({_digest("k"): "personal"}))
    single.write_text("k\n")
    assert rules.load_clients({"MUSHISHI_GATEWAY_INDEX": str(index)}).profile_of("k")[1] == "personal"
    assert rules.load_clients({"MUSHISHI_GATEWAY_KEY": str(single)}).profile_of("k")[1] is None
    for given in ({}, {"MUSHISHI_GATEWAY_INDEX": str(index), "MUSHISHI_GATEWAY_KEY": str(single)}):
        with pytest.raises(RuntimeError):
            rules.load_clients(given)
    single.write_text("\n")
    with pytest.raises(ValueError, match="empty"):
        rules.load_clients({"MUSHISHI_GATEWAY_KEY": str(single)})
    for bad in ("[]", "{", '{"short": "personal"}', json.dumps({_digest("k"): ""})):
        index.write_text(bad)
        with pytest.raises(ValueError, match=r"clients\.json"):
            rules.load_clients({"MUSHISHI_GATEWAY_INDEX": str(index)})


class _Application:
    """Records what reaches LiteLLM, and answers like it."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.scope: Any = None
        self.body = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        if scope["type"] == "http" and scope["method"] == "POST":
            self.body = (await receive())["body"]
        headers = [(b"content-type", b"application/json"), (b"x-litellm-model-id", b"personal/gpu")]
        headers += [(b"x-litellm-model-api-base", b"http://10.88.0.10"), (b"x-litellm-key-spend", b"1")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})


def _ask(
    method: str = "POST",
    path: str = "/v1/chat/completions",
    query: bytes = b"",
    key: str | None = "sk-personal",
    body: bytes | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    upstream: int = 200,
) -> tuple[int, dict[str, Any], dict[bytes, bytes], _Application]:
    application = _Application(upstream)
    sent: list[Any] = []
    content = json.dumps(_body()).encode() if body is None else body
    pieces = [{"type": "http.request", "body": content[:7], "more_body": True}]
    pieces += [{"type": "http.request", "body": content[7:], "more_body": False}]

    async def receive() -> Any:
        return pieces.pop(0) if pieces else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    given = list(headers) + ([(b"authorization", f"Bearer {key}".encode())] if key is not None else [])
    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": given}
    asyncio.run(serve.Gate(application, CLIENTS, PROFILES)(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"]), dict(sent[0]["headers"]), application


def test_gate_sends_on_a_request_that_it_built() -> None:
    status, _, headers, application = _ask(
        body=json.dumps(_body(user="someone")).encode(),
        headers=((b"x-litellm-tags", b"cloud"), (b"cookie", b"a=b"), (b"x-litellm-timeout", b"0.1")),
    )
    assert status == 200
    assert json.loads(application.body) == _body()
    assert application.scope["query_string"] == b""
    assert {name for name, _ in application.scope["headers"]} == {
        b"host",
        b"content-type",
        b"content-length",
        b"authorization",
    }
    assert headers == {b"content-type": b"application/json", b"x-litellm-model-id": b"personal/gpu"}


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ({"key": None}, 401, "invalid_api_key"),
        ({"key": "nobody"}, 401, "invalid_api_key"),
        ({"headers": ((b"authorization", b"Bearer sk-planning"),)}, 401, "invalid_api_key"),
        ({"query": b"model=planning"}, 400, "query_not_allowed"),
        ({"path": "/chat/completions"}, 404, "unknown_route"),
        ({"path": "/v1/chat/completions/"}, 404, "unknown_route"),
        ({"path": "/engines/planning/chat/completions"}, 404, "unknown_route"),
        ({"path": "/health", "method": "GET"}, 404, "unknown_route"),
        ({"path": "/health/liveliness"}, 404, "unknown_route"),
        ({"method": "PUT"}, 404, "unknown_route"),
        ({"body": b"{"}, 400, "not_json"),
        ({"body": b"[1]"}, 400, "not_json"),
        ({"body": b"[" * 100_000}, 400, "not_json"),
        ({"body": b'{"model":"planning","model":"personal","messages":[]}'}, 400, "not_json"),
        ({"body": json.dumps(_body(model="planning")).encode()}, 403, "model_not_allowed"),
        ({"body": json.dumps(_body(api_base="http://192.0.2.1")).encode()}, 400, "field_not_allowed"),
    ],
)
def test_gate_refuses_with_a_reason(given: dict[str, Any], status: int, code: str) -> None:
    got, answer, _, application = _ask(**given)
    assert (got, answer["error"]["code"]) == (status, code)
    assert application.scope is None


@pytest.mark.parametrize(
    ("upstream", "status"), [(401, 502), (403, 502), (404, 502), (408, 504), (500, 500), (429, 429), (400, 400)]
)
def test_fault_of_a_provider_is_not_said_to_be_the_clients(upstream: int, status: int) -> None:
    assert _ask(upstream=upstream)[0] == status


def test_gate_limits_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "MAX_BODY", 10)
    status, answer, _, application = _ask()
    assert (status, answer["error"]["code"]) == (413, "body_too_large")
    assert application.scope is None


def test_gate_answers_liveliness_and_models() -> None:
    assert _ask("GET", "/health/liveliness", key=None)[0] == 200
    status, _, _, application = _ask("GET", "/v1/models")
    assert status == 200
    assert application.scope["path"] == "/v1/models"


def test_gate_passes_start_and_closes_sockets() -> None:
    application = _Application()
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    gate = serve.Gate(application, CLIENTS, PROFILES)
    asyncio.run(gate({"type": "websocket"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
    asyncio.run(gate({"type": "lifespan"}, receive, send))
    assert application.scope == {"type": "lifespan"}


def test_what_is_left_out_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    modules: dict[str, Any] = {}
    serve.leave_out(modules)
    for name, nothing in modules.items():
        monkeypatch.setitem(sys.modules, name, nothing)
        with pytest.raises(ImportError, match=r"None in sys\.modules"):
            importlib.import_module(name)
    assert modules


def test_before_the_first_request_the_process_settles() -> None:
    kept, prices = gc.get_threshold(), {"somebody's model": {"input_cost_per_token": 1.0}}
    try:
        serve.settle(prices)
        assert prices == {} and gc.get_threshold() == serve.GARBAGE and gc.get_freeze_count() > 0
        assert gc.isenabled(), "garbage is looked for less often, not never"
    finally:
        gc.set_threshold(*kept)
        gc.unfreeze()
