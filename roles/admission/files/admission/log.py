# SPDX-License-Identifier: MIT
"""One JSON line per request on standard output. No content, no key, no word of the client."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime

Writer = Callable[[str], None]


def to_stdout(line: str) -> None:
    """Write one line and flush it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Log:
    """Structured lines: time (UTC, ISO 8601), event, and the fields given."""

    def __init__(self, write: Writer = to_stdout) -> None:
        self._write = write

    def event(self, event: str, **fields: str | int | float | None) -> None:
        """Write one line; fields that are None are left out."""
        known = {name: value for name, value in fields.items() if value is not None}
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._write(json.dumps({"time": now, "event": event, **known}, ensure_ascii=True))

    def fault(self, error: BaseException) -> None:
        """An error of our own: its class and where it happened. Its text could quote a request: it is not written."""
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        at = f"{frame.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.tb_lineno}" if frame else None
        self.event("fault", type=type(error).__name__, at=at)


class _Bare(logging.Handler):
    """Messages of libraries: the logger's name, level and unformatted message; never arguments or tracebacks."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.event("library", logger=record.name, level=record.levelname, message=str(record.msg)[:200].strip())


def quiet_libraries(log: Log) -> None:
    """Send library warnings through `log`, and nothing below warnings."""
    root = logging.getLogger()
    root.handlers[:] = [_Bare(log)]
    root.setLevel(logging.WARNING)
