# SPDX-License-Identifier: MIT
"""Find a marker in bytes, whatever it was wrapped in on its way out.

The search expands a blob into *views* (the blob with one layer of encoding taken off, again and again) and looks for
the marker in each of them, ignoring case. It errs on the side of finding: views that are nonsense do no harm.
"""

from __future__ import annotations

import base64
import binascii
import functools
import html
import re
import urllib.parse
import zlib
from collections.abc import Callable, Iterator

MAX_DEPTH = 4
"""Layers of encoding that are taken off, one inside the other."""
MAX_VIEWS = 600
"""Views of one blob, a bound on time."""
MAX_REMEMBERED = 16 * 1024
"""Blobs up to this size keep their views, since tests look for several markers in the same records."""
MAX_INFLATED = 32 * 1024 * 1024
"""Bytes that one compressed piece may open to."""

# A marker of 8 bytes is 11 characters of base64, 13 of base32 and 16 of hex.
_BASE64_RUN = re.compile(rb"[A-Za-z0-9+/_-]{11,}")
_BASE32_RUN = re.compile(rb"[A-Za-z2-7]{13,}")
_HEX_RUN = re.compile(rb"[0-9A-Fa-f]{16,}")
_JSON_ESCAPE = re.compile(rb'\\(u[0-9A-Fa-f]{4}|["\\/bfnrt])')
_JSON_SHORT = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_WHITE = re.compile(rb"[\s\x00]+")
_GZIP_MAGIC = re.compile(rb"\x1f\x8b\x08")
_ZLIB_MAGIC = re.compile(rb"\x78[\x01\x5e\x9c\xda]")


def find_encoding(blob: bytes, marker: str) -> str | None:
    """Say how `marker` occurs in `blob`: ``plain``, or the layers taken off, outermost first (``json>base64``).

    Returns None when it does not occur. Raises ValueError for an empty marker.
    """
    if not marker:
        raise ValueError("an empty marker occurs everywhere")
    needle = marker.encode().lower()
    expanded = _remembered(blob) if len(blob) <= MAX_REMEMBERED else _lowered(blob)
    return next((chain or "plain" for chain, view in expanded if needle in view), None)


def _lowered(blob: bytes) -> tuple[tuple[str, bytes], ...]:
    return tuple((chain, view.lower()) for chain, view in views(blob))


_remembered = functools.lru_cache(maxsize=2048)(_lowered)


def views(blob: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield `blob` and every view of it, breadth first, as (layers, bytes)."""
    seen = {blob}
    queue: list[tuple[str, int, bytes]] = [("", 0, blob)]
    for chain, depth, view in queue:
        yield chain, view
        if depth == MAX_DEPTH:
            continue
        for name, decoder in _DECODERS:
            for decoded in decoder(view):
                if len(decoded) >= 4 and decoded not in seen and len(queue) < MAX_VIEWS:
                    seen.add(decoded)
                    queue.append(
                        (f"{chain}>{name}" if chain else name, depth + 1, decoded)
                    )


def inflate(data: bytes, window_bits: int) -> bytes:
    """Open as much of a compressed piece as can be opened; empty when it is none (`window_bits` as in zlib)."""
    try:
        return zlib.decompressobj(window_bits).decompress(data, MAX_INFLATED)
    except zlib.error:
        return b""


def _percent(view: bytes) -> Iterator[bytes]:
    if b"%" in view:
        yield urllib.parse.unquote_to_bytes(view)


def _json(view: bytes) -> Iterator[bytes]:
    if b"\\" in view:
        yield _JSON_ESCAPE.sub(_json_char, view)


def _json_char(match: re.Match[bytes]) -> bytes:
    escape = match.group(1)
    if escape[:1] == b"u" and len(escape) == 5:
        return chr(int(escape[1:], 16)).encode("utf-8", "replace")
    return _JSON_SHORT.get(escape, escape)


def _html(view: bytes) -> Iterator[bytes]:
    if b"&" in view:
        yield html.unescape(view.decode("latin-1")).encode("utf-8", "replace")


def _unwrapped(view: bytes) -> Iterator[bytes]:
    """Without white space and NUL: wrapped base64, UTF-16."""
    yield _WHITE.sub(b"", view)


def _gzip(view: bytes) -> Iterator[bytes]:
    for match in _GZIP_MAGIC.finditer(view):
        yield inflate(view[match.start() :], 31)


def _zlib(view: bytes) -> Iterator[bytes]:
    for match in list(_ZLIB_MAGIC.finditer(view))[:32]:
        yield inflate(view[match.start() :], 15)


def _base64(view: bytes) -> Iterator[bytes]:
    runs = [
        run.replace(b"-", b"+").replace(b"_", b"/") for run in _BASE64_RUN.findall(view)
    ]
    yield from _aligned(runs, 4, _decode_base64)


def _base32(view: bytes) -> Iterator[bytes]:
    yield from _aligned(
        [run.upper() for run in _BASE32_RUN.findall(view)], 8, _decode_base32
    )


def _hex(view: bytes) -> Iterator[bytes]:
    yield from _aligned(_HEX_RUN.findall(view), 2, binascii.unhexlify)


def _aligned(
    runs: list[bytes], unit: int, decode: Callable[[bytes], bytes]
) -> Iterator[bytes]:
    """Decode all runs at each alignment, since what stands before the encoded text may look like a part of it."""
    for offset in range(unit if runs else 0):
        pieces = []
        for run in runs:
            part = run[offset:]
            pieces.append(
                decode(part[: len(part) - len(part) % unit] if unit == 2 else part)
            )
        yield b"\n".join(pieces)


def _decode_base64(part: bytes) -> bytes:
    if len(part) % 4 == 1:
        part = part[:-1]
    return base64.b64decode(part + b"=" * (-len(part) % 4))


def _decode_base32(part: bytes) -> bytes:
    while len(part) % 8 in (1, 3, 6):
        part = part[:-1]
    return base64.b32decode(part + b"=" * (-len(part) % 8))


_DECODERS: tuple[tuple[str, Callable[[bytes], Iterator[bytes]]], ...] = (
    ("percent", _percent),
    ("json", _json),
    ("html", _html),
    ("gzip", _gzip),
    ("zlib", _zlib),
    ("unwrapped", _unwrapped),
    ("base64", _base64),
    ("base32", _base32),
    ("hex", _hex),
)
