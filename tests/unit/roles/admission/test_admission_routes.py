# SPDX-License-Identifier: MIT
"""Completions, embeddings, responses and messages: what passes, what is refused, and how the answer comes back."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from admission_standin import KEYS, Live, Service, chunk, completion, event

CANARY = "canary-91c0de"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
PDF = base64.b64encode(b"%PDF-1.7").decode()
SCHEMA = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}}
FAR = "https://203.0.113.9/x"
Document = dict[str, Any]

TEXT, EMBEDDINGS, RESPONSES, MESSAGES = "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"
MINIMAL: dict[str, Document] = {
    TEXT: {"prompt": CANARY},
    RESPONSES: {"input": CANARY},
    MESSAGES: {"max_tokens": 64, "messages": [{"role": "user", "content": CANARY}]},
}
ROUTES = list(MINIMAL)


def asked(path: str, **more: Any) -> Document:
    return {"model": "private", **MINIMAL.get(path, {"input": CANARY}), **more}


def item(content: object, role: str = "user") -> Document:
    return asked(RESPONSES, input=[{"role": role, "content": content}])


def block(content: object, role: str = "user") -> Document:
    turns = [{"role": role, "content": [content]}, {"role": "user", "content": "x"}]
    return asked(MESSAGES, messages=turns)


def sent(service: Service) -> Document:
    document = service.gateway.seen[-1].json
    assert document.pop("model") == "private"
    assert len(document.pop("cache_salt")) == 64
    return document


def error_of(answer: httpx.Response) -> Document:
    document = answer.json()
    assert isinstance(document["error"], dict)
    return dict(document["error"])


def called(*calls: tuple[str, str, str]) -> list[Document]:
    return [
        {"index": at, "id": name, "type": "function", "function": {"name": function, "arguments": arguments}}
        for at, (name, function, arguments) in enumerate(calls)
    ]


def reply(finish: str = "stop", **message: Any) -> Document:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {**completion(), "choices": [choice], "usage": usage}


def piece(finish: str | None = None, **delta: Any) -> bytes:
    return event({**chunk(""), "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


USAGE = event({**chunk(""), "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}})
DONE = b"data: [DONE]\n\n"


def events_of(answer: httpx.Response) -> list[Document]:
    """The named events of a stream; each name is the type of its document."""
    found: list[Document] = []
    for text in answer.text.split("\n\n"):
        lines = [line for line in text.splitlines() if not line.startswith(":")]
        if not lines:
            continue
        assert [line.partition(": ")[0] for line in lines] == ["event", "data"], text
        document = json.loads(lines[1].removeprefix("data: "))
        assert lines[0] == f"event: {document['type']}"
        found.append(document)
    return found


# --- what passes -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ROUTES)
def test_the_least_request_becomes_one_message(service: Service, path: str) -> None:
    answer = service.chat(asked(path), path=path)
    assert answer.status_code == 200, answer.text
    (seen,) = service.gateway.seen
    assert (seen.path, seen.query) == (b"/v1/chat/completions", b"")
    document = sent(service)
    document.pop("max_tokens", None)
    assert document == {"messages": [{"role": "user", "content": CANARY}]}
    assert answer.headers["x-sovereign-backend"] == "gpu"
    assert service.log[-1]["route"] == f"POST {path}"
    assert CANARY not in "".join(service.lines)


@pytest.mark.parametrize("path", ROUTES)
def test_the_key_decides_the_group(service: Service, path: str) -> None:
    service.gateway.model_id = None
    document = asked(path, model="client")
    assert service.chat(document, "client", path=path).status_code == 200
    assert service.gateway.seen[-1].json["model"] == "client"
    assert (refused := service.chat(document, path=path)).status_code == 400
    assert error_of(refused)["code"] == "model_not_allowed"
    assert len(service.gateway.seen) == 1


def test_full_text_completion(service: Service) -> None:
    same = {
        "stream": False, "max_tokens": 5, "temperature": 1, "top_p": 0.5, "presence_penalty": 0,
        "frequency_penalty": 1, "seed": 3, "stop": ["a"], "n": 1, "logit_bias": {"5": 1},
    }  # fmt: skip
    quiet = {"user": "u", "best_of": 1, "echo": False, "logprobs": None, "suffix": None, "prompt": [CANARY]}
    answer = service.chat(asked(TEXT, **same, **quiet), path=TEXT)
    assert answer.status_code == 200, answer.text
    assert sent(service) == {"messages": [{"role": "user", "content": CANARY}], **same}
    said = answer.json()
    assert (said["object"], said["model"]) == ("text_completion", "private")
    assert said["choices"] == [{"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}]
    assert said["usage"] == {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def test_full_responses_request(service: Service) -> None:
    document = {
        "instructions": "be brief",
        "input": [
            {"role": "developer", "content": [{"type": "input_text", "text": "d"}]},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "look"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "low"},
                    {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}},
                    {"type": "input_file", "file_data": f"data:application/pdf;base64,{PDF}", "filename": "a b.pdf"},
                ],
            },
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {
                "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
                "content": [{"type": "output_text", "text": "calling", "annotations": [], "logprobs": []}],
            },
            {
                "type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}",
                "status": "completed",
            },
            {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "42"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "43"}]},
            {"type": "function_call", "call_id": "c3", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c3", "output": "44"},
        ],
        "tools": [{"type": "function", "name": "f", "description": "d", "parameters": SCHEMA, "strict": True}],
        "tool_choice": {"type": "function", "name": "f"},
        "parallel_tool_calls": False,
        "text": {
            "format": {"type": "json_schema", "name": "s", "schema": SCHEMA, "strict": True}, "verbosity": "medium",
        },
        "reasoning": {"effort": "low", "summary": "auto"},
        "max_output_tokens": 9,
        "temperature": 0.5,
        "top_p": 1,
        "store": False, "background": False, "previous_response_id": None, "truncation": "disabled",
        "include": ["reasoning.encrypted_content"],
        "metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "auto",
    }  # fmt: skip
    answer = service.chat(document, path=RESPONSES)
    assert answer.status_code == 200, answer.text

    def call(name: str) -> Document:
        return {"id": name, "type": "function", "function": {"name": "f", "arguments": "{}"}}

    assert sent(service) == {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "developer", "content": [{"type": "text", "text": "d"}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
                    {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}},
                    {
                        "type": "file",
                        "file": {"file_data": f"data:application/pdf;base64,{PDF}", "filename": "a b.pdf"},
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "calling"}],
                "tool_calls": [call("c1"), call("c2")],
            },
            {"role": "tool", "content": "42", "tool_call_id": "c1"},
            {"role": "tool", "content": [{"type": "text", "text": "43"}], "tool_call_id": "c2"},
            {"role": "assistant", "content": None, "tool_calls": [call("c3")]},
            {"role": "tool", "content": "44", "tool_call_id": "c3"},
        ],
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}}
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}},
        "reasoning_effort": "low",
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "top_p": 1,
    }
    said = answer.json()
    assert (said["store"], said["previous_response_id"], said["instructions"]) == (False, None, "be brief")
    assert (said["tools"], said["tool_choice"]) == (document["tools"], document["tool_choice"])


def test_full_messages_request(service: Service) -> None:
    quick = {"type": "ephemeral", "ttl": "5m"}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    document = {
        "system": [{"type": "text", "text": "be", "cache_control": quick}, {"type": "text", "text": "brief"}],
        "max_tokens": 9,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look", "cache_control": quick},
                    {**image, "cache_control": quick},
                    {
                        "type": "document", "title": "a.pdf",
                        "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                    },
                    {
                        "type": "document", "title": "notes", "context": "mine", "citations": {"enabled": False},
                        "source": {"type": "text", "media_type": "text/plain", "data": "abc"},
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "text", "text": "calling", "citations": None},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": "ä"}, "caller": {"type": "direct"}},
                    {"type": "tool_use", "id": "t2", "name": "f", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "42"}, image]},
                    {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True},
                    {"type": "text", "text": "go on"},
                ],
            },
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t3", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t3"}]},
        ],
        "tools": [{"name": "f", "type": "custom", "description": "d", "input_schema": SCHEMA, "cache_control": quick}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "stop_sequences": ["END"],
        "temperature": 0.5, "top_p": 1, "top_k": 5,
        "thinking": {"type": "enabled", "budget_tokens": 2048},
        "metadata": {"user_id": "u"}, "service_tier": "auto", "stream": False,
    }  # fmt: skip
    answer = service.chat(document, path=MESSAGES)
    assert answer.status_code == 200, answer.text
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}

    def call(name: str, arguments: str) -> Document:
        return {"id": name, "type": "function", "function": {"name": "f", "arguments": arguments}}

    assert sent(service) == {
        "messages": [
            {"role": "system", "content": "be\nbrief"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    picture,
                    {
                        "type": "file",
                        "file": {"file_data": f"data:application/pdf;base64,{PDF}", "filename": "a.pdf"},
                    },
                    {"type": "text", "text": "notes\nmine\nabc"},
                ],
            },
            {
                "role": "assistant",
                "content": "calling",
                "reasoning_content": "hm",
                "tool_calls": [call("t1", json.dumps({"a": "ä"})), call("t2", "{}")],
            },
            {"role": "tool", "content": "42", "tool_call_id": "t1"},
            {"role": "tool", "content": "Error: no", "tool_call_id": "t2"},
            {"role": "user", "content": [picture, {"type": "text", "text": "go on"}]},
            {"role": "assistant", "content": None, "tool_calls": [call("t3", "{}")]},
            {"role": "tool", "content": "", "tool_call_id": "t3"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "stop": ["END"],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 1,
        "top_k": 5,
        "stream": False,
        "chat_template_kwargs": {"enable_thinking": True, "thinking_budget": 2048},
    }


@pytest.mark.parametrize("given", ["x", ["x", "y"]])
def test_embeddings_are_checked_and_refused_with_the_reason(service: Service, given: object) -> None:
    answer = service.chat(asked(EMBEDDINGS, input=given, encoding_format="base64", user="u"), path=EMBEDDINGS)
    assert (answer.status_code, error_of(answer)["code"]) == (404, "no_embedding_engine")
    assert "'private'" in error_of(answer)["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert service.gateway.seen == []


# --- what is refused -------------------------------------------------------------------------------------------------
#: Fields that choose a destination, a credential, a tool of somebody else, or something kept: refused on every route.
HOSTILE: dict[str, object] = {
    "fallbacks": ["cloud-fallback"],
    "api_base": FAR,
    "base_url": FAR,
    "api_key": "sk-x",
    "user_config": {"model_list": []},
    "custom_llm_provider": "openai",
    "litellm_params": {},
    "litellm_metadata": {"model_group": "x"},
    "tags": ["cloud"],
    "extra_body": {},
    "extra_headers": {},
    "extra_query": {},
    "model_list": [],
    "guardrails": ["x"],
    "mock_response": "x",
    "cache_salt": "guess",
    "kv_transfer_params": {},
    "chat_template": "x",
    "mcp_servers": [{"type": "url", "url": FAR, "name": "x"}],
    "web_search_options": {},
    "container": "c",
    "context_management": {},
    "messages_url": FAR,
    "nobody_listed_this": 1,
    "__class__": "x",
}

REFUSED: dict[str, tuple[str, Document, str | None]] = {
    **{
        f"{path[4:]}-{field}": (path, asked(path, **{field: value}), field)
        for path in (*ROUTES, EMBEDDINGS)
        for field, value in HOSTILE.items()
    },
    # completions
    "text-none": (TEXT, {"model": "private"}, "prompt"),
    "text-tokens": (TEXT, asked(TEXT, prompt=[1]), "prompt[0]"),
    "text-many": (TEXT, asked(TEXT, prompt=["a", "b"]), "prompt"),
    "text-echo": (TEXT, asked(TEXT, echo=True), "echo"),
    "text-suffix": (TEXT, asked(TEXT, suffix="x"), "suffix"),
    "text-logprobs": (TEXT, asked(TEXT, logprobs=1), "logprobs"),
    "text-best-of": (TEXT, asked(TEXT, best_of=3), "best_of"),
    "text-messages": (TEXT, asked(TEXT, messages=[]), "messages"),
    "text-embeds": (TEXT, asked(TEXT, prompt_embeds="x"), "prompt_embeds"),
    # embeddings
    "embed-none": (EMBEDDINGS, {"model": "private"}, "input"),
    "embed-empty": (EMBEDDINGS, asked(EMBEDDINGS, input=[]), "input"),
    "embed-tokens": (EMBEDDINGS, asked(EMBEDDINGS, input=[1]), "input[0]"),
    "embed-object": (EMBEDDINGS, asked(EMBEDDINGS, input={"url": FAR}), "input"),
    "embed-format": (EMBEDDINGS, asked(EMBEDDINGS, encoding_format="hex"), "encoding_format"),
    # responses
    "resp-none": (RESPONSES, {"model": "private"}, "input"),
    "resp-empty": (RESPONSES, asked(RESPONSES, input=[]), "input"),
    "resp-previous": (RESPONSES, asked(RESPONSES, previous_response_id="resp_x"), "previous_response_id"),
    "resp-conversation": (RESPONSES, asked(RESPONSES, conversation="conv_x"), "conversation"),
    "resp-prompt": (RESPONSES, asked(RESPONSES, prompt={"id": "pmpt_x"}), "prompt"),
    "resp-store": (RESPONSES, asked(RESPONSES, store=True), "store"),
    "resp-background": (RESPONSES, asked(RESPONSES, background=True), "background"),
    "resp-include": (RESPONSES, asked(RESPONSES, include=["file_search_call.results"]), "include[0]"),
    "resp-truncation": (RESPONSES, asked(RESPONSES, truncation="auto"), "truncation"),
    "resp-tool-calls": (RESPONSES, asked(RESPONSES, max_tool_calls=3), "max_tool_calls"),
    "resp-obfuscation": (
        RESPONSES,
        asked(RESPONSES, stream_options={"include_obfuscation": True}),
        "stream_options.include_obfuscation",
    ),
    **{
        f"resp-tool-{kind}": (RESPONSES, asked(RESPONSES, tools=[{"type": kind, **more}]), "tools[0].type")
        for kind, more in (
            ("web_search", {}),
            ("web_search_preview", {}),
            ("mcp", {"server_url": FAR, "server_label": "x"}),
            ("file_search", {"vector_store_ids": ["x"]}),
            ("code_interpreter", {"container": {"type": "auto"}}),
            ("image_generation", {}),
            ("local_shell", {}),
            ("computer_use_preview", {}),
            ("custom", {"name": "f"}),
        )
    },
    "resp-tool-url": (
        RESPONSES,
        asked(RESPONSES, tools=[{"type": "function", "name": "f", "server_url": FAR}]),
        "tools[0].server_url",
    ),
    "resp-tool-ref": (
        RESPONSES,
        asked(RESPONSES, tools=[{"type": "function", "name": "f", "parameters": {"$ref": FAR}}]),
        "tools[0].parameters",
    ),
    "resp-choice": (RESPONSES, asked(RESPONSES, tool_choice={"type": "mcp", "server_label": "x"}), "tool_choice.type"),
    "resp-format-ref": (
        RESPONSES,
        asked(RESPONSES, text={"format": {"type": "json_schema", "name": "s", "schema": {"$ref": FAR}}}),
        "text.format.schema",
    ),
    "resp-effort": (RESPONSES, asked(RESPONSES, reasoning={"effort": "extreme"}), "reasoning.effort"),
    "resp-metadata": (RESPONSES, asked(RESPONSES, metadata={"a": {"model_group": "x"}}), None),
    "resp-reference": (RESPONSES, asked(RESPONSES, input=[{"type": "item_reference", "id": "msg_x"}]), "input[0]"),
    "resp-item": (RESPONSES, asked(RESPONSES, input=[{"type": "mcp_call", "id": "x"}]), "input[0]"),
    "resp-reasoning": (RESPONSES, asked(RESPONSES, input=[{"type": "reasoning", "summary": []}]), "input"),
    "resp-role": (RESPONSES, item("x", "root"), "input[0]"),
    "resp-item-extra": (
        RESPONSES,
        asked(RESPONSES, input=[{"role": "user", "content": "x", "url": FAR}]),
        "input[0].url",
    ),
    "resp-encrypted": (
        RESPONSES,
        asked(RESPONSES, input=[{"type": "reasoning", "summary": [], "encrypted_content": "x"}]),
        "input[0].encrypted_content",
    ),
    "resp-image-far": (RESPONSES, item([{"type": "input_image", "image_url": FAR}]), "input[0].content[0].image_url"),
    "resp-image-id": (
        RESPONSES,
        item([{"type": "input_image", "file_id": "file-x"}]),
        "input[0].content[0].image_url",
    ),
    "resp-image-both": (
        RESPONSES,
        item([{"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "file_id": "file-x"}]),
        "input[0].content[0].file_id",
    ),
    "resp-file-url": (
        RESPONSES,
        item([{"type": "input_file", "file_data": PDF, "file_url": FAR}]),
        "input[0].content[0].file_url",
    ),
    "resp-file-url-alone": (
        RESPONSES,
        item([{"type": "input_file", "file_url": FAR}]),
        "input[0].content[0].file_data",
    ),
    "resp-file-disk": (
        RESPONSES,
        item([{"type": "input_image", "image_url": "file:///etc/passwd"}]),
        "input[0].content[0].image_url",
    ),
    "resp-chat-part": (RESPONSES, item([{"type": "text", "text": "x"}]), "input[0].content[0]"),
    "resp-assistant-image": (
        RESPONSES,
        item([{"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}], "assistant"),
        "input[0].content[0]",
    ),
    "resp-annotation": (
        RESPONSES,
        item(
            [{"type": "output_text", "text": "x", "annotations": [{"type": "url_citation", "url": FAR}]}], "assistant"
        ),
        "input[0].content[0].annotations",
    ),
    # messages
    "msg-none": (MESSAGES, {"model": "private", "max_tokens": 1}, "messages"),
    "msg-no-limit": (MESSAGES, {"messages": [{"role": "user", "content": "x"}]}, "max_tokens"),
    "msg-system-role": (MESSAGES, asked(MESSAGES, messages=[{"role": "system", "content": "x"}]), "messages[0]"),
    "msg-prefill": (
        MESSAGES,
        asked(MESSAGES, messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]),
        "messages",
    ),
    "msg-temperature": (MESSAGES, asked(MESSAGES, temperature=1.5), "temperature"),
    "msg-metadata": (MESSAGES, asked(MESSAGES, metadata={"tags": ["x"]}), "metadata.tags"),
    "msg-image-far": (
        MESSAGES,
        block({"type": "image", "source": {"type": "url", "url": FAR}}),
        "messages[0].content[0].source.url",
    ),
    "msg-image-id": (
        MESSAGES,
        block({"type": "image", "source": {"type": "file", "file_id": "file_x"}}),
        "messages[0].content[0].source",
    ),
    "msg-image-disk": (
        MESSAGES,
        block({"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}}),
        "messages[0].content[0].source.url",
    ),
    "msg-image-type": (
        MESSAGES,
        block({"type": "image", "source": {"type": "base64", "media_type": "image/svg+xml", "data": PNG}}),
        "messages[0].content[0].source.media_type",
    ),
    "msg-image-data": (
        MESSAGES,
        block({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": FAR}}),
        "messages[0].content[0].source.data",
    ),
    "msg-document-far": (
        MESSAGES,
        block({"type": "document", "source": {"type": "url", "url": FAR}}),
        "messages[0].content[0].source.url",
    ),
    "msg-document-content": (
        MESSAGES,
        block({"type": "document", "source": {"type": "content", "content": "x"}}),
        "messages[0].content[0].source",
    ),
    "msg-citations": (
        MESSAGES,
        block(
            {
                "type": "document",
                "citations": {"enabled": True},
                "source": {"type": "text", "media_type": "text/plain", "data": "x"},
            }
        ),
        "messages[0].content[0].citations.enabled",
    ),
    "msg-search": (MESSAGES, block({"type": "search_result", "source": FAR, "content": []}), "messages[0].content[0]"),
    "msg-server-tool": (
        MESSAGES,
        block({"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}}, "assistant"),
        "messages[0].content[0]",
    ),
    "msg-redacted": (
        MESSAGES,
        block({"type": "redacted_thinking", "data": "x"}, "assistant"),
        "messages[0].content[0]",
    ),
    "msg-user-tool-use": (
        MESSAGES,
        block({"type": "tool_use", "id": "x", "name": "f", "input": {}}),
        "messages[0].content[0]",
    ),
    "msg-result-document": (
        MESSAGES,
        block({"type": "tool_result", "tool_use_id": "x", "content": [{"type": "document"}]}),
        "messages[0].content[0].content[0]",
    ),
    "msg-caller": (
        MESSAGES,
        block(
            {
                "type": "tool_use",
                "id": "x",
                "name": "f",
                "input": {},
                "caller": {"type": "code_execution_20250825", "tool_id": "x"},
            },
            "assistant",
        ),
        None,
    ),
    **{
        f"msg-tool-{kind}": (
            MESSAGES,
            asked(MESSAGES, tools=[{"type": kind, "name": "x", "input_schema": {}}]),
            "tools[0].type",
        )
        for kind in (
            "web_search_20250305",
            "bash_20250124",
            "computer_20250124",
            "code_execution_20250522",
            "mcp_toolset",
        )
    },
    "msg-tool-bare": (
        MESSAGES,
        asked(MESSAGES, tools=[{"type": "web_search_20250305", "name": "web_search"}]),
        "tools[0].type",
    ),
    "msg-tool-none": (MESSAGES, asked(MESSAGES, tools=[{"name": "f"}]), "tools[0].input_schema"),
    "msg-tool-ref": (
        MESSAGES,
        asked(MESSAGES, tools=[{"name": "f", "input_schema": {"$ref": FAR}}]),
        "tools[0].input_schema",
    ),
    "msg-choice": (MESSAGES, asked(MESSAGES, tool_choice={"type": "mcp"}), "tool_choice"),
    "msg-thinking": (MESSAGES, asked(MESSAGES, thinking={"type": "enabled"}), "thinking.budget_tokens"),
    "msg-format": (MESSAGES, asked(MESSAGES, output_format={"type": "json_schema"}), "output_format"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_body_names_the_field_and_reaches_nobody(service: Service, case: str) -> None:
    path, document, param = REFUSED[case]
    answer = service.chat(document, path=path)
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "invalid_request"
    if param is not None:
        assert error["param"] == param
    assert error["message"]
    assert (answer.json().get("type") == "error") == (path == MESSAGES)
    assert service.gateway.seen == []
    assert CANARY not in answer.text + "".join(service.lines)


@pytest.mark.parametrize("path", [*ROUTES, EMBEDDINGS])
@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"model":"private","model":"cloud"}', b'{"a":NaN}', b"\xff", b"[" * 5000, b'{"input":']
)
def test_refused_bytes_reach_nobody(service: Service, path: str, body: bytes) -> None:
    head = {"authorization": f"Bearer {KEYS['private']}", "content-type": "application/json"}
    assert service.call("POST", path, content=body, headers=head).status_code == 400
    for name, value in (("content-type", "text/plain"), ("content-encoding", "gzip")):
        assert service.call("POST", path, content=b"{}", headers={**head, name: value}).status_code == 415
    assert service.call("GET", path, headers=head).status_code == 405
    assert service.gateway.seen == []


# --- keys ------------------------------------------------------------------------------------------------------------
BEARER, OWN = ("authorization", f"Bearer {KEYS['private']}"), ("x-api-key", KEYS["private"])


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (MESSAGES, [OWN, ("anthropic-version", "2023-06-01"), ("anthropic-beta", "x")], 200),
        (MESSAGES, [BEARER], 200),
        (MESSAGES, [BEARER, ("x-api-key", "")], 200),
        (MESSAGES, [("authorization", ""), OWN], 200),
        (MESSAGES, [BEARER, OWN], 401),
        (MESSAGES, [OWN, ("x-api-key", KEYS["client"])], 401),
        (MESSAGES, [BEARER, ("x-api-key", KEYS["client"])], 401),
        (MESSAGES, [("x-api-key", f"Bearer {KEYS['private']}")], 401),
        (MESSAGES, [("x-api-key", f"{KEYS['private']},{KEYS['private']}")], 401),
        (MESSAGES, [("x-api-key", "wrong")], 401),
        (MESSAGES, [("api-key", KEYS["private"])], 401),
        (MESSAGES, [], 401),
        (RESPONSES, [OWN], 401),
        (TEXT, [OWN], 401),
        (EMBEDDINGS, [OWN], 401),
        (RESPONSES, [BEARER, BEARER], 401),
    ],
)
def test_keys(service: Service, path: str, headers: list[tuple[str, str]], status: int) -> None:
    content = json.dumps(asked(path)).encode()
    answer = service.call("POST", path, content=content, headers=[("content-type", "application/json"), *headers])
    assert answer.status_code == status, answer.text
    assert len(service.gateway.seen) == (status == 200)
    assert "key-" not in "".join(service.lines)
    if status == 401:
        error = error_of(answer)
        assert (error["code"], error["type"]) == ("invalid_api_key", "authentication_error")


@pytest.mark.parametrize("path", ROUTES)
def test_no_header_of_the_client_is_sent_on(service: Service, path: str) -> None:
    hostile = {
        "x-litellm-tags": "client-words", "anthropic-beta": "client-words", "openai-project": "client-words",
        "cookie": "client-words", "x-http-method-override": "DELETE", "x-forwarded-host": "client-words",
        "x-stainless-lang": "client-words", "traceparent": "client-words",
    }  # fmt: skip
    assert service.chat(asked(path), path=path, headers=hostile).status_code == 200
    assert "client-words" not in str(service.gateway.seen[0].headers)
    assert KEYS["private"] not in str(service.gateway.seen[0].headers)


def test_two_lengths_are_refused(service: Service) -> None:
    head = [("authorization", f"Bearer {KEYS['private']}"), ("content-type", "application/json")]
    for extra in (
        [("content-length", "2"), ("content-length", "2")],
        [("content-length", "2"), ("transfer-encoding", "x")],
    ):
        answer = service.call("POST", RESPONSES, content=b"{}", headers=[*head, *extra])
        assert (answer.status_code, error_of(answer)["code"]) == (400, "ambiguous_length")


# --- errors in the route's form --------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_nothing_local(service: Service, path: str, stream: bool) -> None:
    service.gateway.status, service.gateway.reply = 503, {"error": {"message": CANARY}}
    answer = service.chat(asked(path, stream=stream), path=path)
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (503, "no_local_engine")
    assert error["type"] == ("overloaded_error" if path == MESSAGES else "server_error")
    assert answer.headers["retry-after"] == "30"
    assert CANARY not in answer.text
    if path == MESSAGES:
        assert answer.json()["request_id"] == service.log[-1]["id"]


@pytest.mark.parametrize(("path", "field"), [(TEXT, "prompt"), (RESPONSES, "input"), (MESSAGES, "messages")])
def test_context_overflow_names_the_routes_own_field(service: Service, path: str, field: str) -> None:
    service.gateway.status = 400
    service.gateway.reply = {"error": {"message": "maximum context length is 32768", "code": "400"}}
    error = error_of(answer := service.chat(asked(path), path=path))
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", field)


BROKEN: list[object] = [
    b"no json", {}, {"choices": []}, {"choices": ["x"]}, {"choices": [{"index": 0, "finish_reason": "stop"}]},
    {"choices": [{"index": 0, "message": {"content": "half"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "message": {"content": 7}, "finish_reason": "stop"}]},
]  # fmt: skip


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_an_answer_that_is_none(service: Service, path: str, number: int) -> None:
    service.gateway.reply = BROKEN[number]
    answer = service.chat(asked(path), path=path)
    assert (answer.status_code, error_of(answer)["code"]) == (503, "no_local_engine")


# --- responses: the answer -------------------------------------------------------------------------------------------
def test_plain_response(service: Service) -> None:
    service.gateway.reply = reply(content="hello", reasoning_content="hm")
    said = service.chat(asked(RESPONSES, metadata={"a": "b"}), path=RESPONSES).json()
    assert (said["object"], said["status"], said["model"], said["error"]) == ("response", "completed", "private", None)
    assert said["metadata"] == {"a": "b"}
    assert [(one["type"], one["content"][0]["text"]) for one in said["output"]] == [
        ("reasoning", "hm"), ("message", "hello"),
    ]  # fmt: skip
    assert said["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 13,
    }


def test_response_that_calls_functions_can_be_sent_back(service: Service) -> None:
    service.gateway.reply = reply(
        "tool_calls", content=None, tool_calls=called(("c1", "f", '{"a":1}'), ("c2", "g", ""))
    )
    tools = [{"type": "function", "name": name, "parameters": SCHEMA} for name in ("f", "g")]
    said = service.chat(asked(RESPONSES, tools=tools), path=RESPONSES).json()
    assert [(one["type"], one["call_id"], one["name"], one["arguments"]) for one in said["output"]] == [
        ("function_call", "c1", "f", '{"a":1}'), ("function_call", "c2", "g", ""),
    ]  # fmt: skip
    outputs = [{"type": "function_call_output", "call_id": one["call_id"], "output": "1"} for one in said["output"]]
    again = service.chat(asked(RESPONSES, input=[*said["output"], *outputs], tools=tools), path=RESPONSES)
    assert again.status_code == 200, again.text
    assert [message["role"] for message in sent(service)["messages"]] == ["assistant", "tool", "tool"]


@pytest.mark.parametrize(("finish", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
@pytest.mark.parametrize("stream", [False, True])
def test_incomplete_response(service: Service, finish: str, why: str, stream: bool) -> None:
    service.gateway.reply = reply(finish, content="hel")
    service.gateway.events = [piece(content="hel"), piece(finish), DONE]
    answer = service.chat(asked(RESPONSES, stream=stream), path=RESPONSES)
    said = events_of(answer)[-1] if stream else {"type": "response.incomplete", "response": answer.json()}
    assert said["type"] == "response.incomplete"
    assert (said["response"]["status"], said["response"]["incomplete_details"]) == ("incomplete", {"reason": why})
    assert said["response"]["output"][0]["status"] == "incomplete"


def test_streamed_response(service: Service) -> None:
    calls = called(("c1", "f", '{"a"'))
    more = [{"index": 0, "function": {"arguments": ":1}"}}]
    service.gateway.events = [
        piece(role="assistant", content=""), piece(reasoning_content="hm"), piece(content="hel"), piece(content="lo"),
        piece(tool_calls=calls), piece(tool_calls=more), piece("tool_calls"), USAGE, DONE,
    ]  # fmt: skip
    answer = service.chat(asked(RESPONSES, stream=True), path=RESPONSES)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert sent(service)["stream_options"] == {"include_usage": True}
    events = events_of(answer)
    assert [one["type"].removeprefix("response.") for one in events] == [
        "created", "in_progress",
        "output_item.added", "reasoning_text.delta", "reasoning_text.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    assert [one["sequence_number"] for one in events] == list(range(len(events)))
    last = events[-1]["response"]
    assert [one["type"] for one in last["output"]] == ["reasoning", "message", "function_call"]
    assert last["output"][1]["content"][0]["text"] == "hello"
    assert last["output"][2]["arguments"] == '{"a":1}'
    assert last["usage"]["total_tokens"] == 13
    assert "[DONE]" not in answer.text


def test_an_empty_stream_is_an_empty_message(service: Service) -> None:
    service.gateway.events = [piece(role="assistant", content=""), piece("stop"), DONE]
    last = events_of(service.chat(asked(RESPONSES, stream=True), path=RESPONSES))[-1]
    assert (last["type"], last["response"]["output"][0]["content"][0]["text"]) == ("response.completed", "")


# --- messages: the answer --------------------------------------------------------------------------------------------
def test_plain_message(service: Service) -> None:
    service.gateway.reply = reply(content="hello", reasoning_content="hm")
    said = service.chat(asked(MESSAGES), path=MESSAGES).json()
    assert said["content"] == [{"type": "text", "text": "hello"}]
    assert (said["type"], said["role"], said["model"], said["stop_reason"]) == (
        "message",
        "assistant",
        "private",
        "end_turn",
    )
    assert said["usage"] == {
        "input_tokens": 6, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 0, "output_tokens": 4,
    }  # fmt: skip
    thinking = service.chat(asked(MESSAGES, thinking={"type": "adaptive"}), path=MESSAGES).json()
    assert thinking["content"][0] == {"type": "thinking", "thinking": "hm", "signature": ""}


def test_message_that_calls_tools_can_be_sent_back(service: Service) -> None:
    service.gateway.reply = reply(
        "tool_calls", content="so", tool_calls=called(("t1", "f", '{"a":1}'), ("t2", "f", ""))
    )
    tools = [{"name": "f", "input_schema": SCHEMA}]
    said = service.chat(asked(MESSAGES, tools=tools), path=MESSAGES).json()
    assert said["stop_reason"] == "tool_use"
    assert said["content"][1:] == [
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "t2", "name": "f", "input": {}},
    ]
    results = [{"type": "tool_result", "tool_use_id": name, "content": "1"} for name in ("t1", "t2")]
    turns = [{"role": "assistant", "content": said["content"]}, {"role": "user", "content": results}]
    again = service.chat(asked(MESSAGES, tools=tools, messages=turns), path=MESSAGES)
    assert again.status_code == 200, again.text
    assert [message["role"] for message in sent(service)["messages"]] == ["assistant", "tool", "tool"]


@pytest.mark.parametrize("arguments", ["{", "[]", "7"])
def test_a_call_whose_arguments_are_no_object_is_no_answer(service: Service, arguments: str) -> None:
    service.gateway.reply = reply("tool_calls", tool_calls=called(("t1", "f", arguments)))
    assert service.chat(asked(MESSAGES), path=MESSAGES).status_code == 503


def test_streamed_message(service: Service) -> None:
    more = [{"index": 0, "function": {"arguments": ":1}"}}]
    service.gateway.events = [
        piece(role="assistant", content=""), piece(reasoning_content="hm"), piece(content="hel"), b": ping\n\n",
        piece(content="lo"), piece(tool_calls=called(("t1", "f", '{"a"'))), piece(tool_calls=more), piece("tool_calls"),
        USAGE, DONE,
    ]  # fmt: skip
    answer = service.chat(asked(MESSAGES, stream=True, thinking={"type": "adaptive"}), path=MESSAGES)
    events = events_of(answer)
    assert [one["type"] for one in events] == [
        "message_start", "ping",
        "content_block_start", "content_block_delta", "content_block_stop",
        "content_block_start", "content_block_delta", "ping", "content_block_delta", "content_block_stop",
        "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert [one["index"] for one in events if one["type"] == "content_block_start"] == [0, 1, 2]
    deltas = [one["delta"] for one in events if one["type"] == "content_block_delta"]
    assert [one["type"] for one in deltas] == [
        "thinking_delta", "text_delta", "text_delta", "input_json_delta", "input_json_delta",
    ]  # fmt: skip
    assert "".join(one.get("partial_json", "") for one in deltas) == '{"a":1}'
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert (events[-2]["usage"]["input_tokens"], events[-2]["usage"]["output_tokens"]) == (9, 4)
    quiet = events_of(service.chat(asked(MESSAGES, stream=True), path=MESSAGES))
    assert "thinking_delta" not in str(quiet)
    assert quiet[-1]["type"] == "message_stop"


@pytest.mark.parametrize(
    ("finish", "by", "wanted"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("stop", "never asked", ("end_turn", None)),
        ("stop", 128001, ("end_turn", None)),
        ("length", None, ("max_tokens", None)),
        ("content_filter", None, ("refusal", None)),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_why_a_message_stops(service: Service, finish: str, by: object, wanted: tuple[str, Any], stream: bool) -> None:
    plain = reply(finish, content="x")
    plain["choices"][0]["stop_reason"] = by
    service.gateway.reply = plain
    end = {"index": 0, "delta": {}, "finish_reason": finish, "stop_reason": by}
    service.gateway.events = [piece(content="x"), event({**chunk(""), "choices": [end]}), DONE]
    answer = service.chat(asked(MESSAGES, stop_sequences=["END"], stream=stream), path=MESSAGES)
    said = events_of(answer)[-2]["delta"] if stream else answer.json()
    assert (said["stop_reason"], said["stop_sequence"]) == wanted


@pytest.mark.parametrize("stream", [False, True])
def test_a_message_that_ends_with_a_call_says_so(service: Service, stream: bool) -> None:
    """vLLM's word for the end of a call that was asked for by name is stop."""
    call = called(("t1", "f", "{}"))
    service.gateway.reply = reply("stop", tool_calls=call)
    service.gateway.events = [piece(tool_calls=call), piece("stop"), DONE]
    answer = service.chat(asked(MESSAGES, stream=stream), path=MESSAGES)
    said = events_of(answer)[-2]["delta"] if stream else answer.json()
    assert said["stop_reason"] == "tool_use"


