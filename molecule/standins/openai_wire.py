# SPDX-License-Identifier: MIT
"""The OpenAI wire protocol as stand-ins speak it: a canned answer, plain or as server-sent events.

The text depends on the seed given (who answers, and the prompt), never on sampling, and never repeats the prompt:
otherwise a recorder could not tell a question from an answer.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT_TOKENS = 24
"""Length of an answer, in tokens, when the request sets no limit."""

# fmt: off
_WORDS = (
    "amber", "anchor", "apple", "arrow", "autumn", "basin", "birch", "bridge", "canvas", "cedar", "chalk",
    "cliff", "cloud", "copper", "coral", "creek", "dawn", "delta", "drift", "ember", "fern", "field", "flint",
    "forest", "frost", "garden", "glass", "granite", "grove", "harbor", "hazel", "hill", "island", "ivory",
    "juniper", "lake", "lantern", "leaf", "linen", "maple", "marble", "meadow", "mist", "moss", "north", "ocean",
    "olive", "orchard", "pebble", "pine", "plain", "quartz", "rain", "reed", "ridge", "river", "sage", "sand",
    "shore", "silver", "slate", "snow", "spring", "stone", "storm", "summit", "tide", "timber", "valley",
    "willow", "winter", "wool",
)
# fmt: on
_TOKEN = re.compile(r"\w+|[^\w\s]")


def count_tokens(text: str) -> int:
    """Words and punctuation marks: a fixed, explainable stand-in for a tokenizer."""
    return len(_TOKEN.findall(text))


def message_text(message: object) -> str:
    """The text of a chat message; content parts that are no text count as their JSON."""
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(content, str):
        return content
    return json.dumps(content, sort_keys=True, ensure_ascii=False)


def prompt_of(body: dict[str, Any]) -> str:
    """The prompt of a chat or text completion as one string. Raises ValueError when there is none."""
    if isinstance(body.get("messages"), list) and body["messages"]:
        return "\n".join(message_text(message) for message in body["messages"])
    if body.get("prompt") not in (None, "", []):
        prompt = body["prompt"]
        return (
            prompt
            if isinstance(prompt, str)
            else json.dumps(prompt, ensure_ascii=False)
        )
    raise ValueError("messages")


def prompt_tokens(body: dict[str, Any]) -> int:
    """Tokens of the prompt, with 4 for the frame of each message."""
    messages = body.get("messages")
    return count_tokens(prompt_of(body)) + (
        4 * len(messages) if isinstance(messages, list) else 0
    )


def limit_of(body: dict[str, Any]) -> int:
    """How many tokens the request allows."""
    for key in ("max_completion_tokens", "max_tokens"):
        value = body.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
    return DEFAULT_TOKENS


def canned_pieces(name: str, prompt: str, limit: int) -> tuple[list[str], str]:
    """The answer as one piece per token, and the finish reason (``stop`` or ``length``).

    The whole answer has DEFAULT_TOKENS tokens; `limit` cuts it.
    """
    digest = hashlib.sha512(
        f"{name}\0{prompt}".encode("utf-8", "surrogatepass")
    ).digest()
    words = [
        f"[stand-in {name}]",
        *(_WORDS[b % len(_WORDS)] for b in digest[: DEFAULT_TOKENS - 1]),
    ]
    pieces = [word if at == 0 else f" {word}" for at, word in enumerate(words)]
    return (pieces, "stop") if limit >= len(pieces) else (pieces[:limit], "length")


@dataclass(frozen=True)
class Answer:
    """What is said to one completion request."""

    name: str
    model: str
    pieces: list[str]
    finish_reason: str
    prompt_tokens: int
    chat: bool = True
    extra: Mapping[str, object] = field(default_factory=dict)
    """Further members of every object that is sent, as the real server has them."""

    @classmethod
    def to(
        cls,
        body: dict[str, Any],
        name: str,
        model: str,
        chat: bool = True,
        extra: Mapping[str, object] | None = None,
    ) -> Answer:
        """Answer a request body. Raises ValueError naming the missing field."""
        pieces, reason = canned_pieces(name, prompt_of(body), limit_of(body))
        return cls(name, model, pieces, reason, prompt_tokens(body), chat, extra or {})

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)

    @property
    def usage(self) -> dict[str, Any]:
        """Token counts."""
        made = len(self.pieces)
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + made,
            "completion_tokens": made,
            "prompt_tokens_details": None,
        }

    @property
    def identity(self) -> str:
        """The answer's id; the same for the same answer."""
        digest = hashlib.sha256(f"{self.name}\0{self.text}".encode()).hexdigest()[:32]
        return f"{'chatcmpl' if self.chat else 'cmpl'}-{digest}"

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.identity,
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
            "choices": choices,
            **self.extra,
        }

    def plain(self) -> dict[str, Any]:
        """The whole answer in one object."""
        choice: dict[str, Any] = {
            "index": 0,
            "logprobs": None,
            "finish_reason": self.finish_reason,
        }
        if self.chat:
            choice["message"] = {
                "role": "assistant",
                "content": self.text,
                "refusal": None,
                "tool_calls": [],
            }
        else:
            choice["text"] = self.text
        frame = self._frame(
            "chat.completion" if self.chat else "text_completion", [choice]
        )
        return {**frame, "usage": self.usage}

    def events(self, include_usage: bool) -> Iterator[tuple[bool, bytes]]:
        """The answer as server-sent events: (is this a piece of content, bytes)."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"

        def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
            return sse({**self._frame(kind, choices), **more})

        extra: dict[str, Any] = {"usage": None} if include_usage else {}
        if self.chat:
            yield (
                False,
                event(
                    [self._choice({"role": "assistant", "content": ""}, None)], **extra
                ),
            )
        for piece in self.pieces:
            yield True, event([self._choice({"content": piece}, None)], **extra)
        yield False, event([self._choice({}, self.finish_reason)], **extra)
        if include_usage:
            yield False, event([], usage=self.usage)
        yield False, b"data: [DONE]\n\n"

    def _choice(self, delta: dict[str, str], reason: str | None) -> dict[str, Any]:
        said: dict[str, Any] = (
            {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        )
        return {"index": 0, **said, "logprobs": None, "finish_reason": reason}


def wants_usage(body: dict[str, Any]) -> bool:
    """True when the stream shall end with the token counts."""
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def sse(value: object) -> bytes:
    """One server-sent event with a JSON value."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


@dataclass(frozen=True)
class Fault:
    """A told misbehaviour, ``kind`` or ``kind=number``."""

    kind: str = "ok"
    value: float = 0.0

    @classmethod
    def parse(cls, text: str, known: dict[str, float | None]) -> Fault:
        """Read a fault; `known` maps each kind to its default number, None for a kind without one.

        Raises ValueError naming what is known.
        """
        kind, equals, number = text.partition("=")
        if kind not in known:
            raise ValueError(f"unknown fault {text!r}; known: {', '.join(known)}")
        default = known[kind]
        if default is None:
            if equals:
                raise ValueError(f"fault {kind!r} takes no number")
            return cls(kind)
        if not equals:
            return cls(kind, default)
        try:
            value = float(number)
        except ValueError:
            raise ValueError(f"fault {kind!r}: {number!r} is not a number") from None
        if not 0 <= value <= 86400:
            raise ValueError(f"fault {kind!r}: {number} is outside 0…86400")
        return cls(kind, value)

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}" if self.value else self.kind
