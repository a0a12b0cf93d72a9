# SPDX-License-Identifier: MIT
"""The request vectors themselves: enough, each with a name of its own, each with its marker where it can be found."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit import vectors
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.vectors import (
    EXPECTED,
    FAMILIES,
    LOCAL,
    LOCAL_IF_ROUTE,
    REFUSE,
    ROWS,
    VECTORS,
    WRAPS,
    Fill,
    Vector,
    body_of,
    filled,
    render,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[5] / "molecule"))
from standins import http1, markers

MARKER = "mk0123456789abcdefx0042"
FILL = Fill(MARKER, "private", "key-of-private", "hub:4001")


def by_name(name: str) -> Vector:
    """The one vector of this name."""
    return next(vector for vector in VECTORS if vector.name == name)


def test_there_are_enough_and_each_has_a_name() -> None:
    names = Counter(vector.name for vector in VECTORS)
    assert [name for name, count in names.items() if count > 1] == []
    assert len(VECTORS) >= 400
    assert sum(bool(vector.row) for vector in VECTORS) >= 277, "as many as were measured on LiteLLM"
    assert sum(not vector.row for vector in VECTORS) >= 100, "and a hundred that nobody listed"
    assert len(VECTORS) < 10_000, "a marker has four digits"


def test_every_row_and_family_has_vectors() -> None:
    assert {vector.row for vector in VECTORS} - {""} == set(ROWS)
    assert {vector.family for vector in VECTORS} == set(FAMILIES)
    assert {vector.expect for vector in VECTORS} == set(EXPECTED)
    assert {vector.wrap for vector in VECTORS} <= set(WRAPS)
    assert all(vector.name.startswith(f"{vector.family}: ") for vector in VECTORS)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_marker_can_be_found(family: str) -> None:
    """By the recorder's own search, whatever the vector wraps it in; the few that have none say so."""
    for vector in VECTORS:
        if vector.family != family:
            continue
        seen = found_in(vector)
        assert seen == vector.marked, vector.name


def found_in(vector: Vector) -> bool:
    """Whether the recorder finds the marker in the request, in one piece or with its body opened as it would do."""
    raw = render(vector, FILL)
    if MARKER.encode() in raw:
        return True
    coding = next((value for name, value in vector.headers if name == "Content-Encoding" and value), "")
    body = http1.decode_body(body_of(vector, FILL), tuple(part.strip() for part in (coding or "").split(",")))
    return markers.find_encoding(body, MARKER) is not None


def test_an_unmarked_vector_asks_for_nothing_of_the_prompt() -> None:
    unmarked = [vector for vector in VECTORS if not vector.marked]
    assert 0 < len(unmarked) < 100
    assert [vector.name for vector in unmarked if b"{MARKER}" in vector.body] == ["encoding: deflate, not declared"]


def test_no_word_is_left_in_braces() -> None:
    left = re.compile(rb"\{(MARKER|PROFILE|KEY|HOST|SINK6?|SINK_HOST|NAME|FILLER|LENGTH|HEX|BODY|B64)[:}]")
    assert [vector.name for vector in VECTORS if left.search(render(vector, FILL))] == []
    assert left.search(filled(b"{UNKNOWN} {MARKER", FILL)) is None


def test_a_request_is_whole() -> None:
    """What is not framed on purpose is a request that any server takes."""
    for vector in VECTORS:
        if vector.raw or "+" in "".join(name for name, _value in vector.headers) or "\r" in vector.target:
            continue
        head, _end, body = render(vector, FILL).partition(b"\r\n\r\n")
        lines = head.decode("utf-8").split("\r\n")
        names = Counter(line.partition(":")[0].lower() for line in lines[1:])
        assert max(names.values()) == 1, vector.name
        lengths = [line for line in lines if line.lower().startswith("content-length")]
        assert lengths == ([f"Content-Length: {len(body)}"] if body or lengths else []), vector.name


def test_a_header_can_be_replaced_added_and_left_out() -> None:
    given = (("Authorization", None), ("+Host", "two"), ("content-type", "a/b"))
    vector = Vector("x: y", "plain", headers=given, body=b"{}")
    head = render(vector, FILL).decode()
    assert "Authorization" not in head and "key-of-private" not in head
    assert head.count("Host:") == 2 and "content-type: a/b" in head and "application/json" not in head


def test_wrapped_bodies_are_what_they_say() -> None:
    plain = by_name("plain: a request with nothing wrong").body
    assert len(plain) > 10
    vector = by_name("encoding: gzip, declared")
    assert http1.decode_body(body_of(vector, FILL), ("gzip",)) == filled(vector.body, FILL)
    assert body_of(by_name("encoding: utf-16, declared"), FILL).decode("utf-16") == filled(vector.body, FILL).decode()
    assert body_of(by_name("encoding: bom, declared"), FILL).startswith(b"\xef\xbb\xbf{")


def test_an_encoded_id_holds_the_marker() -> None:
    body = body_of(by_name("content part: file_id, an encoded one"), FILL)
    assert markers.find_encoding(body, MARKER) is not None
    assert b"litellm_proxy" not in body, "it is encoded"


def test_what_may_be_answered_is_the_content_alone() -> None:
    """No vector with a destination of its own in the body may be answered."""
    for vector in VECTORS:
        if vector.family in ("body field", "content part", "tools", "poisoning", "passthrough", "mcp", "admin"):
            assert vector.expect == REFUSE, vector.name
    for vector in VECTORS:
        if vector.target.partition("?")[0] in (vectors.COMPLETIONS, vectors.RESPONSES, vectors.MESSAGES):
            assert vector.expect in (REFUSE, LOCAL_IF_ROUTE), vector.name
    assert by_name("plain: a request with nothing wrong").expect == LOCAL