# --- text completions: the stream ------------------------------------------------------------------------------------
def test_streamed_text(service: Service) -> None:
    service.gateway.events = [
        piece(role="assistant", content=""), piece(reasoning_content="hm"), piece(content="hel"), piece(content="lo"),
        piece("stop"), USAGE, DONE,
    ]  # fmt: skip
    answer = service.chat(asked(TEXT, stream=True, stream_options={"include_usage": True}), path=TEXT)
    *pieces, last = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert last == "[DONE]"
    chunks = [json.loads(one) for one in pieces]
    assert [one["choices"][0]["text"] if one["choices"] else None for one in chunks] == ["hel", "lo", "", None]
    assert len({one["id"] for one in chunks}) == 1
    assert chunks[-1]["usage"]["total_tokens"] == 13


# --- cut streams -----------------------------------------------------------------------------------------------------
def ends_badly(path: str, answer: httpx.Response) -> Document:
    """The error that a stream ends with, in the route's form; nothing that looks like an end stands beside it."""
    for end in ("[DONE]", "response.completed", "response.incomplete", "message_stop", "message_delta"):
        assert end not in answer.text
    if path == TEXT:
        return dict(json.loads(answer.text.strip().split("\n\n")[-1].removeprefix("data: "))["error"])
    events = events_of(answer)
    if path == MESSAGES:
        assert events[-1]["type"] == "error"
        return dict(events[-1]["error"])
    assert [one["type"] for one in events[-2:]] == ["error", "response.failed"]
    assert [one["sequence_number"] for one in events] == list(range(len(events)))
    assert events[-1]["response"]["status"] == "failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"
    return events[-2]


