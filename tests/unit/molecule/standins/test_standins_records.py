# SPDX-License-Identifier: MIT
from __future__ import annotations

import os
from pathlib import Path

import pytest
from standins import records
from standins.records import Recorder

MARKER = "MARK-personal-77aa00cc11"


def test_a_marker_cut_in_two_by_the_network_is_found_once() -> None:
    recorder = Recorder()
    conn = recorder.connection()
    recorder.add("accept", conn=conn, service="catch-all", src="a:1", dst="b:2")
    recorder.add("data", conn=conn, raw=b"...MARK-pers")
    recorder.add("data", conn=conn, raw=b"onal-77aa00cc11...")
    found = records.find(recorder.records(), MARKER)
    assert found["count"] == 1 and found["unreadable"] == 0
    assert found["hits"][0] | {"ts": 0} == {
        "ts": 0,
        "service": "catch-all",
        "where": "stream",
        "encoding": "plain",
        "src": "a:1",
        "dst": "b:2",
        "host": None,
    }


def test_records_survive_a_restart_and_a_cut_last_line(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records.jsonl"
    first = Recorder(path)
    first.add(
        "datagram", service="catch-all", src="a:1", dst="b:2", raw=MARKER.encode()
    )
    with path.open("a") as file:
        file.write('{"ts": 1, "kind"')
    second = Recorder(path)
    assert records.find(second.records(), MARKER)["count"] == 1
    assert second.reset() == 1 and path.read_text() == ""
    second.add("datagram", service="catch-all", src="a:1", dst="b:2", raw=b"other")
    assert len(Recorder(path).records()) == 1


def test_a_file_cut_within_a_line_takes_new_records(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"ts": 1, "kind"')
    Recorder(path).add(
        "datagram", service="x", src="a:1", dst="b:2", raw=MARKER.encode()
    )
    assert records.find(Recorder(path).records(), MARKER)["count"] == 1


def test_since_leaves_out_what_was_before() -> None:
    recorder = Recorder()
    recorder.add(
        "question",
        service="dns",
        src="a:1",
        name=f"{MARKER}.example",
        type="A",
        answer="NXDOMAIN",
    )
    stamp = recorder.records()[0]["ts"]
    assert records.find(recorder.records(), MARKER, since=stamp)["count"] == 1
    assert records.find(recorder.records(), MARKER, since=stamp + 1)["count"] == 0


@pytest.mark.parametrize(
    "name",
    [
        f"{MARKER}.example.org",
        "MARK-perso.nal-77aa.00cc11.example.org",
        "nvatqkzn.example.org",
    ],
)
def test_dns_names_with_and_without_dots(name: str) -> None:
    recorder = Recorder()
    recorder.add(
        "question", service="dns", src="a:1", name=name, type="A", answer="NXDOMAIN"
    )
    assert records.find(recorder.records(), MARKER)["count"] == (
        0 if name.startswith("nv") else 1
    )


def test_a_marker_in_sni_and_header_names_its_place() -> None:
    recorder = Recorder()
    recorder.add("tls", conn=1, sni=f"{MARKER}.example", ok=True, error=None, hello=b"")
    common = {"method": "GET", "codings": [], "body": b"", "answered": "nobody"}
    recorder.add(
        "request",
        conn=2,
        target="/",
        headers=[["X-Note", MARKER], ["Host", "h.example"]],
        **common,
    )
    recorder.add("request", conn=3, target=f"/?q={MARKER}", headers=[], **common)
    hits = records.find(recorder.records(), MARKER)["hits"]
    assert [(hit["where"], hit["host"]) for hit in hits] == [
        ("sni", f"{MARKER}.example"),
        ("header", "h.example"),
        ("request-line", None),
    ]


def test_what_cannot_be_read_is_counted() -> None:
    recorder = Recorder()
    recorder.add("tls", conn=1, sni="a.example", ok=False, error="SSLError", hello=b"")
    recorder.add(
        "request",
        conn=2,
        method="POST",
        target="/",
        headers=[],
        body=b"\x8b\x02\x80",
        codings=["br"],
        answered="x",
    )
    recorder.add(
        "datagram",
        service="catch-all",
        src="a:1",
        dst="b:443",
        raw=b"\xc3\0\0\0\x01" + os.urandom(60),
    )
    recorder.add("data", conn=4, raw=b"\xff\xfe\xfd\x00 unknown protocol")
    recorder.add("data", conn=5, raw="words, grüße".encode()[:-2])
    recorder.add(
        "datagram", service="catch-all", src="a:1", dst="b:123", raw=b"\x23" + bytes(47)
    )
    found = records.find(recorder.records(), MARKER)
    assert found["count"] == 0 and found["unreadable"] == 4
    assert {item["why"].split()[0] for item in found["opaque"]} == {
        "TLS",
        "content",
        "QUIC",
        "binary",
    }
    assert records.stats(recorder.records())["unreadable"] == 4
