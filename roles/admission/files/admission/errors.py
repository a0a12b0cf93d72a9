# SPDX-License-Identifier: MIT
"""What admission says when it does not pass a request on: one OpenAI-shaped error, never content of the request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(eq=False)
class Refusal(Exception):
    """An answer that is an error.

    status: HTTP status. code: stable word for programs. message: one or two sentences for a person.
    param: the path of the offending field, as the client wrote it (``messages[0].content``).
    headers: extra response headers. reason: the class of the cause, for the log only; it never holds content.
    extra: more keys of the error object.
    """

    status: int
    code: str
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    def payload(self) -> dict[str, object]:
        """The error as an OpenAI error object."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": {**error, **self.extra}}

    def event(self) -> bytes:
        """The error as one server-sent event."""
        return b"data: " + json.dumps(self.payload(), ensure_ascii=False).encode() + b"\n\n"


class ClientGoneError(Exception):
    """The client went away, or took its answer too slowly; there is nobody left to answer."""


def bad_field(param: str | None, why: str) -> Refusal:
    """A 400 that names the field and the reason."""
    where = f"'{param}' " if param else "The request body "
    return Refusal(400, "invalid_request", where + why, param=param)
