# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""One real completion over HTTP with Python's own library, in this network namespace or in another one."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

# No completion of a few tokens, and no error, is larger.
_MAX_ANSWER = 4 * 1024 * 1024
_MAX_MESSAGE = 300

Result = TypeVar("Result")


@dataclass(frozen=True)
class Reply:
    """An HTTP answer. ``failure`` is set when there was none; header names are in lower case; times in seconds."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    seconds: float = 0.0
    failure: str = ""


def complete(
    url: str, model: str, prompt: str, *, key: str | None, max_tokens: int, timeout: float, prefer: str = ""
) -> Reply:
    """Asks ``<url>/chat/completions`` for one completion, without a stream.

    Args:
        url: base address, with ``/v1``.
        model: model or profile name.
        prompt: text of the one user message.
        key: bearer token; None sends no Authorization header.
        max_tokens: most tokens of the answer.
        timeout: seconds that one step (connect, send, a piece of the answer) may take.
        prefer: preferences of RFC 7240; nothing sends no such header.
    """
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    if prefer:
        headers["Prefer"] = prefer
    return _exchange(url, "POST", "/chat/completions", json.dumps(body), headers, timeout)


def forget(url: str, job: str, *, key: str, timeout: float) -> Reply:
    """Takes a job out of the private queue; ``job`` is its path on the server, as its answer named it."""
    base = urlsplit(url)
    headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
    return _exchange(f"{base.scheme}://{base.netloc}", "DELETE", job, None, headers, timeout)


def _exchange(url: str, method: str, path: str, body: str | None, headers: Mapping[str, str], timeout: float) -> Reply:
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=timeout)
    start = time.monotonic()
    try:
        connection.request(method, parts.path.rstrip("/") + path, body, dict(headers))
        response = connection.getresponse()
        raw = response.read(_MAX_ANSWER)
        names = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, names, _parse(raw), time.monotonic() - start)
    except (OSError, http.client.HTTPException) as error:
        return Reply(seconds=time.monotonic() - start, failure=_describe(error))
    finally:
        connection.close()


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text)[:_MAX_MESSAGE].lower()


def error_of(reply: Reply) -> tuple[str, str]:
    """Code and message of an OpenAI-shaped error body; empty strings when it is none."""
    error = reply.body.get("error") if isinstance(reply.body, dict) else None
    if not isinstance(error, dict):
        return "", ""
    return str(error.get("code") or ""), str(error.get("message") or "")[:_MAX_MESSAGE]


def is_completion(reply: Reply) -> bool:
    """Whether a reply is a completion. A health page with status 200 is not."""
    return (
        reply.status == 200
        and isinstance(reply.body, dict)
        and isinstance(reply.body.get("choices"), list)
        and len(reply.body["choices"]) > 0
    )


def tokens_of(reply: Reply) -> int:
    """Tokens of the answer as its usage part says, 0 when it does not."""
    usage = reply.body.get("usage") if isinstance(reply.body, dict) else None
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else 0


def together(jobs: Mapping[str, Callable[[], Result]], namespace: str = "") -> dict[str, Result]:
    """Runs jobs at the same time, each in a thread of its own, and returns their results by name.

    Args:
        jobs: what to run.
        namespace: path of a network namespace that the threads enter first. A thread's namespace is its own, so the
            rest of this process stays where it is. The empty string stays here.

    Raises:
        SovereignError: the namespace cannot be entered.
        Exception: what the first failing job raised.
    """

    def work(job: Callable[[], Result]) -> Result:
        if namespace:
            enter(namespace)
        return job()

    with ThreadPoolExecutor(max_workers=max(1, len(jobs))) as pool:
        futures = {name: pool.submit(work, job) for name, job in jobs.items()}
        return {name: future.result() for name, future in futures.items()}


def enter(namespace: str) -> None:
    """Moves the calling thread into a network namespace (Python 3.12 or newer).

    Raises:
        SovereignError: there is no such namespace, or this process may not enter it.
    """
    thing = f"network namespace {namespace}"
    setns: Callable[[int, int], None] | None = getattr(os, "setns", None)
    if setns is None:
        raise SovereignError(thing, "this Python cannot enter it", "Use Python 3.12 or newer on the target.")
    try:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(descriptor, getattr(os, "CLONE_NEWNET", 0x40000000))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SovereignError(
            thing,
            f"it cannot be entered ({error.strerror})",
            "Run as root, and look at `systemctl status mushishi-plane`.",
        ) from None
