# SPDX-License-Identifier: MIT
"""Anthropic's Messages as a chat, and the chat's answer as a message or its events."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable

from admission import schema_messages as asked
from admission.answer import Call, Finish, Gathered, Usage, named_event, new_id, whole_of
from admission.errors import Refusal
from admission.schema import Plain, plain

_STOP: dict[str, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
}


def error_payload(refusal: Refusal, request_id: str | None = None) -> dict[str, object]:
    """A refusal in Anthropic's shape, with our own code and field beside its type and message."""
    kind = _ERRORS.get(refusal.status, "invalid_request_error")
    about = {"type": kind, "message": refusal.message, "code": refusal.code, "param": refusal.param}
    error: dict[str, object] = {**about, **refusal.extra}
    return {"type": "error", "error": error, **({"request_id": request_id} if request_id else {})}


# --- the request -----------------------------------------------------------------------------------------------------
def _text(text: str) -> Plain:
    return {"type": "text", "text": text}


def _image(block: asked.ImageBlock) -> Plain:
    source = block.source
    url = source.url if isinstance(source, asked.ImageFile) else f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _document(block: asked.DocumentBlock) -> Plain:
    source = block.source
    if isinstance(source, asked.DocumentData):
        url = f"data:{source.media_type};base64,{source.data}"
    elif isinstance(source, asked.DocumentFile):
        url = source.url
    else:
        url = ""
    head = [text for text in (block.title, block.context) if text]
    if url.startswith("data:application/pdf"):
        return {"type": "file", "file": {"file_data": url, "filename": block.title}}
    if isinstance(source, asked.DocumentText):
        return _text("\n".join([*head, source.data]))
    return _text("\n".join([*head, base64.b64decode(url.partition(",")[2]).decode()]))  # the shelf saw that it is text


def _joined(content: str | list[asked.TextBlock]) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)


def _result(block: asked.ToolResultBlock) -> tuple[Plain, list[Plain]]:
    """The tool's message, and its images, for which a chat has no place there."""
    content = block.content or ""
    blocks = [] if isinstance(content, str) else content
    text = content if isinstance(content, str) else _joined([one for one in blocks if isinstance(one, asked.TextBlock)])
    said = f"Error: {text}" if block.is_error else text
    images = [_image(one) for one in blocks if isinstance(one, asked.ImageBlock)]
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": said}, images


def _user(turn: asked.UserTurn) -> list[Plain]:
    if isinstance(turn.content, str):
        return [{"role": "user", "content": turn.content}]
    messages: list[Plain] = []
    parts: list[Plain] = []
    for block in turn.content:
        if isinstance(block, asked.ToolResultBlock):
            message, images = _result(block)
            messages.append(message)
            parts += images
        elif isinstance(block, asked.ImageBlock):
            parts.append(_image(block))
        elif isinstance(block, asked.DocumentBlock):
            parts.append(_document(block))
        else:
            parts.append(_text(block.text))
    # An own message for every so many parts: a result's images count, too.
    for start in range(0, len(parts), 256):
        messages.append({"role": "user", "content": parts[start : start + 256]})
    return messages


def _assistant(turn: asked.AssistantTurn) -> Plain:
    if isinstance(turn.content, str):
        return {"role": "assistant", "content": turn.content}
    text = "".join(block.text for block in turn.content if isinstance(block, asked.TextBlock))
    thought = "".join(block.thinking for block in turn.content if isinstance(block, asked.ThinkingBlock))
    calls = [
        {"id": use.id, "type": "function", "function": {"name": use.name, "arguments": json.dumps(use.input)}}
        for use in turn.content
        if isinstance(use, asked.ToolUseBlock)
    ]
    message: Plain = {"role": "assistant", "content": text if text or not calls else None}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_choice(choice: object) -> object:
    if isinstance(choice, asked.NamedChoice):
        return {"type": "function", "function": {"name": choice.name}}
    if isinstance(choice, asked.NoneChoice):
        return "none"
    return {"auto": "auto", "any": "required"}[choice.type] if isinstance(choice, asked.AnyChoice) else None


def _template(thinking: asked.ThinkingOn | asked.ThinkingOther | None) -> object:
    if isinstance(thinking, asked.ThinkingOn):
        return {"enable_thinking": True, "thinking_budget": thinking.budget_tokens}
    return {"enable_thinking": thinking.type != "disabled"} if thinking else None


def to_chat(request: asked.MessagesRequest) -> Plain:
    """The chat completion that the request asks for."""
    messages: list[Plain] = []
    if request.system is not None:
        messages.append({"role": "system", "content": _joined(request.system)})
    for turn in request.messages:
        messages += _user(turn) if isinstance(turn, asked.UserTurn) else [_assistant(turn)]
    chat: Plain = {
        "messages": messages,
        "max_tokens": request.max_tokens,
        "stream": request.stream,
        "stream_options": {"include_usage": True} if request.stream else None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": request.stop_sequences or None,
        "chat_template_kwargs": _template(request.thinking),
    }
    if request.tools:
        chat["tools"] = [
            {
                "type": "function",
                "function": {"parameters": tool.input_schema, **plain(tool, ("name", "description", "strict"))},
            }
            for tool in request.tools
        ]
        chat["tool_choice"] = _tool_choice(request.tool_choice)
        alone = getattr(request.tool_choice, "disable_parallel_tool_use", None)
        chat["parallel_tool_calls"] = None if alone is None else not alone
    return chat


