# SPDX-License-Identifier: MIT
"""Strict JSON: one meaning only, and bounded work before anything is built in memory."""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

# Strings are consumed whole, so that brackets and commas inside them do not count. The quantifiers are possessive and
# the closing quote is optional: every input is scanned once, from left to right, without backtracking.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)


class StrictJSONError(ValueError):
    """The bytes are not the one kind of JSON that is accepted; the text says why and holds none of the content."""


def _no_constant(_unused: str) -> NoReturn:
    raise StrictJSONError("holds NaN or Infinity, which is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise StrictJSONError("holds a number that is too large")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    built = dict(pairs)
    if len(built) != len(pairs):
        raise StrictJSONError("holds an object in which a key appears twice")
    return built


def _bounded(text: str, max_depth: int, max_tokens: int) -> None:
    depth = 0
    for count, match in enumerate(_TOKEN.finditer(text), start=1):
        if count > max_tokens:
            raise StrictJSONError(f"has more than {max_tokens} JSON elements")
        first = text[match.start()]
        if first in "[{":
            depth += 1
            if depth > max_depth:
                raise StrictJSONError(f"is nested deeper than {max_depth} levels")
        elif first in "]}":
            depth -= 1


def parse(raw: bytes, *, max_depth: int, max_tokens: int) -> dict[str, object]:
    """Parse one JSON object.

    raw: the body, already bounded in size. max_depth: levels of nesting. max_tokens: strings, brackets and commas
    together. Raises StrictJSONError for anything that is not UTF-8, not one object, ambiguous (duplicate keys) or not
    finite.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise StrictJSONError("is not UTF-8") from None
    _bounded(text, max_depth, max_tokens)
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except StrictJSONError:
        raise
    except (ValueError, RecursionError):
        raise StrictJSONError("is not valid JSON") from None
    if not isinstance(value, dict):
        raise StrictJSONError("must be a JSON object")
    return value
