# SPDX-License-Identifier: MIT
"""What passes and what does not: every refused request leaves the gateway untouched."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from admission_standin import GATEWAY_KEY, KEYS, Service

CANARY = "canary-7f3a9c"
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


def base(**fields: Any) -> dict[str, Any]:
    return {"model": "private", "messages": [{"role": "user", "content": CANARY}], **fields}


def part(content: object) -> dict[str, Any]:
    return {"model": "private", "messages": [{"role": "user", "content": [content]}]}


def turns(*messages: object) -> dict[str, Any]:
    return {"messages": list(messages)}


def test_control_the_stand_in_gateway_records_what_it_gets(service: Service) -> None:
    """Without this every 'nothing arrived' below would prove nothing."""
    answer = service.chat(base())
    assert answer.status_code == 200
    assert len(service.gateway.seen) == 1
    assert CANARY in service.gateway.seen[0].body.decode()


REFUSED_FIELDS: dict[str, tuple[object, str | None]] = {
    # other models
    "model-cloud": (base(model="cloud-fallback"), "model"),
    "model-provider": (base(model="groq/llama-3.3-70b-versatile"), "model"),
    "model-nvidia": (base(model="nvidia_nim/moonshotai/kimi-k2.6"), "model"),
    "model-comma": (base(model="private,cloud-fallback"), "model"),
    "model-other-profile": (base(model="personal"), "model"),
    "model-link": (base(model="private.cpu"), "model"),
    "model-wildcard": (base(model="*"), "model"),
    "model-url": (base(model="http://203.0.113.9/v1"), "model"),
    "model-case": (base(model="Private"), "model"),
    "model-space": (base(model="private "), "model"),
    "model-empty": (base(model=""), "model"),
    "model-list": (base(model=["private"]), "model"),
    "model-object": (base(model={"id": "private"}), "model"),
    "model-number": (base(model=1), "model"),
    # fallbacks in every shape
    "fallbacks-list": (base(fallbacks=["cloud-fallback"]), "fallbacks"),
    "fallbacks-map": (base(fallbacks=[{"private": ["cloud-fallback"]}]), "fallbacks"),
    "fallbacks-model": (base(fallbacks=[{"model": "cloud-fallback"}]), "fallbacks"),
    "fallbacks-star": (base(fallbacks=[{"*": ["cloud-fallback"]}]), "fallbacks"),
    "fallbacks-null": (base(fallbacks=None), "fallbacks"),
    "fallbacks-empty": (base(fallbacks=[]), "fallbacks"),
    "fallbacks-stream": (base(stream=True, fallbacks=["cloud-fallback"]), "fallbacks"),
    "context-fallbacks": (base(context_window_fallbacks=[{"private": ["x"]}]), "context_window_fallbacks"),
    "content-fallbacks": (base(content_policy_fallbacks=[{"private": ["x"]}]), "content_policy_fallbacks"),
    "default-fallbacks": (base(default_fallbacks=["x"]), "default_fallbacks"),
    "override": (base(router_settings_override={"fallbacks": [{"private": ["x"]}]}), "router_settings_override"),
    "mock-fallbacks": (base(mock_testing_fallbacks=True), "mock_testing_fallbacks"),
    "mock-response": (base(mock_response="x"), "mock_response"),
    "fastest": (base(fastest_response=True), "fastest_response"),
    "num-retries": (base(num_retries=3), "num_retries"),
    # destinations and credentials
    "api-base": (base(api_base="http://203.0.113.9/v1"), "api_base"),
    "base-url": (base(base_url="http://203.0.113.9/v1"), "base_url"),
    "api-key": (base(api_key="sk-x"), "api_key"),
    "api-version": (base(api_version="1"), "api_version"),
    "organization": (base(organization="os.environ/HOME"), "organization"),
    "user-config": (base(user_config={"model_list": []}), "user_config"),
    "models": (base(model_list=[{"model_name": "private"}]), "model_list"),
    "provider": (base(custom_llm_provider="openai"), "custom_llm_provider"),
    "credential": (base(litellm_credential_name="x"), "litellm_credential_name"),
    "litellm-params": (base(litellm_params={"api_base": "http://203.0.113.9"}), "litellm_params"),
    "extra-body": (base(extra_body={"api_base": "http://203.0.113.9"}), "extra_body"),
    "extra-headers": (base(extra_headers={"x": "y"}), "extra_headers"),
    "extra-query": (base(extra_query={"model": "x"}), "extra_query"),
    "headers": (base(headers={"x": "y"}), "headers"),
    "deployment": (base(specific_deployment=True), "specific_deployment"),
    "deployment-id": (base(deployment_id="x"), "deployment_id"),
    "vertex": (base(vertex_project="x"), "vertex_project"),
    "aws": (base(aws_bedrock_runtime_endpoint="http://203.0.113.9"), "aws_bedrock_runtime_endpoint"),
    # tags, logging and plug-ins
    "metadata": (base(metadata={"model_group": "cloud-fallback"}), "metadata"),
    "metadata-tags": (base(metadata={"tags": ["cloud"]}), "metadata"),
    "litellm-metadata": (base(litellm_metadata={"deployment": "x"}), "litellm_metadata"),
    "tags": (base(tags=["cloud"]), "tags"),
    "guardrails": (base(guardrails=["x"]), "guardrails"),
    "callbacks": (base(callbacks=["langfuse"]), "callbacks"),
    "success-callback": (base(success_callback=["x"]), "success_callback"),
    "langfuse": (base(langfuse_host="http://203.0.113.9"), "langfuse_host"),
    "langfuse-key": (base(langfuse_public_key="x"), "langfuse_public_key"),
    "cache": (base(cache={"no-cache": True}), "cache"),
    "caching": (base(caching=True), "caching"),
    "prompt-id": (base(prompt_id="x"), "prompt_id"),
    "prompt-variables": (base(prompt_variables={"a": "b"}), "prompt_variables"),
    "template": (base(chat_template="{{ x }}"), "chat_template"),
    "template-kwarg": (base(chat_template_kwargs={"chat_template": "x"}), "chat_template_kwargs.chat_template"),
    "template-documents": (base(documents=[{"text": "x"}]), "documents"),
    "mm-kwargs": (base(mm_processor_kwargs={}), "mm_processor_kwargs"),
    "lora": (base(lora_request={"path": "/x"}), "lora_request"),
    "kv-transfer": (base(kv_transfer_params={"remote_host": "203.0.113.9"}), "kv_transfer_params"),
    "cache-salt": (base(cache_salt="guess"), "cache_salt"),
    "slot": (base(id_slot=0), "id_slot"),
    "grammar": (base(grammar="root ::= x"), "grammar"),
    "guided": (base(guided_regex="x"), "guided_regex"),
    "functions": (base(functions=[{"name": "f"}]), "functions"),
    "function-call": (base(function_call="auto"), "function_call"),
    "store": (base(store=True), "store"),
    "service-tier": (base(service_tier="flex"), "service_tier"),
    "web-search": (base(web_search_options={}), "web_search_options"),
    "modalities": (base(modalities=["audio"]), "modalities"),
    "audio-out": (base(audio={"voice": "x", "format": "wav"}), "audio"),
    "prediction": (base(prediction={"type": "content", "content": "x"}), "prediction"),
    "previous": (base(previous_response_id="resp_x"), "previous_response_id"),
    "input": (base(input="x"), "input"),
    "prompt": (base(prompt="x"), "prompt"),
    "unknown": (base(nobody_listed_this=1), "nobody_listed_this"),
    "dunder": (base(__class__="x"), "__class__"),
    # tools
    "tool-search": (base(tools=[{"type": "web_search"}]), "tools[0].type"),
    "tool-mcp": (
        base(tools=[{"type": "mcp", "server_url": "http://203.0.113.9", "server_label": "x"}]),
        "tools[0].type",
    ),
    "tool-file-search": (base(tools=[{"type": "file_search", "vector_store_ids": ["x"]}]), "tools[0].type"),
    "tool-extra": (
        base(tools=[{"type": "function", "function": {"name": "f"}, "server_url": "http://203.0.113.9"}]),
        "tools[0].server_url",
    ),
    "tool-function-extra": (
        base(tools=[{"type": "function", "function": {"name": "f", "url": "x"}}]),
        "tools[0].function.url",
    ),
    "tool-name": (base(tools=[{"type": "function", "function": {"name": "a b"}}]), "tools[0].function.name"),
    "tool-ref": (
        base(tools=[{"type": "function", "function": {"name": "f", "parameters": {"$ref": "http://203.0.113.9/s"}}}]),
        "tools[0].function.parameters",
    ),
    "tool-choice": (base(tool_choice="any"), "tool_choice"),
    "tool-choice-mcp": (base(tool_choice={"type": "mcp", "server_label": "x"}), "tool_choice.type"),
    "format-ref": (
        base(
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "s", "schema": {"items": [{"$ref": "file:///etc/passwd"}]}},
            }
        ),
        "response_format.json_schema.schema",
    ),
    "format-type": (base(response_format={"type": "regex"}), "response_format"),
    "format-extra": (base(response_format={"type": "text", "url": "x"}), "response_format.url"),
    # sampling
    "n-zero": (base(n=0), "n"),
    "n-many": (base(n=1000), "n"),
    "temperature": (base(temperature=9), "temperature"),
    "temperature-text": (base(temperature="1"), "temperature"),
    "tokens-zero": (base(max_tokens=0), "max_tokens"),
    "tokens-bool": (base(max_tokens=True), "max_tokens"),
    "tokens-float": (base(max_tokens=1.5), "max_tokens"),
    "seed-huge": (base(seed=2**70), "seed"),
    "stop-many": (base(stop=["x"] * 99), "stop"),
    "bias-key": (base(logit_bias={"x": 1}), None),
    "stream-text": (base(stream="true"), "stream"),
    "stream-options": (base(stream_options={"include_obfuscation": True}), "stream_options.include_obfuscation"),
    "effort": (base(reasoning_effort="extreme"), "reasoning_effort"),
    # messages
    "no-messages": ({"model": "private"}, "messages"),
    "empty-messages": ({"messages": []}, "messages"),
    "messages-text": ({"messages": "x"}, "messages"),
    "message-text": (turns("x"), "messages[0]"),
    "role": (turns({"role": "root", "content": "x"}), "messages[0]"),
    "role-function": (turns({"role": "function", "name": "f", "content": "x"}), "messages[0]"),
    "no-role": (turns({"content": "x"}), "messages[0]"),
    "no-content": (turns({"role": "user"}), "messages[0].content"),
    "null-content": (turns({"role": "user", "content": None}), "messages[0].content"),
    "message-extra": (turns({"role": "user", "content": "x", "cache_control": {}}), "messages[0].cache_control"),
    "message-prefix": (turns({"role": "assistant", "content": "x", "prefix": True}), "messages[0].prefix"),
    "assistant-audio": (turns({"role": "assistant", "content": "x", "audio": {"id": "a"}}), "messages[0].audio"),
    "assistant-empty": (turns({"role": "assistant"}), "messages[0]"),
    "assistant-image": (
        turns({"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}),
        "messages[0].content[0]",
    ),
    "system-image": (
        turns({"role": "system", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}),
        "messages[0].content[0].type",
    ),
    "tool-call-type": (
        turns({"role": "assistant", "tool_calls": [{"id": "1", "type": "mcp", "function": {}}]}),
        "messages[0].tool_calls[0].type",
    ),
    # content parts
    "part-unknown": (part({"type": "magic"}), "messages[0].content[0]"),
    "part-untyped": (part({"text": "x"}), "messages[0].content[0]"),
    "part-text": (part("x"), "messages[0].content[0]"),
    "part-extra": (part({"type": "text", "text": "x", "url": "y"}), "messages[0].content[0].url"),
    "part-both": (
        part({"type": "text", "text": "x", "image_url": {"url": "http://203.0.113.9"}}),
        "messages[0].content[0].image_url",
    ),
    "file-id-url": (
        part({"type": "file", "file": {"file_id": f"https://203.0.113.9/{CANARY}.pdf", "format": "application/pdf"}}),
        "messages[0].content[0].file.file_data",
    ),
    "file-id": (part({"type": "file", "file": {"file_id": "file-abc"}}), "messages[0].content[0].file.file_data"),
    "file-id-too": (
        part({"type": "file", "file": {"file_id": "file-abc", "file_data": PNG}}),
        "messages[0].content[0].file.file_data",
    ),
    "file-id-valid-data": (
        part({"type": "file", "file": {"file_id": "https://203.0.113.9", "file_data": "QUJD"}}),
        "messages[0].content[0].file.file_id",
    ),
    "file-data-url": (
        part({"type": "file", "file": {"file_data": "https://203.0.113.9/x"}}),
        "messages[0].content[0].file.file_data",
    ),
    "file-format": (
        part({"type": "file", "file": {"file_data": "QUJD", "format": "application/pdf"}}),
        "messages[0].content[0].file.format",
    ),
    "file-name": (
        part({"type": "file", "file": {"file_data": "QUJD", "filename": "../../etc/passwd"}}),
        "messages[0].content[0].file.filename",
    ),
    "input-file": (part({"type": "input_file", "file_url": "https://203.0.113.9"}), "messages[0].content[0]"),
    "audio-url-field": (
        part({"type": "input_audio", "input_audio": {"data": "https://203.0.113.9/a", "format": "wav"}}),
        "messages[0].content[0].input_audio.data",
    ),
    "audio-format": (
        part({"type": "input_audio", "input_audio": {"data": "QUJD", "format": "m3u8"}}),
        "messages[0].content[0].input_audio.format",
    ),
    "image-flat": (part({"type": "image_url", "image_url": PNG}), "messages[0].content[0].image_url"),
    "image-format": (
        part({"type": "image_url", "image_url": {"url": PNG, "format": "x"}}),
        "messages[0].content[0].image_url.format",
    ),
}


@pytest.mark.parametrize("case", REFUSED_FIELDS)
def test_refused_body_names_the_field_and_reaches_nobody(service: Service, case: str) -> None:
    document, param = REFUSED_FIELDS[case]
    answer = service.chat(document)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    if param is not None:
        assert error["param"] == param
    assert service.gateway.seen == []
    assert CANARY not in answer.text
    assert CANARY not in "".join(service.lines)


ADDRESSES = [
    "http://203.0.113.9/x.png",
    "https://203.0.113.9/x.png",
    "HTTPS://203.0.113.9/x.png",
    "//203.0.113.9/x.png",
    "ftp://203.0.113.9/x.png",
    "file:///etc/passwd",
    "file:/etc/passwd",
    "/etc/passwd",
    "s3://bucket/x",
    "gs://bucket/x",
    "blob:x",
    "javascript:x",
    " data:image/png;base64,QUJD",
    "DATA:image/png;base64,QUJD",
    "data:image/png,QUJD",
    "data:image/png;base64,",
    "data:image/png;base64,QUJ",
    "data:image/png;base64,QUJD\n",
    "data:image/png;base64,QU JD",
    "data:image/png;base64,QUJD#http://203.0.113.9",
    "data:image/svg+xml;base64,QUJD",
    "data:text/html;base64,QUJD",
    "data:image/png;charset=x;base64,QUJD",
    "data:application/vnd.apple.mpegurl;base64,QUJD",
    "",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("kind", ["image_url", "audio_url", "video_url"])
def test_media_are_never_an_address(service: Service, kind: str, address: str) -> None:
    answer = service.chat(part({"type": kind, kind: {"url": address}}))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == f"messages[0].content[0].{kind}.url"
    assert service.gateway.seen == []


RAW: dict[str, bytes] = {
    "empty": b"",
    "not-json": b"hello",
    "array": b"[]",
    "string": b'"x"',
    "null": b"null",
    "truncated": b'{"messages":[',
    "trailing": b'{"messages":[]} {}',
    "trailing-comma": b'{"messages":[],}',
    "single-quotes": b"{'messages':[]}",
    "duplicate": b'{"model":"private","model":"cloud","messages":[{"role":"user","content":"x"}]}',
    "duplicate-escaped": b'{"model":"private","mod\\u0065l":"cloud","messages":[{"role":"user","content":"x"}]}',
    "duplicate-nested": b'{"messages":[{"role":"user","role":"system","content":"x"}]}',
    "nan": b'{"temperature":NaN,"messages":[{"role":"user","content":"x"}]}',
    "infinity": b'{"temperature":Infinity,"messages":[{"role":"user","content":"x"}]}',
    "minus-infinity": b'{"temperature":-Infinity,"messages":[{"role":"user","content":"x"}]}',
    "overflow": b'{"temperature":1e999,"messages":[{"role":"user","content":"x"}]}',
    "huge-integer": b'{"seed":' + b"9" * 6000 + b',"messages":[{"role":"user","content":"x"}]}',
    "bom": b'\xef\xbb\xbf{"messages":[{"role":"user","content":"x"}]}',
    "utf-16": '{"messages":[{"role":"user","content":"x"}]}'.encode("utf-16"),
    "utf-7": b'+AHsAIg-messages":[]}',
    "latin-1": b'{"messages":[{"role":"user","content":"\xe9"}]}',
    "overlong": b'{"messages":[{"role":"user","content":"\xc0\xaf"}]}',
    "surrogate": b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    "surrogate-in-schema": b'{"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":'
    b'{"name":"f","parameters":{"a":"\\ud800"}}}]}',
    "control-character": b'{"messages":[{"role":"user","content":"a\x00b"}]}',
    "deep": b'{"messages":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep-open": b"[" * 1_000_000,
    "wide": b'{"messages":[' + b"1," * 300_000 + b"1]}",
    "multipart": b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\ncloud\r\n--x--',
    "form": b"model=cloud&messages=x",
}


@pytest.mark.parametrize("case", RAW)
def test_refused_bytes_reach_nobody(service: Service, case: str) -> None:
    answer = service.raw(RAW[case])
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert service.gateway.seen == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"content_type": "multipart/form-data; boundary=x"}, 415),
        ({"content_type": "application/json; charset=utf-16"}, 415),
        ({"content_type": "application/json, text/plain"}, 415),
        ({"content_encoding": "gzip"}, 415),
        ({"content_encoding": "identity"}, 415),
        ({"content_length": "99999999999"}, 413),
        ({"content_length": "-1"}, 413),
    ],
)
def test_body_headers(service: Service, headers: dict[str, str], status: int) -> None:
    answer = service.raw(json.dumps(base()).encode(), **headers)
    assert answer.status_code == status
    assert service.gateway.seen == []


def test_body_that_lies_about_its_length_is_cut_at_the_bound(service: Service) -> None:
    body = json.dumps(base(stop="x" * (21 * 1024 * 1024))).encode()
    answer = service.raw(body, content_length="10")
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"
    assert service.gateway.seen == []


def test_query_string_is_dropped(service: Service) -> None:
    answer = service.chat(base(), path="/v1/chat/completions?model=cloud-fallback&api_base=http://203.0.113.9")
    assert answer.status_code == 200
    (seen,) = service.gateway.seen
    assert (seen.path, seen.query) == (b"/v1/chat/completions", b"")
    assert seen.json["model"] == "private"
    assert b"cloud" not in seen.body


def test_only_own_headers_are_sent_on(service: Service) -> None:
    hostile = {
        "x-litellm-tags": "cloud",
        "x-litellm-model": "cloud",
        "x-litellm-fallbacks": "cloud",
        "x-litellm-api-base": "http://203.0.113.9",
        "x-litellm-timeout": "0.0001",
        "x-api-key": "client-words",
        "cookie": "client-words=1",
        "x-forwarded-for": "203.0.113.9",
        "forwarded": "for=203.0.113.9",
        "traceparent": "00-client-words",
        "openai-organization": "client-words",
        "user-agent": "client-words",
        "x-http-method-override": "DELETE",
    }
    for _ in range(2):  # twice: a cookie set by the gateway must not come back either
        assert service.chat(base(), headers=hostile).status_code == 200
    for seen in service.gateway.seen:
        sent = {name.decode(): value.decode() for name, value in seen.headers}
        assert set(sent) <= {
            "host", "accept", "accept-encoding", "connection", "user-agent", "authorization", "content-type",
            "content-length",
        }  # fmt: skip
        assert sent["authorization"] == f"Bearer {GATEWAY_KEY}"
        assert sent["user-agent"] == "mushishi-admission"
        assert KEYS["private"] not in str(sent)


def test_plain_answer(service: Service) -> None:
    answer = service.chat(base(user="someone", max_tokens=5, temperature=0, seed=1, stop=["a"], top_k=5))
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"] == {"role": "assistant", "content": "hello"}
    assert answer.json()["model"] == "private"
    assert answer.headers["x-sovereign-backend"] == "gpu"
    assert answer.headers["x-sovereign-profile"] == "private"
    assert "set-cookie" not in answer.headers
    assert "x-internal" not in answer.headers
    sent = service.gateway.seen[0].json
    salt = sent.pop("cache_salt")
    assert len(salt) == 64
    assert sent == {
        "model": "private",
        "messages": [{"role": "user", "content": CANARY}],
        "max_tokens": 5,
        "temperature": 0,
        "seed": 1,
        "stop": ["a"],
        "top_k": 5,
    }


def test_cache_salt_differs_by_profile_and_stays(service: Service) -> None:
    service.gateway.model_id = None
    body = {"messages": [{"role": "user", "content": "x"}]}
    for profile in ("private", "client", "private"):
        assert service.chat(body, profile).status_code == 200
    first, other, again = (seen.json["cache_salt"] for seen in service.gateway.seen)
    assert first == again != other


def test_everything_that_is_allowed_passes_unchanged(service: Service) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"default": None}}}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    document = {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "developer", "content": [{"type": "text", "text": "d"}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
                    {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}},
                    {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,QUJD"}},
                    {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,QUJD"}},
                    {"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD", "filename": "a b.pdf"}},
                ],
            },
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "42", "tool_call_id": "c1"},
            {"role": "assistant", "content": [{"type": "text", "text": "ä €"}], "reasoning_content": "r"},
            {"role": "user", "content": "go", "name": "ann"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}},
        "temperature": 0.5,
        "top_p": 1,
        "min_p": 0.1,
        "presence_penalty": 0,
        "frequency_penalty": -1.5,
        "repetition_penalty": 1.1,
        "max_completion_tokens": 10,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 3,
        "logit_bias": {"15": -100},
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": False},
    }
    answer = service.chat(document)
    assert answer.status_code == 200, answer.text
    sent = service.gateway.seen[0].json
    assert sent.pop("model") == "private"
    sent.pop("cache_salt")
    assert sent == document


def test_a_message_of_ours_can_be_sent_back(service: Service) -> None:
    """SDKs return a message with all its keys; the empty ones are accepted and dropped."""
    echoed: dict[str, Any] = {"role": "assistant", "content": "x", "refusal": None, "annotations": [], "audio": None}
    answer = service.chat(
        turns({**echoed, "function_call": None, "tool_calls": None}, {"role": "user", "content": "y"})
    )
    assert answer.status_code == 200
    assert service.gateway.seen[0].json["messages"][0] == {"role": "assistant", "content": "x"}


def test_unprintable_key_is_not_repeated(service: Service) -> None:
    answer = service.chat(base(**{f"<script>{CANARY}": 1}))
    assert answer.status_code == 400
    assert CANARY not in answer.text
    answer = service.chat(base(**{CANARY: 1}))
    assert answer.json()["error"]["param"] == CANARY
    assert CANARY not in "".join(service.lines)


def test_image_near_the_bound_passes(service: Service) -> None:
    picture = "data:image/png;base64," + "A" * (16 * 1024 * 1024)
    answer = service.chat(part({"type": "image_url", "image_url": {"url": picture}}))
    assert answer.status_code == 200
    assert picture.encode() in service.gateway.seen[0].body


# --- who and where ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer "},
        {"authorization": KEYS["private"]},
        {"authorization": f"Basic {KEYS['private']}"},
        {"authorization": f"Bearer {KEYS['private']} {KEYS['private']}"},
        {"authorization": f"Bearer {KEYS['private']}x"},
        {"x-api-key": KEYS["private"]},
        {"api-key": KEYS["private"]},
        {"authorization": f"Bearer {GATEWAY_KEY}"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/chat/completions"), ("GET", "/v1/models")])
def test_wrong_key(service: Service, method: str, path: str, headers: dict[str, str]) -> None:
    answer = service.call(method, path, headers={"content-type": "application/json", **headers}, content=b"{}")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert service.gateway.seen == []
    assert "key-" not in "".join(service.lines)


def test_two_keys_are_refused(service: Service) -> None:
    pairs = [("authorization", f"Bearer {KEYS['private']}"), ("authorization", f"Bearer {KEYS['client']}")]
    assert service.call("GET", "/v1/models", headers=pairs).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("PUT", "/v1/chat/completions"),
        ("DELETE", "/v1/chat/completions"),
        ("OPTIONS", "/v1/chat/completions"),
        ("HEAD", "/v1/models"),
        ("POST", "/v1/models"),
        ("POST", "/healthz"),
        ("TRACE", "/v1/models"),
        ("post", "/v1/models"),
    ],
)
def test_wrong_method(service: Service, method: str, path: str) -> None:
    answer = service.call(method, path, headers={"authorization": f"Bearer {KEYS['private']}"})
    assert answer.status_code == 405
    assert answer.headers["allow"] in ("GET", "POST")
    assert service.gateway.seen == []


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/V1/chat/completions",
        "/v1/chat%2fcompletions",
        "/v1/chat%2Fcompletions",
        "/v1/%63hat/completions",
        "/v1/chat/completions%00",
        "/v1/chat/completions;x=y",
        "/chat/completions",
        "/v1/messages/count_tokens",
        "/v1/messages/batches",
        "/v1/responses/resp_1",
        "/v1/responses/compact",
        "/v1/moderations",
        "/v1/vector_stores",
        "/v1/files",
        "/v1/batches",
        "/v1/realtime",
        "/engines/cloud-fallback/chat/completions",
        "/openai/deployments/cloud-fallback/chat/completions",
        "/v1beta/models/cloud-fallback:generateContent",
        "/vllm/chat/completions",
        "/openrouter/v1/chat/completions",
        "/mistral/v1/chat/completions",
        "/cohere/v1/chat",
        "/assemblyai/v2/transcript",
        "/anthropic/v1/messages",
        "/cursor/chat/completions",
        "/rag/query",
        "/prompts/test",
        "/mcp-rest/test/connection",
        "/mcp",
        "/health",
        "/health/liveliness",
        "/model/info",
        "/model/new",
        "/config/update",
        "/utils/token_counter",
        "/key/generate",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/v1/models/private",
        "/slots",
        "/props",
        "/tokenize",
        "/v1/load_lora_adapter",
        f"/{CANARY}",
    ],
)
def test_unknown_path(service: Service, path: str) -> None:
    for method in ("GET", "POST"):
        answer = service.call(
            method, path, content=json.dumps(base()).encode(),
            headers={"authorization": f"Bearer {KEYS['private']}", "content-type": "application/json"},
        )  # fmt: skip
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "unknown_route"
    assert service.gateway.seen == []
    assert CANARY not in "".join(service.lines)


@pytest.mark.parametrize("profile", KEYS)
def test_models_lists_the_own_name_only(service: Service, profile: str) -> None:
    answer = service.call("GET", "/v1/models", headers={"authorization": f"Bearer {KEYS[profile]}"})
    assert answer.status_code == 200
    assert [model["id"] for model in answer.json()["data"]] == [profile]
    assert service.gateway.seen == []


def test_the_key_decides_the_group(service: Service) -> None:
    service.gateway.model_id = "client/gpu-forensic"
    assert service.chat(base(model="client"), "client").status_code == 200
    assert service.gateway.seen[0].json["model"] == "client"
    assert service.chat(base(model="private"), "client").status_code == 400


def test_healthz_needs_no_key_and_says_nothing(service: Service) -> None:
    answer = service.call("GET", "/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "answering"})


def test_log_has_figures_and_no_content(service: Service) -> None:
    service.chat(base())
    (line,) = service.log
    assert {"time", "id", "ms", "first_ms", "bytes_in", "bytes_out"} <= set(line)
    assert (line["profile"], line["route"], line["status"], line["backend"]) == (
        "private", "POST /v1/chat/completions", 200, "gpu",
    )  # fmt: skip
    text = "".join(service.lines)
    for secret in (CANARY, "hello", KEYS["private"], GATEWAY_KEY):
        assert secret not in text