CUTS: dict[str, list[bytes]] = {
    "no end mark": [piece(content="hel")],
    "finished, but no end mark": [piece(content="hel"), piece("stop")],
    "error": [piece(content="hel"), event({"error": {"message": CANARY, "code": "500"}})],
    "broken event": [piece(content="hel"), b"data: {\n\n", DONE],
    "broken shape": [piece(content="hel"), event({**chunk(""), "choices": [{"delta": {"content": 7}}]}), DONE],
}
UNFINISHED: dict[str, list[bytes]] = {
    "no finish reason": [piece(content="hel"), DONE],
    "text after the end": [piece(content="hel"), piece("stop"), piece(content="more"), DONE],
    "call without a name": [piece(content="hel"), piece(tool_calls=[{"index": 0, "function": {}}]), DONE],
    "calls out of order": [piece(content="h"), piece(tool_calls=[{**called(("a", "f", ""))[0], "index": 4}]), DONE],
    "call goes on after the next": [
        piece(tool_calls=called(("a", "f", "{"))[:1]),
        piece(tool_calls=called(("a", "f", "{"), ("b", "f", "{"))[1:]),
        piece(tool_calls=[{"index": 0, "function": {"arguments": "}"}}]),
        DONE,
    ],
}


@pytest.mark.parametrize(
    ("path", "case"),
    [(path, case) for path in ROUTES for case in CUTS]
    + [(path, case) for path in (RESPONSES, MESSAGES) for case in UNFINISHED],
)
def test_cut_stream_says_so(service: Service, path: str, case: str) -> None:
    service.gateway.events = {**CUTS, **UNFINISHED}[case]
    answer = service.chat(asked(path, stream=True), path=path)
    assert answer.status_code == 200
    assert ends_badly(path, answer)["code"] == "stream_interrupted"
    assert service.log[-1]["code"] == "stream_interrupted"
    assert CANARY not in answer.text + "".join(service.lines)


