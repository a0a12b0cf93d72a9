# SPDX-License-Identifier: MIT
"""Everything that a stand-in received, as JSON lines, and the search in it.

One record is one JSON object: ``ts`` (seconds since the epoch), ``kind``, and by kind

- ``accept``: ``conn``, ``service``, ``src``, ``dst`` (before any redirect, when the kernel tells), ``local``
- ``data``: ``conn``, ``raw`` (base64), ``text``; what was read from a connection, after TLS was taken off
- ``tls``: ``conn``, ``sni``, ``ok``, ``error``, ``hello`` (base64 of the ClientHello)
- ``request``: ``conn``, ``method``, ``target``, ``headers`` (list of pairs), ``body`` (base64), ``text``, ``codings``,
  ``answered`` (by which provider)
- ``datagram``: ``service``, ``src``, ``dst``, ``raw``, ``text``
- ``question``: ``conn`` (over TCP), ``service``, ``src``, ``name``, ``type``, ``answer``
- ``close``: ``conn``, ``why``
"""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import markers

Record = dict[str, Any]

READABLE_CODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
"""Content codings that the standard library opens."""
LAST_CONTACTS = 50


def b64(data: bytes) -> str:
    """Bytes as base64 text."""
    return base64.b64encode(data).decode("ascii")


def unb64(text: object) -> bytes:
    """The bytes of base64 text; empty for anything that is no text."""
    return base64.b64decode(text) if isinstance(text, str) else b""


