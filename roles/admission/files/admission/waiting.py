# SPDX-License-Identifier: MIT
"""What a client may say about waiting, and what it is told: the words of the private queue in HTTP."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from admission.errors import Refusal
from admission.journal import Job, digest
from admission.routes import JOB_PATH

RETRY_SECONDS = 30
"""When to ask again while nobody can tell how long it takes: no engine is there, or none was measured yet."""
LONGEST_RETRY = 3600
NO_RETRY = {"x-should-retry": "false"}
_KEY = re.compile(rb"[\x21-\x7e]{1,255}")
_WAIT = re.compile(r"wait\s*=\s*\"?(\d{1,9})\"?")


@dataclass(frozen=True)
class Wishes:
    """What the client wishes. wait: seconds, None when it did not say; key: digest of its idempotency key."""

    wait: float | None = None
    respond_async: bool = False
    key: bytes | None = None

    def applied(self, wait: float) -> dict[str, str]:
        """The header that says which preferences were followed (RFC 7240)."""
        words = ["respond-async"] if self.respond_async else []
        words += [] if self.wait is None else [f"wait={wait:.0f}"]
        return {"preference-applied": ", ".join(words)} if words else {}


def wishes(headers: Iterable[tuple[bytes, bytes]]) -> Wishes:
    """Read ``Prefer`` and ``Idempotency-Key``; an unknown preference is none. Raises Refusal (400) for a bad key."""
    wait: float | None = None
    respond_async = False
    keys = []
    for name, value in headers:
        if name == b"prefer":
            for part in value.decode("latin-1").lower().split(","):
                found = _WAIT.fullmatch(part.split(";")[0].strip())
                if found and wait is None:  # the first one counts, as RFC 7240 says
                    wait = float(found[1])
                respond_async = respond_async or part.split(";")[0].strip() == "respond-async"
        elif name == b"idempotency-key" and value.strip():  # ingress writes each anew; one without a value is none
            keys.append(value.strip())
    if len(keys) > 1 or (keys and not _KEY.fullmatch(keys[0])):
        raise Refusal(
            400,
            "invalid_idempotency_key",
            "Idempotency-Key must be given once, with 1 to 255 visible ASCII characters",
            reason="idempotency key",
        )
    return Wishes(wait, respond_async, digest(keys[0]) if keys else None)


def url_of(job: Job) -> str:
    """Where the job's owner asks for it."""
    return JOB_PATH + job.id


def retry_after(eta: float | None) -> int:
    """Seconds after which asking again makes sense."""
    return RETRY_SECONDS if eta is None else min(LONGEST_RETRY, max(1, math.ceil(eta)))


def still_queued(job: Job, position: int, eta: float | None) -> Refusal:
    """The client's time is over, the job's is not."""
    return Refusal(
        503,
        "queued",
        f"Nothing local can answer profile '{job.profile}' yet. The request waits in this machine's private queue, at "
        f"place {position}; it did not leave this machine and will be answered. Ask for it with GET {url_of(job)}.",
        type="server_error",
        headers={"retry-after": str(retry_after(eta)), "location": url_of(job), **NO_RETRY},
        reason="queued",
        extra={"job": url_of(job)},
    )


def full(why: str) -> Refusal:
    """The queue cannot take the request."""
    return Refusal(
        503,
        "queue_full",
        f"Nothing local can answer now, and the private queue takes nothing more: {why}. The request did not leave "
        "this machine and was not kept.",
        type="server_error",
        headers={"retry-after": str(RETRY_SECONDS), **NO_RETRY},
        reason="queue full",
    )


def broken(reason: str) -> Refusal:
    """The queue's file or disk fails."""
    return Refusal(
        503,
        "queue_failed",
        "Nothing local can answer now, and the private queue cannot be written. The request did not leave this machine "
        "and was not kept. This is a fault of the machine; its log names the cause.",
        type="server_error",
        headers=NO_RETRY,
        reason=f"queue: {reason}",
    )


def unread(job_id: str, reason: str) -> Refusal:
    """The queue's file or disk fails for a job that it has: the job stays."""
    url = JOB_PATH + job_id
    return Refusal(
        503,
        "job_unreadable",
        "The private queue cannot be read or written now. The job stays; it did not leave this machine. Ask again with "
        f"{url}. This is a fault of the machine; its log names the cause.",
        type="server_error",
        headers={"retry-after": str(RETRY_SECONDS), "location": url, **NO_RETRY},
        reason=f"queue: {reason}",
        extra={"job": url},
    )


def key_reused() -> Refusal:
    """An idempotency key with another request."""
    return Refusal(
        422,
        "idempotency_key_reused",
        "This Idempotency-Key came before with another request. Give each request a key of its own.",
        reason="idempotency key reused",
    )


def unknown() -> Refusal:
    """No such job, or none of this key: the same answer."""
    return Refusal(404, "unknown_job", "There is no such job, or not for this key", reason="unknown job")


def ended_without(state: str) -> Refusal:
    """A waiting client's job was cancelled, or has expired."""
    if state == "cancelled":
        return Refusal(
            409, "job_cancelled", "The job was cancelled before it had an answer", headers=NO_RETRY, reason="cancelled"
        )
    return Refusal(
        503,
        "job_expired",
        "The job waited longer than the private queue keeps one. It did not leave this machine.",
        type="server_error",
        headers=NO_RETRY,
        reason="expired",
    )


def packed_refusal(refusal: Refusal) -> bytes:
    """A refusal as it is stored."""
    return json.dumps(
        {
            "status": refusal.status,
            "code": refusal.code,
            "message": refusal.message,
            "type": refusal.type,
            "param": refusal.param,
        }
    ).encode()


def stored_refusal(raw: bytes) -> Refusal:
    """The refusal that was stored."""
    known: dict[str, Any] = json.loads(raw)
    return Refusal(**known, headers=NO_RETRY, reason="refused by engine, from the queue")


def _when(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def described(job: Job, *, running: bool, position: int | None, eta: float | None) -> dict[str, object]:
    """A job as its owner sees it, without its answer."""
    return {
        "id": job.id,
        "object": "queue.job",
        "status": "running" if running and job.waits else job.state,
        "url": url_of(job),
        "model": job.profile,
        "created_at": _when(job.accepted),
        "ended_at": _when(job.ended),
        "position": position,
        "eta_seconds": None if eta is None else round(eta, 1),
        "backend": job.backend,
    }


def with_answer(about: Mapping[str, object], name: str, raw: bytes) -> bytes:
    """The job and its answer (JSON), as one document."""
    head = json.dumps(about, ensure_ascii=False).encode()
    return head[:-1] + b', "' + name.encode() + b'": ' + raw + b"}"
