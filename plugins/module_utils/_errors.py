# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""One kind of error for all modules: it names the object, what was seen, and what to do about it."""

from __future__ import annotations


class SovereignError(Exception):
    """An error that a person can act on.

    Args:
        thing: the object that is wrong, for example ``secret file /etc/x``.
        seen: what was found there. Never a secret.
        remedy: what to do about it, as an order.
    """

    def __init__(self, thing: str, seen: str, remedy: str) -> None:
        self.thing = thing
        self.seen = seen
        self.remedy = remedy
        super().__init__(f"{thing}: {seen}. {remedy}")