class Recorder:
    """Thread-safe list of records, kept in memory and, with a path, in a JSON lines file that survives a restart."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._records: list[Record] = []
        first = 1
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._records = _load(path)
            first += max((int(r.get("conn", 0)) for r in self._records), default=0)
            with path.open("a", encoding="utf-8") as file:
                if file.tell() and not path.read_bytes().endswith(b"\n"):
                    file.write("\n")
        self._conns = itertools.count(first)

    def connection(self) -> int:
        """A fresh connection number."""
        with self._lock:
            return next(self._conns)

    def add(self, kind: str, **fields: Any) -> None:
        """Append one record; bytes are stored as base64, those of ``raw`` and ``body`` with their ``text`` beside."""
        record: Record = {"ts": round(time.time(), 6), "kind": kind}
        for key, value in fields.items():
            if isinstance(value, bytes):
                record[key] = b64(value)
                if key in ("raw", "body"):
                    record["text"] = value.decode("utf-8", "replace")
            else:
                record[key] = value
        with self._lock:
            self._records.append(record)
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record, separators=(",", ":")) + "\n")

    def records(self) -> list[Record]:
        """A copy of the list."""
        with self._lock:
            return list(self._records)

    def reset(self) -> int:
        """Forget everything; returns how many records there were."""
        with self._lock:
            count = len(self._records)
            self._records = []
            if self._path is not None:
                self._path.write_text("", encoding="utf-8")
            return count


def _load(path: Path) -> list[Record]:
    """Read a records file; a last line that a crash cut in two is left out."""
    if not path.exists():
        return []
    found: list[Record] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def find(records: Iterable[Record], marker: str, since: float = 0.0) -> dict[str, Any]:
    """Look for a marker.

    Returns ``count`` and ``hits`` (one per request, raw stream, SNI, datagram or DNS question that holds it) and
    ``unreadable``, the number of things received that could not be looked into, with the last of them under ``opaque``.
    """
    kept = [r for r in records if float(r["ts"]) >= since]
    accepts = {r["conn"]: r for r in kept if r["kind"] == "accept"}
    names = {r["conn"]: r.get("sni") for r in kept if r["kind"] == "tls"}
    hits: list[Record] = []
    hit_conns: set[int] = set()

    def hit(record: Record, where: str, encoding: str, host: str | None = None) -> None:
        origin = accepts.get(record.get("conn", 0), record)
        hits.append(
            {
                "ts": record["ts"],
                "service": record.get("service") or origin.get("service"),
                "where": where,
                "encoding": encoding,
                "src": origin.get("src"),
                "dst": origin.get("dst"),
                "host": host or names.get(record.get("conn", 0)),
            }
        )
        if "conn" in record:
            hit_conns.add(record["conn"])

    for record in kept:
        for where, blob in _searchable(record):
            encoding = markers.find_encoding(blob, marker)
            if encoding is not None:
                host = (
                    _header(record, "host")
                    if record["kind"] == "request"
                    else record.get("name")
                )
                hit(record, where, encoding, host)
                break
    for conn, stream in _streams(kept).items():
        if conn not in hit_conns:
            encoding = markers.find_encoding(stream, marker)
            if encoding is not None:
                hit(accepts.get(conn, {"ts": 0.0, "conn": conn}), "stream", encoding)
    dark = list(opaque(kept))
    hits.sort(key=lambda h: float(h["ts"]))
    return {
        "count": len(hits),
        "hits": hits,
        "unreadable": len(dark),
        "opaque": dark[-20:],
    }


def _searchable(record: Record) -> Iterable[tuple[str, bytes]]:
    kind = record["kind"]
    if kind == "request":
        yield "body", unb64(record["body"])
        yield (
            "request-line",
            f"{record['method']} {record['target']}".encode("utf-8", "surrogateescape"),
        )
        yield (
            "header",
            "\n".join(f"{n}: {v}" for n, v in record["headers"]).encode(
                "utf-8", "surrogateescape"
            ),
        )
    elif kind == "tls":
        yield (
            "sni",
            _dns_text(record["sni"])
            if record.get("sni")
            else unb64(record.get("hello")),
        )
    elif kind == "question":
        yield "dns", _dns_text(str(record["name"]))
    elif kind == "datagram":
        yield "datagram", unb64(record["raw"])


def _dns_text(name: str) -> bytes:
    return f"{name}\n{name.replace('.', '')}".encode("utf-8", "replace")


def _header(record: Record, wanted: str) -> str | None:
    return next(
        (value for name, value in record["headers"] if name.lower() == wanted), None
    )


def _streams(records: Iterable[Record]) -> dict[int, bytes]:
    """What each connection sent, in one piece: a marker may be cut in two by the network."""
    parts: dict[int, list[bytes]] = {}
    for record in records:
        if record["kind"] == "data":
            parts.setdefault(record["conn"], []).append(unb64(record["raw"]))
    return {conn: b"".join(pieces) for conn, pieces in parts.items()}


def opaque(records: Iterable[Record]) -> Iterable[Record]:
    """Yield what was received but could not be read: failed TLS, QUIC, unknown content codings, binary streams."""
    kept = list(records)
    accepts = {r["conn"]: r for r in kept if r["kind"] == "accept"}
    spoke_http = {r["conn"] for r in kept if r["kind"] == "request"}
    for record in kept:
        why = None
        if record["kind"] == "tls" and not record["ok"]:
            why = f"TLS failed for {record.get('sni')}: {record.get('error')}"
        elif (
            record["kind"] == "request"
            and not set(record["codings"]) <= READABLE_CODINGS
        ):
            why = f"content coding {', '.join(record['codings'])}"
        elif record["kind"] == "datagram" and is_quic(unb64(record["raw"])):
            why = "QUIC"
        if why is not None:
            origin = accepts.get(record.get("conn", 0), record)
            yield {
                "ts": record["ts"],
                "why": why,
                "src": origin.get("src"),
                "dst": origin.get("dst"),
            }
    for conn, stream in _streams(kept).items():
        if (
            conn not in spoke_http
            and not _is_text(stream)
            and not stream.startswith(b"\x1f\x8b\x08")
        ):
            origin = accepts.get(conn, {"ts": 0.0})
            yield {
                "ts": origin["ts"],
                "why": "binary stream",
                "src": origin.get("src"),
                "dst": origin.get("dst"),
            }


def is_quic(datagram: bytes) -> bool:
    """True for a QUIC long header with a version (RFC 9000 §17.2), at least 20 bytes long."""
    return (
        len(datagram) >= 20
        and datagram[0] & 0xC0 == 0xC0
        and datagram[1:5] != b"\0\0\0\0"
    )


def _is_text(stream: bytes) -> bool:
    try:
        stream.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(stream) - 3
    return True


def stats(records: Iterable[Record]) -> dict[str, Any]:
    """Counters per service and the last contacts."""
    kept = list(records)
    services = {r["conn"]: str(r["service"]) for r in kept if r["kind"] == "accept"}
    counts: dict[str, Counter[str]] = {}
    contacts: list[Record] = []
    for record in kept:
        service = str(
            record.get("service") or services.get(record.get("conn", 0), "unknown")
        )
        counter = counts.setdefault(service, Counter())
        kind = record["kind"]
        if kind == "data":
            counter["bytes"] += len(unb64(record["raw"]))
        elif kind == "tls":
            counter["tls" if record["ok"] else "tls_failed"] += 1
        elif kind in ("accept", "request", "datagram", "question"):
            counter[{"accept": "connections"}.get(kind, f"{kind}s")] += 1
        if kind in ("accept", "datagram", "question"):
            contacts.append(
                {
                    k: record.get(k)
                    for k in ("ts", "service", "src", "dst", "name")
                    if record.get(k)
                }
            )
    return {
        "records": len(kept),
        "services": {name: dict(counter) for name, counter in sorted(counts.items())},
        "unreadable": len(list(opaque(kept))),
        "contacts": contacts[-LAST_CONTACTS:],
    }
