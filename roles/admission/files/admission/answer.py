# SPDX-License-Identifier: MIT
"""What is read of a chat answer, and how it is said to a client in the words of the route that was asked."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from admission import outcome
from admission.errors import Refusal

KEEP_ALIVE = b": keep-alive\n\n"


def packed(document: object) -> bytes:
    """One line of JSON."""
    try:
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as an engine may cut one: it stays the escape that it was
        return json.dumps(document, separators=(",", ":")).encode()


def named_event(document: dict[str, object]) -> bytes:
    """A server-sent event whose name is the document's type."""
    return f"event: {document['type']}\ndata: ".encode() + packed(document) + b"\n\n"


def new_id(prefix: str) -> str:
    """A name that nobody has to guess or to find again: nothing is stored."""
    return f"{prefix}_{secrets.token_hex(16)}"


# --- what is read: other keys are left behind ------------------------------------------------------------------------
class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class CalledFunction(_Read):
    """A function the model called, or a piece of the call."""

    name: str | None = None
    arguments: str | None = None


class Call(_Read):
    """One call of a tool, or a piece of it."""

    index: int = 0
    id: str | None = None
    function: CalledFunction = CalledFunction()


class Said(_Read):
    """A message, or a piece of it."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Call] | None = None

    @property
    def text(self) -> str:
        """What is said; a refusal is said, too."""
        return (self.content or "") + (self.refusal or "")

    @property
    def thought(self) -> str:
        """What is thought, under either of the names that engines give it."""
        return self.reasoning_content or self.reasoning or ""


Finish = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class Choice(_Read):
    """An answer, or a piece of it."""

    index: int = 0
    message: Said | None = None
    delta: Said | None = None
    finish_reason: Finish | None = None
    stop_reason: str | int | None = None


class Details(_Read):
    """Parts of a number of tokens."""

    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Usage(_Read):
    """Numbers of tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None

    @property
    def cached(self) -> int:
        """Tokens of the prompt that came from the cache."""
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0

    @property
    def thought(self) -> int:
        """Tokens of the answer that are thoughts."""
        return (self.completion_tokens_details and self.completion_tokens_details.reasoning_tokens) or 0


class Answer(_Read):
    """A completion, or one chunk of it."""

    created: Annotated[int, Field(ge=0)] = 0
    choices: list[Choice]
    usage: Usage | None = None


def whole_of(document: dict[str, object]) -> tuple[Answer, Choice, Said]:
    """A whole answer, its one choice and its message; raises ValueError."""
    answer = Answer.model_validate(document)
    choice = answer.choices[0] if len(answer.choices) == 1 else None
    if choice is None or choice.message is None or choice.finish_reason is None:
        raise ValueError("not one finished choice")
    return answer, choice, choice.message


# --- how it is said --------------------------------------------------------------------------------------------------
class Voice(Protocol):
    """One answer in a route's own words. ValueError: the chat answer is not what it must be."""

    def whole(self, document: dict[str, object]) -> dict[str, object]:
        """A plain answer."""

    def chunk(self, document: dict[str, object]) -> bytes:
        """The events that a chunk of a stream becomes; may be none."""

    def idle(self) -> bytes:
        """A sign of life."""

    def done(self) -> bytes:
        """The end of a stream, at the gateway's own end mark. Raises Refusal when the answer itself had none."""

    def failed(self, refusal: Refusal) -> bytes:
        """The end of a stream that was cut."""

    def kept(self) -> dict[str, Any]:
        """What a voice of the same kind must know to say the answer later: a JSON object."""


class ChatVoice:
    """Chat completions: as they come, under the profile's name."""

    def __init__(self, profile: str) -> None:
        self._profile = profile

    def whole(self, document: dict[str, object]) -> dict[str, object]:
        return outcome.clean(document, self._profile)

    def chunk(self, document: dict[str, object]) -> bytes:
        return b"data: " + packed(outcome.clean(document, self._profile)) + b"\n\n"

    def idle(self) -> bytes:
        return KEEP_ALIVE

    def done(self) -> bytes:
        return b"data: [DONE]\n\n"

    def failed(self, refusal: Refusal) -> bytes:
        return refusal.event()

    def kept(self) -> dict[str, Any]:
        return {}


class Gathered:
    """What stands in a stream beside the pieces: how it ended, and the numbers."""

    def __init__(self) -> None:
        self.finish: Finish | None = None
        self.stopped_by: str | None = None
        self.usage: Usage | None = None

    def pieces(self, document: dict[str, object]) -> list[tuple[str, Any]]:
        """The chunk's pieces in order: ("thought", text), ("text", text), ("call", Call). Raises ValueError."""
        answer = Answer.model_validate(document)
        self.usage = answer.usage or self.usage
        found: list[tuple[str, Any]] = []
        for choice in answer.choices:
            said = choice.delta or Said()
            if choice.index != 0 or (self.finish and (said.text or said.thought or said.tool_calls)):
                raise ValueError("a piece of another answer, or after the end")
            found += [("thought", said.thought)] if said.thought else []
            found += [("text", said.text)] if said.text else []
            found += [("call", call) for call in said.tool_calls or []]
            if choice.finish_reason:
                self.finish = choice.finish_reason
                self.stopped_by = choice.stop_reason if isinstance(choice.stop_reason, str) else None
        return found

    def finished(self) -> Finish:
        """How the answer ended; raises Refusal when it did not."""
        if self.finish is None:
            raise outcome.interrupted("no finish reason")
        return self.finish


# --- a whole answer, said as a stream --------------------------------------------------------------------------------
def chunks_of(document: dict[str, Any], *, usage: bool) -> Iterator[dict[str, Any]]:
    """The chunks that a chat answer would have come in; usage: with the numbers at the end."""
    names: tuple[str, ...] = ("id", "created", "model", "system_fingerprint")
    head: dict[str, Any] = {key: document[key] for key in names if key in document}
    head["object"] = "chat.completion.chunk"
    for choice in document["choices"]:
        delta = {key: value for key, value in choice["message"].items() if value is not None}
        if "tool_calls" in delta:
            delta["tool_calls"] = [{**call, "index": at} for at, call in enumerate(delta["tool_calls"])]
        place = {"index": choice.get("index", 0)}
        logprobs = {"logprobs": choice["logprobs"]} if choice.get("logprobs") else {}
        yield {**head, "choices": [{**place, "delta": delta, **logprobs, "finish_reason": None}]}
        ended = {key: choice[key] for key in ("finish_reason", "stop_reason") if key in choice}
        yield {**head, "choices": [{**place, "delta": {}, **ended}]}
    if usage and document.get("usage"):
        yield {**head, "choices": [], "usage": document["usage"]}