# --- the answer ------------------------------------------------------------------------------------------------------
def _usage(usage: Usage | None) -> Plain:
    counted = usage or Usage()
    return {
        "input_tokens": counted.prompt_tokens - counted.cached,
        "cache_read_input_tokens": counted.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": counted.completion_tokens,
    }


def _input(arguments: str) -> dict[str, object]:
    """A call's arguments; raises ValueError when they are no object."""
    value = json.loads(arguments or "{}")
    if not isinstance(value, dict):
        raise ValueError("arguments that are no object")  # noqa: TRY004 - as json.loads does
    return value


def _named(call: Call) -> Plain:
    if not call.id or not call.function.name:
        raise ValueError("a call without a name")
    return {"type": "tool_use", "id": call.id, "name": call.function.name}


class MessagesVoice:
    """Chat answers as messages. Who asked for thinking gets the thoughts, without a signature: nobody signs here."""

    def __init__(self, profile: str, *, thinking: bool, stops: Iterable[str], name: str = "") -> None:
        self._thinking = thinking
        self._stops = frozenset(stops)
        self._head: Plain = {"id": name or new_id("msg"), "type": "message", "role": "assistant", "model": profile}
        self._gathered = Gathered()
        self._begun = False
        self._open: tuple[str, int] | None = None
        self._at = 0
        self._calls = 0

    @classmethod
    def of(cls, request: asked.MessagesRequest, profile: str) -> MessagesVoice:
        """The voice of a request."""
        thinking = request.thinking is not None and request.thinking.type != "disabled"
        return cls(profile, thinking=thinking, stops=request.stop_sequences or [])

    def kept(self) -> Plain:
        return {"id": self._head["id"], "thinking": self._thinking, "stops": sorted(self._stops)}

    @classmethod
    def again(cls, kept: Plain, profile: str) -> MessagesVoice:
        """The voice of a request that has waited."""
        return cls(profile, thinking=bool(kept["thinking"]), stops=kept["stops"], name=str(kept["id"]))

    def _stop(self, finish: Finish, stopped_by: str | int | None, *, called: bool) -> Plain:
        if finish == "stop" and called:  # what engines say of a call that the client asked for by name
            finish = "tool_calls"
        if finish == "stop" and isinstance(stopped_by, str) and stopped_by in self._stops:
            return {"stop_reason": "stop_sequence", "stop_sequence": stopped_by}
        return {"stop_reason": _STOP[finish], "stop_sequence": None}

    def whole(self, document: dict[str, object]) -> dict[str, object]:
        answer, choice, said = whole_of(document)
        content: list[Plain] = []
        if said.thought and self._thinking:
            content.append({"type": "thinking", "thinking": said.thought, "signature": ""})
        if said.text:
            content.append(_text(said.text))
        content += [{**_named(call), "input": _input(call.function.arguments or "")} for call in said.tool_calls or []]
        ended = self._stop(choice.finish_reason or "stop", choice.stop_reason, called=bool(said.tool_calls))
        return {**self._head, "content": content, **ended, "usage": _usage(answer.usage)}

    # ---- streamed
    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        self._at += 1
        return named_event({"type": "content_block_stop", "index": self._at - 1})

    def _begin(self, kind: str, value: str | Call) -> bytes:
        index = 0
        if isinstance(value, Call):
            index = value.index
            if index != self._calls:
                raise ValueError("calls out of order")
            self._calls += 1
            block: Plain = {**_named(value), "input": {}}
        else:
            block = _text("") if kind == "text" else {"type": "thinking", "thinking": "", "signature": ""}
        self._open = (kind, index)
        return named_event({"type": "content_block_start", "index": self._at, "content_block": block})

    def _piece(self, kind: str, value: str | Call) -> bytes:
        if kind == "thought" and not self._thinking:
            return b""
        events = b""
        if self._open != (kind, value.index if isinstance(value, Call) else 0):
            events = self._close() + self._begin(kind, value)
        if isinstance(value, Call):
            delta: Plain = {"type": "input_json_delta", "partial_json": value.function.arguments or ""}
        elif kind == "thought":
            delta = {"type": "thinking_delta", "thinking": value}
        else:
            delta = {"type": "text_delta", "text": value}
        return events + named_event({"type": "content_block_delta", "index": self._at, "delta": delta})

    def chunk(self, document: dict[str, object]) -> bytes:
        events = b""
        pieces = self._gathered.pieces(document)
        if not self._begun:
            self._begun = True
            head = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(None)}
            events = named_event({"type": "message_start", "message": head}) + self.idle()
        for kind, value in pieces:
            events += self._piece(kind, value)
        return events

    def idle(self) -> bytes:
        return named_event({"type": "ping"})

    def done(self) -> bytes:
        finish = self._gathered.finished()
        ended = self._stop(finish, self._gathered.stopped_by, called=self._calls > 0)
        events = self._close()
        events += named_event({"type": "message_delta", "delta": ended, "usage": _usage(self._gathered.usage)})
        return events + named_event({"type": "message_stop"})

    def failed(self, refusal: Refusal) -> bytes:
        return named_event(error_payload(refusal))