@pytest.mark.parametrize("path", ROUTES)
def test_engine_cut_and_engine_silent_over_sockets(live: Live, path: str) -> None:
    running = live(stream_idle_seconds=0.5)
    head = {"authorization": f"Bearer {KEYS['private']}"}

    def ask() -> httpx.Response:
        return httpx.post(running.url + path, json=asked(path, stream=True), headers=head, timeout=20)

    running.gateway.events, running.gateway.cut = [piece(content="hel")], True
    assert ends_badly(path, ask())["code"] == "stream_interrupted"
    running.gateway.events, running.gateway.cut, running.gateway.gap = [piece(content="hel"), DONE], False, 30
    assert ends_badly(path, ask())["code"] == "stream_interrupted"
    running.gateway.gap, running.gateway.events = 0, None
    whole: Callable[[str], bool] = ask().text.rstrip().endswith
    assert whole("}") or whole("[DONE]")


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("first", [b"data: {\n\n", b"data: []\n\n", event({"choices": 7}), event({})])
def test_a_bad_first_event_is_an_http_error(service: Service, path: str, first: bytes) -> None:
    service.gateway.events = [first, DONE]
    answer = service.chat(asked(path, stream=True), path=path)
    assert (answer.status_code, error_of(answer)["code"]) == (503, "no_local_engine")
