# SPDX-License-Identifier: MIT
"""Does the service answer? Asked from outside the process: it is up, and it refuses a key that no profile has."""

from __future__ import annotations

import http.client

from admission.config import Listen


def _status(listen: Listen, path: str, headers: dict[str, str], seconds: float) -> int:
    connection = http.client.HTTPConnection(listen.host, listen.port, timeout=seconds)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def probe(listen: Listen, seconds: float = 2.0) -> str | None:
    """None when the service answers as it must, else what is wrong. seconds: bound of each of the two questions."""
    questions: list[tuple[str, dict[str, str], int]] = [
        ("/healthz", {}, 200),
        ("/v1/models", {"Authorization": "Bearer no-such-key"}, 401),
    ]
    for path, headers, wanted in questions:
        try:
            status = _status(listen, path, headers, seconds)
        except (OSError, http.client.HTTPException) as error:
            return f"{listen.host}:{listen.port}{path}: {type(error).__name__}"
        if status != wanted:
            return f"{listen.host}:{listen.port}{path}: answered {status}, not {wanted}"
    return None
