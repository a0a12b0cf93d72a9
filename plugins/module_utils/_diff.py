# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""One comparison behind ``changed`` and ``diff``, so that the two cannot disagree."""

from __future__ import annotations

from typing import Any


class Differences:
    """Collects the properties of an object that differ from what is wanted."""

    def __init__(self) -> None:
        self._before: dict[str, Any] = {}
        self._after: dict[str, Any] = {}

    def compare(self, name: str, before: Any, after: Any) -> bool:
        """Notes property ``name`` when ``before`` and ``after`` differ; returns whether they do."""
        if before == after:
            return False
        self._before[name] = before
        self._after[name] = after
        return True

    @property
    def changed(self) -> bool:
        """Whether any property differs."""
        return bool(self._after)

    @property
    def names(self) -> list[str]:
        """Names of the properties that differ, in the order in which they were compared."""
        return list(self._after)

    def diff(self, header: str) -> dict[str, Any]:
        """The ``diff`` part of a module's result; ``header`` is usually a path."""
        return {
            "before_header": header,
            "after_header": header,
            "before": dict(self._before),
            "after": dict(self._after),
        }
