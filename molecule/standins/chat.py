# SPDX-License-Identifier: MIT
"""Sending a canned answer over a connection: plain or streamed, at a given speed, whole or cut."""

from __future__ import annotations

import json
import time

from . import http1
from .net import Connection
from .openai_wire import Answer

BEFORE_A_CUT = 1.0
"""Seconds between the last piece and the cut of a stream that has begun: many clients drop what they have not read yet
when they learn that the connection is gone, and a busy machine reads late."""


def send_answer(
    connection: Connection,
    answer: Answer,
    stream: bool,
    include_usage: bool,
    *,
    first: float = 0.0,
    each: float = 0.0,
    cut_after: int | None = None,
    short_after: int | None = None,
    greeting: bytes = b"",
) -> bool:
    """Send an answer; False when the connection is of no use afterwards (cut, or the client is gone).

    `first` and `each` are seconds before the first and every further token; `cut_after` ends a stream after that many
    pieces of content, and a plain answer in the middle of its body. `short_after` ends a stream's body in good order
    after that many pieces, without saying why the answer ends; a plain answer is whole.
    """
    if not stream:
        time.sleep(first + each * max(0, len(answer.pieces) - 1))
        whole = http1.json_response(200, answer.plain())
        if cut_after is None:
            return connection.send(whole)
        connection.send(
            whole[: whole.index(b"\r\n\r\n") + 4 + len(json.dumps(answer.plain())) // 2]
        )
        return False
    head = (
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-cache"),
    )
    if not connection.send(http1.head(200, (*head, ("transfer-encoding", "chunked")))):
        return False
    if greeting and not connection.send(http1.chunk(greeting)):
        return False
    time.sleep(first)
    said = 0
    for is_content, event in answer.events(include_usage):
        if is_content:
            if cut_after is not None and said >= cut_after:
                time.sleep(BEFORE_A_CUT if said else 0)
                return False
            if short_after is not None and said >= short_after:
                break
            if said:
                time.sleep(each)
            said += 1
        if not connection.send(http1.chunk(event)):
            return False
    return connection.send(http1.chunk(b""))
