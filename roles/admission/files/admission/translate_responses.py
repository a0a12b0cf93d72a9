# SPDX-License-Identifier: MIT
"""OpenAI's Responses as a chat, and the chat's answer as a response or its events. Nothing is stored."""

from __future__ import annotations

import time

from admission import schema_responses as asked
from admission.answer import KEEP_ALIVE, Call, Finish, Gathered, Usage, named_event, new_id, whole_of
from admission.errors import Refusal
from admission.schema import InputAudioPart, Plain, RefusalPart, TextFormat, plain

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


# --- the request -----------------------------------------------------------------------------------------------------
def _part(part: object) -> Plain:
    if isinstance(part, asked.InputText | asked.OutputText):
        return {"type": "text", "text": part.text}
    if isinstance(part, asked.InputImage):
        return {"type": "image_url", "image_url": {"url": part.image_url, "detail": part.detail}}
    if isinstance(part, asked.InputFile):
        return {"type": "file", "file": {"file_data": part.file_data, "filename": part.filename}}
    if isinstance(part, InputAudioPart | RefusalPart):
        return plain(part)
    raise TypeError(type(part).__name__)


def _content(content: object) -> object:
    return [_part(part) for part in content] if isinstance(content, list) else content


def _messages(request: asked.ResponsesRequest) -> list[Plain]:
    messages: list[Plain] = []
    if request.instructions:
        messages.append({"role": "system", "content": request.instructions})
    if isinstance(request.input, str):
        return [*messages, {"role": "user", "content": request.input}]
    for item in request.input:
        if isinstance(item, asked.UserItem | asked.SystemItem | asked.AssistantItem):
            messages.append({"role": item.role, "content": _content(item.content)})
        elif isinstance(item, asked.OutputItem):
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)})
        elif isinstance(item, asked.CallItem):
            # A chat has calls within the message that they came with.
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            calls = messages[-1].setdefault("tool_calls", [])
            function = {"name": item.name, "arguments": item.arguments}
            calls.append({"id": item.call_id, "type": "function", "function": function})
    return messages


def _tool_choice(choice: object) -> object:
    if isinstance(choice, asked.NamedTool):
        return {"type": "function", "function": {"name": choice.name}}
    return choice


def _format(options: asked.TextOptions | None) -> object:
    form = options.format if options else None
    if isinstance(form, asked.SchemaFormat):
        return {"type": "json_schema", "json_schema": plain(form, ("name", "description", "schema_", "strict"))}
    return plain(form) if isinstance(form, TextFormat) else None


def to_chat(request: asked.ResponsesRequest) -> Plain:
    """The chat completion that the request asks for."""
    chat: Plain = {
        "messages": _messages(request),
        "stream": request.stream,
        "stream_options": {"include_usage": True} if request.stream else None,
        "max_completion_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "reasoning_effort": request.reasoning.effort if request.reasoning else None,
        "response_format": _format(request.text),
    }
    if request.tools:
        functions = [plain(tool, ("name", "description", "parameters", "strict")) for tool in request.tools]
        chat["tools"] = [{"type": "function", "function": function} for function in functions]
        chat["tool_choice"] = _tool_choice(request.tool_choice)
        chat["parallel_tool_calls"] = request.parallel_tool_calls
    return chat


# --- the answer ------------------------------------------------------------------------------------------------------
def _usage(usage: Usage | None) -> object:
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.thought},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _message(name: str, text: str, status: str) -> Plain:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"id": name, "type": "message", "role": "assistant", "status": status, "content": [part]}


def _reasoning(name: str, text: str, status: str) -> Plain:
    content = [{"type": "reasoning_text", "text": text}]
    return {"id": name, "type": "reasoning", "summary": [], "content": content, "status": status}


def _call(name: str, call_id: str, function: str, arguments: str, status: str) -> Plain:
    head = {"id": name, "type": "function_call", "status": status}
    return {**head, "call_id": call_id, "name": function, "arguments": arguments}


class _Item:
    """The item of the output that is being written."""

    def __init__(self, kind: str, index: int, at: int, call: Call | None = None) -> None:
        self.kind, self.index, self.at = kind, index, at
        self.name = new_id({"text": "msg", "thought": "rs", "call": "fc"}[kind])
        self.said: list[str] = []
        self.call_id = (call and call.id) or ""
        self.function = (call and call.function.name) or ""
        if kind == "call" and not (self.call_id and self.function):
            raise ValueError("a call without a name")

    def made(self, status: str) -> Plain:
        text = "".join(self.said)
        if self.kind == "call":
            return _call(self.name, self.call_id, self.function, text, status)
        return (_message if self.kind == "text" else _reasoning)(self.name, text, status)


