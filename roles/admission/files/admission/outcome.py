# SPDX-License-Identifier: MIT
"""What the gateway's answer means for the client.

Nothing of an upstream error is repeated: its text can name groups, addresses, or quote the request. Only its class is
used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from admission.config import Rule
from admission.errors import Refusal

QUEUE_RETRY_SECONDS = 30
TOO_LONG = "context_length_exceeded"
NOTHING_LOCAL = "no_local_engine"
TIMEOUT = "timeout"
TIMEOUTS = (TIMEOUT, "gateway answered 408", "gateway answered 504")
"""The reasons when the time was over: the chain's here, or a link's in the gateway."""

_OVERFLOW = ("contextwindowexceeded", "context_length_exceeded", "context length", "context size", "maximum context")
_FALLBACK_OVERFLOW = "also failed: litellm.contextwindowexceedederror"
"""In LiteLLM's text when the first link was away and a later one found the prompt too long; the status is a 500."""

_NO_RETRY = {"x-should-retry": "false"}
"""OpenAI's SDKs obey this header; without it they would ask again at once for what cannot be there yet."""


@dataclass(frozen=True)
class UpstreamError:
    """An error of the gateway: an HTTP status, and whether its text speaks of a prompt that is too long."""

    status: int
    overflow: bool = False


_LONG_NOTE = " The engine that is there cannot take a prompt of this length."


def too_long_for_now(refusal: Refusal) -> bool:
    """Whether an engine is there, and only another one of the chain could take the prompt."""
    return refusal.message.endswith(_LONG_NOTE)


def _needs(rule: Rule) -> str:
    modes = list(dict.fromkeys(f"GPU mode '{link.mode}'" for link in rule.links if link.mode))
    always = ["the CPU engine"] if any(link.mode is None for link in rule.links) else []
    return " or ".join(modes + always)


def nothing_local(profile: str, rule: Rule, reason: str, *, overflow: bool = False) -> Refusal:
    """No link of the chain answered: what the chain's terminal word promises.

    overflow: an engine is there, but the prompt is too long for it.
    """
    note = _LONG_NOTE if overflow else ""
    if rule.terminal == "queue":
        return Refusal(
            503,
            NOTHING_LOCAL,
            f"Nothing local can answer for profile '{profile}' now ({_needs(rule)} would serve it), and this admission "
            f"keeps no queue. The request did not leave this machine and was not kept; try again in "
            f"{QUEUE_RETRY_SECONDS} seconds.{note}",
            type="server_error",
            headers={"retry-after": str(QUEUE_RETRY_SECONDS)},
            reason=reason,
        )
    return Refusal(
        503,
        "engine_unavailable",
        f"Profile '{profile}' needs {_needs(rule)}, which does not answer now, and there is no fallback. The request "
        f"did not leave this machine and was not kept.{note}",
        type="server_error",
        headers=_NO_RETRY,
        reason=reason,
    )


def too_slow(profile: str, rule: Rule, tries: int) -> Refusal:
    """A job whose answer takes longer than its chain allows, again and again, from an engine that answers others."""
    return Refusal(
        504,
        "answer_too_slow",
        f"The engine did not finish the answer within {rule.timeout:.0f} seconds, {tries} times, though it answers "
        f"others. The chain of profile '{profile}' allows no more. Ask for less at once, or for fewer tokens.",
        type="server_error",
        headers=_NO_RETRY,
        reason=TIMEOUT,
    )


def too_long(profile: str, rule: Rule) -> Refusal:
    """The prompt does not fit the engine's context."""
    return Refusal(
        400,
        TOO_LONG,
        f"The prompt and the requested answer do not fit the engine that serves profile '{profile}' (every engine of "
        f"its chain takes {rule.context_length} tokens). Shorten the prompt or ask for fewer tokens.",
        param="messages",
        reason="context overflow",
    )


def rejected() -> Refusal:
    """The engine found the request itself wrong."""
    return Refusal(
        400,
        "engine_rejected_request",
        "The engine refused the request: one of its options or parts is not supported by this profile's model.",
        reason="rejected by engine",
    )


def misconfigured(reason: str) -> Refusal:
    """The gateway and admission do not agree: a fault of the installation, not of the request."""
    return Refusal(
        502,
        "gateway_misconfigured",
        "The local gateway refused admission's request. This is a fault of the installation; run the playbook again.",
        type="server_error",
        headers=_NO_RETRY,
        reason=reason,
    )


def interrupted(reason: str) -> Refusal:
    """A stream ended before its end."""
    return Refusal(
        502,
        "stream_interrupted",
        "The answer was cut off before its end; what arrived is not complete.",
        type="server_error",
        reason=reason,
    )


def read_error(status: int, raw: bytes) -> UpstreamError:
    """Class of an HTTP error answer. Its text decides about length only; it may quote the request, so nothing else."""
    text = raw[:65536].decode("utf-8", "replace").lower()
    if status == 400 and "invalid model name" in text:  # LiteLLM's answer to a group that it does not have
        return UpstreamError(403)
    words = _OVERFLOW if status in (400, 413) else (_FALLBACK_OVERFLOW,)
    return UpstreamError(status, overflow=any(word in text for word in words))


def read_error_event(error: object) -> UpstreamError:
    """Class of an error inside a stream; the code stands where the status would."""
    code = error.get("code") if isinstance(error, dict) else None
    status = int(code) if isinstance(code, int | str) and str(code).isdigit() and len(str(code)) == 3 else 500
    return read_error(status, json.dumps(error).encode())


def refusal_for(profile: str, rule: Rule, error: UpstreamError) -> Refusal:
    """The client's answer to an upstream error before the first byte."""
    if error.overflow and error.status in (400, 413):
        return too_long(profile, rule)
    if error.status in (400, 413, 415, 422):
        return rejected()
    if error.status in (401, 403):
        return misconfigured(f"gateway answered {error.status}")
    return nothing_local(profile, rule, f"gateway answered {error.status}", overflow=error.overflow)


def backend_of(headers: Mapping[str, str], profile: str, rule: Rule) -> str:
    """Which backend answered, from the gateway's header; 'unknown' when it does not say.

    Raises Refusal (502) when it names a backend that is not in the profile's chain: no answer is better than one from a
    place that was not promised.
    """
    stated = headers.get("x-litellm-model-id")
    if stated is None:
        return "unknown"
    for link in rule.links:
        if stated == f"{profile}/{link.backend}":
            return link.backend
    raise misconfigured("answered by a backend outside the chain")


def completion(raw: bytes) -> dict[str, object] | None:
    """The chat completion that these bytes are, or None."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list) or not choices:
        return None
    return document if all(isinstance(one, dict) and isinstance(one.get("message"), dict) for one in choices) else None


def clean(document: dict[str, object], profile: str) -> dict[str, object]:
    """A completion, or one chunk of it, under the profile's name and without the gateway's private notes."""
    document["model"] = profile
    document.pop("provider_specific_fields", None)
    choices = document.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        if not isinstance(choice, dict):
            continue
        choice.pop("provider_specific_fields", None)
        for part in (choice.get("message"), choice.get("delta")):
            if isinstance(part, dict):
                part.pop("provider_specific_fields", None)
    return document
