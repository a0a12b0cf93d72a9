# SPDX-License-Identifier: MIT
"""The routes: path, method, and how a request becomes the one kind of request that the gateway gets.

The gateway knows chat completions alone. Every other route's request is checked by its own schema, translated, and what
comes of it is checked once more as a chat completion: a translation can let nothing through that the chat would refuse.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from admission import schema, translate_messages, translate_responses, translate_text
from admission.answer import ChatVoice, Voice
from admission.errors import Refusal
from admission.media import Shelf
from admission.schema import ChatRequest, Plain
from admission.schema_messages import MessagesRequest
from admission.schema_responses import ResponsesRequest
from admission.schema_text import EmbeddingRequest, TextRequest

Read = Callable[[dict[str, object], str, Shelf | None], tuple[ChatRequest, Voice]]


def _chat(document: dict[str, object], profile: str, shelf: Shelf | None) -> tuple[ChatRequest, Voice]:
    return schema.validate(document, profile, shelf), ChatVoice(profile)


def _checked(chat: Plain, profile: str) -> ChatRequest:
    return schema.validate({key: value for key, value in chat.items() if value is not None}, profile)


def _text(document: dict[str, object], profile: str, shelf: Shelf | None) -> tuple[ChatRequest, Voice]:
    request = schema.read(TextRequest, document, shelf)
    schema.check_model(request.model, profile)
    return _checked(translate_text.to_chat(request), profile), translate_text.TextVoice(profile)


def _responses(document: dict[str, object], profile: str, shelf: Shelf | None) -> tuple[ChatRequest, Voice]:
    request = schema.read(ResponsesRequest, document, shelf)
    schema.check_model(request.model, profile)
    voice = translate_responses.ResponsesVoice.of(request, profile)
    return _checked(translate_responses.to_chat(request), profile), voice


def _messages(document: dict[str, object], profile: str, shelf: Shelf | None) -> tuple[ChatRequest, Voice]:
    request = schema.read(MessagesRequest, document, shelf)
    schema.check_model(request.model, profile)
    voice = translate_messages.MessagesVoice.of(request, profile)
    return _checked(translate_messages.to_chat(request), profile), voice


def _embeddings(document: dict[str, object], profile: str, shelf: Shelf | None) -> tuple[ChatRequest, Voice]:
    schema.check_model(schema.read(EmbeddingRequest, document, shelf).model, profile)
    raise Refusal(
        404,
        "no_embedding_engine",
        f"No engine in the chain of profile '{profile}' makes embeddings, and no other one may answer. The request did "
        f"not leave this machine and was not kept.",
        headers={"x-should-retry": "false"},
        reason="no embedding engine",
    )


@dataclass(frozen=True)
class Route:
    """One path and its method.

    read: the request's check and translation; None where there is no body. long: the field to shorten when the prompt
    is too long. anthropic: keys and errors are in Anthropic's form. job: the path names a job of the private queue.
    """

    method: str
    read: Read | None = None
    long: str = "messages"
    anthropic: bool = False
    job: bool = False


ROUTES: dict[bytes, Route] = {
    b"/healthz": Route("GET"),
    b"/v1/models": Route("GET"),
    b"/v1/chat/completions": Route("POST", _chat),
    b"/v1/completions": Route("POST", _text, long="prompt"),
    b"/v1/embeddings": Route("POST", _embeddings, long="input"),
    b"/v1/responses": Route("POST", _responses, long="input"),
    b"/v1/messages": Route("POST", _messages, anthropic=True),
}
"""Path, compared byte by byte with what the client wrote. The query string is never looked at."""

JOB_PATH = "/v1/queue/"
_JOB = re.compile(rb"/v1/queue/([A-Za-z0-9_-]{43})")
JOB_ROUTES = {method: Route(method, job=True) for method in ("GET", "DELETE")}

_AGAIN: dict[str, Callable[[dict[str, Any], str], Voice]] = {
    "/v1/chat/completions": lambda _kept, profile: ChatVoice(profile),
    "/v1/completions": translate_text.TextVoice.again,
    "/v1/responses": translate_responses.ResponsesVoice.again,
    "/v1/messages": translate_messages.MessagesVoice.again,
}


def job_of(path: bytes) -> str | None:
    """The name of the job that a path means."""
    found = _JOB.fullmatch(path)
    return found[1].decode() if found else None


def voice_again(route: str, kept: dict[str, Any], profile: str) -> Voice:
    """The voice of a request that has waited; kept: what `Voice.kept` said."""
    return _AGAIN[route](kept, profile)
