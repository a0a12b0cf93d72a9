# SPDX-License-Identifier: MIT
"""Who may ask a gateway, and what a request may hold. Pure: no LiteLLM, no files beyond the credential.

LiteLLM accepts several hundred body fields and many more routes, some of which choose a destination (``fallbacks``,
``api_base``, ``user_config`` …). Nothing of that is listed as forbidden: what is not listed as *allowed* is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COMPLETIONS = ("POST", "/v1/chat/completions")
MODELS = ("GET", "/v1/models")

#: Fields of the OpenAI chat completion request that say what to write. None of them says where or by whom.
ALLOWED_FIELDS = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "seed",
        "n",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
    }
)

#: Accepted, because client libraries send them, and never sent on: whose request it is says the key alone.
DROPPED_FIELDS = frozenset({"user"})

#: Fields that only admission sends, to engines of the plane: it has checked them, and made ``cache_salt`` itself.
LOCAL_FIELDS = frozenset({"top_k", "min_p", "repetition_penalty", "chat_template_kwargs", "cache_salt"})

#: Content parts that carry their content with them. LiteLLM itself fetches the URL of a ``file`` part (measured), and
#: an engine may fetch that of an ``image_url`` part, so only inline data passes.
INLINE_PARTS = frozenset({"text", "image_url", "input_audio", "refusal"})

#: Parts in vLLM's own form, from admission only.
LOCAL_PARTS = frozenset({"audio_url", "video_url", "file"})

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Refusal(Exception):
    """A request that is not let in: HTTP ``status``, machine-readable ``code``, a ``message`` that names the remedy."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field


@dataclass(frozen=True)
class Clients:
    """Known keys: SHA-256 of a key (hex) → its profile, or ``None`` for a key that may name any profile."""

    index: Mapping[str, str | None]

    def profile_of(self, key: str | None) -> tuple[str, str | None]:
        """Return (digest, profile) of a key, comparing every entry in constant time. Raises :class:`Refusal` (401)."""
        digest = hashlib.sha256((key or "").encode()).hexdigest()
        found = [known for known in self.index if hmac.compare_digest(known, digest)]
        if not key or not found:
            raise Refusal(
                401, "invalid_api_key", "This key is not known here. Use the key of a profile as the bearer token."
            )
        return digest, self.index[found[0]]


def read_index(path: Path) -> Clients:
    """Read ``{"<sha256>": "<profile>"}``. Raises :class:`ValueError` naming the file when it is anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as exc:
        raise ValueError(f"{path}: not JSON ({exc})") from exc
    good = isinstance(data, dict) and all(
        isinstance(digest, str) and _SHA256.fullmatch(digest) and isinstance(profile, str) and profile
        for digest, profile in data.items()
    )
    if not good:
        raise ValueError(f"{path}: expected an object that maps the SHA-256 of a key to the name of a profile")
    return Clients(data)


def read_single_key(path: Path) -> Clients:
    """Read one key in the clear, the sovereign gateway's only client. Raises :class:`ValueError` when it is empty."""
    key = path.read_text(encoding="utf-8").strip()
    if not key:
        raise ValueError(f"{path}: the key is empty")
    return Clients({hashlib.sha256(key.encode()).hexdigest(): None})


def load_clients(environment: Mapping[str, str]) -> Clients:
    """Read the credential the environment names. Raises :class:`RuntimeError` unless it names exactly one."""
    index, single = environment.get("MUSHISHI_GATEWAY_INDEX"), environment.get("MUSHISHI_GATEWAY_KEY")
    if bool(index) == bool(single):
        raise RuntimeError("set one of MUSHISHI_GATEWAY_INDEX and MUSHISHI_GATEWAY_KEY to the path of a credential")
    return read_index(Path(index)) if index else read_single_key(Path(str(single)))


def allowed_groups(profile: str, fallbacks: Sequence[Mapping[str, Sequence[str]]]) -> list[str]:
    """The groups that a profile's key may reach: its own and those its chain falls back to."""
    later = [group for entry in fallbacks for name, groups in entry.items() if name == profile for group in groups]
    return [profile, *later]


