# SPDX-License-Identifier: MIT
"""OpenAI's older completions as a chat: the prompt becomes a user's one message, the answer's text comes back."""

from __future__ import annotations

from admission.answer import KEEP_ALIVE, Answer, Choice, new_id, packed
from admission.errors import Refusal
from admission.schema import Plain, plain
from admission.schema_text import TextRequest

_SAME = (
    "stream", "stream_options", "max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed",
    "stop", "n", "logit_bias",
)  # fmt: skip


def to_chat(request: TextRequest) -> Plain:
    """The chat completion that the request asks for."""
    prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[0]
    return {"messages": [{"role": "user", "content": prompt}], **plain(request, _SAME)}


class TextVoice:
    """Chat answers as text completions. What was thought is left out: the route has no place for it."""

    def __init__(self, profile: str, name: str = "") -> None:
        self._profile = profile
        self._id = name or new_id("cmpl")

    def kept(self) -> Plain:
        return {"id": self._id}

    @classmethod
    def again(cls, kept: Plain, profile: str) -> TextVoice:
        """The voice of a request that has waited."""
        return cls(profile, str(kept["id"]))

    def _frame(self, answer: Answer, choices: list[dict[str, object]]) -> dict[str, object]:
        frame: dict[str, object] = {
            "id": self._id,
            "object": "text_completion",
            "created": answer.created,
            "model": self._profile,
            "choices": choices,
        }
        if answer.usage:
            counts = answer.usage.prompt_tokens, answer.usage.completion_tokens
            frame["usage"] = dict(
                zip(("prompt_tokens", "completion_tokens", "total_tokens"), (*counts, sum(counts)), strict=True)
            )
        return frame

    @staticmethod
    def _choice(choice: Choice, text: str) -> dict[str, object]:
        finish = choice.finish_reason
        return {"index": choice.index, "text": text, "logprobs": None, "finish_reason": finish}

    def whole(self, document: dict[str, object]) -> dict[str, object]:
        answer = Answer.model_validate(document)
        if not answer.choices or any(one.message is None or one.finish_reason is None for one in answer.choices):
            raise ValueError("an unfinished choice")
        texts = [one.message.text if one.message else "" for one in answer.choices]
        return self._frame(answer, [self._choice(one, text) for one, text in zip(answer.choices, texts, strict=True)])

    def chunk(self, document: dict[str, object]) -> bytes:
        answer = Answer.model_validate(document)
        said = [(one, one.delta.text if one.delta else "") for one in answer.choices]
        choices = [self._choice(one, text) for one, text in said if text or one.finish_reason]
        if not choices and not answer.usage:
            return b""
        return b"data: " + packed(self._frame(answer, choices)) + b"\n\n"

    def idle(self) -> bytes:
        return KEEP_ALIVE

    def done(self) -> bytes:
        return b"data: [DONE]\n\n"

    def failed(self, refusal: Refusal) -> bytes:
        return refusal.event()
