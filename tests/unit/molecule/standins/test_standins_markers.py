# SPDX-License-Identifier: MIT
from __future__ import annotations

import base64
import gzip
import json
import urllib.parse
import zlib

import pytest
from standins import markers
from standins.internet import ENCODINGS

MARKER = "MARK-private-3f9c0a51d2"


@pytest.mark.parametrize("name", sorted(ENCODINGS))
def test_every_encoding_of_the_self_test_is_seen(name: str) -> None:
    blob = (
        b'{"content": "some words before ' + ENCODINGS[name](MARKER) + b' and after"}'
    )
    if name == "utf-16":
        blob = ENCODINGS[name](f'{{"content": "{MARKER}"}}')
    assert markers.find_encoding(blob, MARKER) is not None
    assert markers.find_encoding(blob, "MARK-private-0000000000") is None


@pytest.mark.parametrize("before", range(6))
def test_base64_at_any_alignment_and_glued_to_other_text(before: int) -> None:
    encoded = base64.b64encode(b"x" * before + MARKER.encode() + b"tail")
    assert markers.find_encoding(b"/path/" + encoded, MARKER) == "base64"
    assert (
        markers.find_encoding(b"data:text/plain;base64," + encoded.rstrip(b"="), MARKER)
        == "base64"
    )


@pytest.mark.parametrize("before", range(8))
def test_base32_at_any_alignment(before: int) -> None:
    encoded = base64.b32encode(b"x" * before + MARKER.encode()).lower().rstrip(b"=")
    assert markers.find_encoding(encoded + b".example.org", MARKER) is not None


def test_wrapped_url_safe_and_nested() -> None:
    long = b"\xff\xfe?>" * 30 + MARKER.encode() + b"\xfb\xef" * 30
    over_the_edge = base64.encodebytes(b"x" * 50 + MARKER.encode())
    assert markers.find_encoding(over_the_edge, MARKER) == "unwrapped>base64"
    assert markers.find_encoding(base64.urlsafe_b64encode(long), MARKER) == "base64"
    twice = base64.b64encode(base64.b64encode(MARKER.encode()))
    assert markers.find_encoding(twice, MARKER) == "base64>base64"
    deep = json.dumps(
        urllib.parse.quote(
            base64.b64encode(gzip.compress(MARKER.encode())).decode(), safe=""
        )
    ).encode()
    assert markers.find_encoding(deep, MARKER) is not None
    escaped = json.dumps(
        {"a": json.dumps({"b": "".join(f"\\u{ord(c):04x}" for c in MARKER)})}
    ).encode()
    assert markers.find_encoding(escaped, MARKER) is not None


def test_compressed_pieces_inside_other_bytes() -> None:
    assert (
        markers.find_encoding(b"head " + zlib.compress(MARKER.encode()), MARKER)
        == "zlib"
    )
    assert (
        markers.find_encoding(
            b"head " + gzip.compress(MARKER.encode() * 50)[:-6], MARKER
        )
        == "gzip"
    )


def test_case_is_ignored_and_empty_is_refused() -> None:
    assert markers.find_encoding(MARKER.upper().encode(), MARKER.lower()) == "plain"
    with pytest.raises(ValueError, match="empty"):
        markers.find_encoding(b"x", "")


def test_the_number_of_views_is_bounded() -> None:
    nasty = b"%25" * 2000 + b"\\\\" * 2000 + base64.b64encode(bytes(range(256)) * 40)
    assert len(list(markers.views(nasty))) <= markers.MAX_VIEWS