def first_links(groups: Sequence[str], fallbacks: Sequence[Mapping[str, Sequence[str]]]) -> frozenset[str]:
    """The groups that are no fallback of another one: these are the profiles."""
    later = {group for entry in fallbacks for names in entry.values() for group in names}
    return frozenset(groups) - later


def profiles_of(config: Mapping[str, object]) -> frozenset[str]:
    """The profiles of a configuration as the collection compiles it. Raises :class:`KeyError` for another shape."""
    models, router = config["model_list"], config["router_settings"]
    if not isinstance(models, list) or not isinstance(router, dict):
        raise KeyError("model_list and router_settings: not the shape that the collection compiles")
    return first_links([entry["model_name"] for entry in models], router["fallbacks"])


def check_route(method: str, path: str, query: str) -> bool:
    """True for a completion, False for the list of models. Raises :class:`Refusal` (404, 400) for anything else."""
    if (method, path) not in (COMPLETIONS, MODELS):
        raise Refusal(404, "unknown_route", "Only POST /v1/chat/completions and GET /v1/models are served here.")
    if query:
        raise Refusal(400, "query_not_allowed", "Send no query string: the request is the body alone.")
    return (method, path) == COMPLETIONS


def check_body(body: Mapping[str, object], profile: str | None, profiles: frozenset[str]) -> str:
    """Check a completion request and return the profile it is for.

    ``profile`` is the profile of the key (``None``: the key may name any of ``profiles``). Raises :class:`Refusal`.
    """
    local = profile is None
    unknown = sorted(set(body) - ALLOWED_FIELDS - (LOCAL_FIELDS if local else DROPPED_FIELDS))
    if unknown:
        name = unknown[0]
        raise Refusal(
            400, "field_not_allowed", f"The field {name[:60]!r} is not accepted here. Leave it out.", name[:60]
        )
    model = body.get("model")
    wanted = profile if profile is not None else model
    if not isinstance(wanted, str) or wanted not in profiles:
        raise Refusal(403, "model_not_allowed", "This key opens no profile of this gateway.", "model")
    if model != wanted:
        raise Refusal(
            403, "model_not_allowed", f"This key opens the model {wanted!r} only. Send that as model.", "model"
        )
    if not local and body.get("n") not in (None, 1):
        raise Refusal(400, "field_not_allowed", "Only one answer to a request is given. Leave n out.", "n")
    _check_tools(body.get("tools"))
    _check_messages(body.get("messages"), INLINE_PARTS | LOCAL_PARTS if local else INLINE_PARTS)
    return wanted


def _check_tools(tools: object) -> None:
    """Functions alone, which the client calls itself: LiteLLM or a provider acts on every other kind."""
    if tools is None:
        return
    if not isinstance(tools, list):
        raise Refusal(400, "tool_not_allowed", "Send tools as a list of functions, or leave it out.", "tools")
    for tool in tools:
        if not isinstance(tool, dict) or set(tool) != {"type", "function"} or tool["type"] != "function":
            raise Refusal(
                400, "tool_not_allowed", 'A tool is {"type": "function", "function": {…}} and nothing else.', "tools"
            )


def _check_messages(messages: object, kinds: frozenset[str]) -> None:
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "messages_missing", "Send messages, a list with at least one message.", "messages")
    for message in messages:
        if not isinstance(message, dict):
            raise Refusal(400, "message_not_allowed", "Each message is an object with role and content.", "messages")
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                _check_part(part, kinds)
        elif content is not None and not isinstance(content, str):
            raise Refusal(400, "message_not_allowed", "Content is a text or a list of parts.", "messages")


def _check_part(part: object, kinds: frozenset[str]) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str) or kind not in kinds:
        raise Refusal(
            400, "part_not_allowed", "A content part of this type is not accepted. Send its text.", "messages"
        )
    held = part.get(kind)
    if kind == "file":
        inline = isinstance(held, dict) and isinstance(held.get("file_data"), str) and "file_id" not in held
    elif kind.endswith("_url"):
        url = held.get("url") if isinstance(held, dict) else held
        inline = isinstance(url, str) and url.startswith("data:")
    else:
        inline = True
    if not inline:
        raise Refusal(400, "part_not_allowed", "Media are sent inline, as a data: URL. No URL is fetched.", "messages")