class ResponsesVoice:
    """Chat answers as responses."""

    def __init__(self, head: Plain) -> None:
        self._head = head
        self._gathered = Gathered()
        self._output: list[Plain] = []
        self._item: _Item | None = None
        self._calls = 0
        self._number = 0

    @classmethod
    def of(cls, request: asked.ResponsesRequest, profile: str) -> ResponsesVoice:
        """The voice of a request."""
        text = plain(request.text) if request.text else {}
        head: Plain = {
            "id": new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "model": profile,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": request.reasoning.effort if request.reasoning else None, "summary": None},
            "store": False,
            "temperature": request.temperature,
            "text": {"format": {"type": "text"}, **text},
            "tool_choice": plain(request.tool_choice)
            if isinstance(request.tool_choice, asked.NamedTool)
            else request.tool_choice or "auto",
            "tools": [{"parameters": None, "strict": None, **plain(tool)} for tool in request.tools or []],
            "top_p": request.top_p,
            "truncation": "disabled",
            "background": False,
        }
        return cls(head)

    def kept(self) -> Plain:
        return self._head

    @classmethod
    def again(cls, kept: Plain, _profile: str) -> ResponsesVoice:
        """The voice of a request that has waited."""
        return cls(kept)

    def _response(self, status: str, usage: Usage | None = None, **more: object) -> Plain:
        state = {"status": status, "error": None, "incomplete_details": None, "output": self._output}
        return {**self._head, **state, "usage": _usage(usage), **more}

    def _ended(self, finish: Finish, usage: Usage | None) -> Plain:
        why = _INCOMPLETE.get(finish)
        if why is None:
            return self._response("completed", usage)
        return self._response("incomplete", usage, incomplete_details={"reason": why})

    def whole(self, document: dict[str, object]) -> dict[str, object]:
        answer, choice, said = whole_of(document)
        finish = choice.finish_reason or "stop"
        status = "incomplete" if finish in _INCOMPLETE else "completed"
        if said.thought:
            self._output.append(_reasoning(new_id("rs"), said.thought, status))
        if said.text or not said.tool_calls:
            self._output.append(_message(new_id("msg"), said.text, status))
        for call in said.tool_calls or []:
            item = _Item("call", call.index, len(self._output), call)
            item.said.append(call.function.arguments or "")
            self._output.append(item.made(status))
        return self._ended(finish, answer.usage)

    # ---- streamed
    def _event(self, kind: str, **more: object) -> bytes:
        event = named_event({"type": f"response.{kind}", "sequence_number": self._number, **more})
        self._number += 1
        return event

    def _within(self, item: _Item, kind: str, **more: object) -> bytes:
        place = {} if item.kind == "call" else {"content_index": 0}
        return self._event(kind, item_id=item.name, output_index=item.at, **place, **more)

    def _open(self, kind: str, index: int, call: Call | None) -> bytes:
        if kind == "call":
            if index != self._calls:
                raise ValueError("calls out of order")
            self._calls += 1
        item = self._item = _Item(kind, index, len(self._output), call)
        bare = {**item.made("in_progress"), **({} if kind == "call" else {"content": []})}
        events = self._event("output_item.added", output_index=item.at, item=bare)
        if kind == "text":
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            events += self._within(item, "content_part.added", part=part)
        return events

    def _close(self, status: str) -> bytes:
        item, self._item = self._item, None
        if item is None:
            return b""
        text, made = "".join(item.said), item.made(status)
        if item.kind == "text":
            events = self._within(item, "output_text.done", text=text, logprobs=[])
            events += self._within(item, "content_part.done", part=made["content"][0])
        elif item.kind == "thought":
            events = self._within(item, "reasoning_text.done", text=text)
        else:
            events = self._within(item, "function_call_arguments.done", name=item.function, arguments=text)
        self._output.append(made)
        return events + self._event("output_item.done", output_index=item.at, item=made)

    def _piece(self, kind: str, value: str | Call) -> bytes:
        call = value if isinstance(value, Call) else None
        index = call.index if call else 0
        events = b""
        if self._item is None or (self._item.kind, self._item.index) != (kind, index):
            events = self._close("completed") + self._open(kind, index, call)
        item = self._item
        if item is None:
            raise ValueError("no item")
        text = (call.function.arguments or "") if call else str(value)
        if not text:
            return events
        item.said.append(text)
        if kind == "call":
            return events + self._within(item, "function_call_arguments.delta", delta=text)
        if kind == "thought":
            return events + self._within(item, "reasoning_text.delta", delta=text)
        return events + self._within(item, "output_text.delta", delta=text, logprobs=[])

    def chunk(self, document: dict[str, object]) -> bytes:
        begun = self._number
        try:
            return self._chunk(document)
        except ValueError:
            self._number = begun  # nothing of a bad chunk is said, so its events have no numbers
            raise

    def _chunk(self, document: dict[str, object]) -> bytes:
        events = b""
        pieces = self._gathered.pieces(document)
        if not self._number:
            events = self._event("created", response=self._response("in_progress"))
            events += self._event("in_progress", response=self._response("in_progress"))
        for kind, value in pieces:
            events += self._piece(kind, value)
        return events

    def idle(self) -> bytes:
        return KEEP_ALIVE

    def done(self) -> bytes:
        finish = self._gathered.finished()
        events = b""
        if self._item is None and not self._output:
            events = self._open("text", 0, None)  # an empty answer is an answer
        events += self._close("incomplete" if finish in _INCOMPLETE else "completed")
        ended = self._ended(finish, self._gathered.usage)
        return events + self._event(str(ended["status"]), response=ended)

    def failed(self, refusal: Refusal) -> bytes:
        about = {"code": refusal.code, "message": refusal.message, "param": refusal.param, **refusal.extra}
        said = named_event({"type": "error", "sequence_number": self._number, **about})
        self._number += 1
        if self._item is not None:
            self._output.append(self._item.made("incomplete"))
        error = {"code": "server_error", "message": refusal.message}
        return said + self._event("failed", response=self._response("failed", error=error))
