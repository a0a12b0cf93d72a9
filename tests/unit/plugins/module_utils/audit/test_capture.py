# SPDX-License-Identifier: MIT
"""The search for markers finds them in every disguise, wherever they are cut; and nothing where there is none."""

from __future__ import annotations

import base64
import bz2
import gzip
import http.server
import io
import json
import lzma
import os
import pwd
import re
import socket
import stat
import struct
import subprocess
import threading
import time
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit import capture, model
from hypothesis import given, settings
from hypothesis import strategies as st

MARKERS = capture.Markers.make(["private", "client"])
NEEDLES = capture.Needles(MARKERS)
OTHERS = capture.Needles(capture.Markers.make(["private", "client"]))
MARKER = MARKERS.of("private", "prompt")


def zipped(data: bytes) -> bytes:
    """A zip archive with one deflated file whose data is not written down in clear."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a name/of it.txt", data)
    return out.getvalue()


def wrapped(data: bytes) -> bytes:
    """base64 as in mails."""
    return base64.encodebytes(b"x" * 40 + data + b"y" * 40)


#: How it may be written down → how the search calls it.
WRITTEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "plain": (lambda data: data, "plain"),
    "upper case": (bytes.upper, "plain"),
    "reversed": (lambda data: data[::-1], "reversed"),
    "hex": (lambda data: data.hex().encode(), "hex"),
    "HEX": (lambda data: data.hex().upper().encode(), "hex"),
    "base64 0": (base64.b64encode, "base64"),
    "base64 1": (lambda data: base64.b64encode(b"\xff" + data + b"\xff"), "base64"),
    "base64 2": (lambda data: base64.b64encode(b"\xff\xff" + data), "base64"),
    "base64url": (lambda data: base64.urlsafe_b64encode(b"\xfb\xff" + data + b"\xfb"), "base64"),
    "base64 in lines": (wrapped, "base64"),
    "base64 twice": (lambda data: base64.b64encode(b"a" + base64.b64encode(b"bc" + data)), "base64 twice"),
    "base64 of hex": (lambda data: base64.b64encode(b"a" + data.hex().encode()), "base64 of hex or UTF-16"),
    "base32": (lambda data: base64.b32encode(b"abc" + data), "base32"),
    "UTF-16": (lambda data: data.decode().encode("utf-16-le"), "UTF-16LE"),
    "UTF-16 big": (lambda data: data.decode().encode("utf-16-be"), "UTF-16BE"),
    "percent": (lambda data: b"".join(b"%%%02X" % byte for byte in data), "percent"),
    "JSON escapes": (lambda data: b"".join(b"\\u%04X" % byte for byte in data), "JSON escapes"),
    "Python's escapes": (lambda data: b"".join(b"\\x%02x" % byte for byte in data), "escapes"),
    "HTML": (lambda data: b"".join(b"&#%d;" % byte for byte in data), "HTML escapes"),
    "HTML, hex": (lambda data: b"".join(b"&#x%X;" % byte for byte in data), "HTML hex escapes"),
    "quoted-printable": (lambda data: b"".join(b"=%02X" % byte for byte in data), "quoted-printable"),
    "gzip": (gzip.compress, "gzip > plain"),
    "zlib": (zlib.compress, "zlib > plain"),
    "bzip2": (bz2.compress, "bzip2 > plain"),
    "xz": (lzma.compress, "xz > plain"),
    "zip": (zipped, "zip > plain"),
    "gzip of gzip of base64": (
        lambda data: gzip.compress(gzip.compress(base64.b64encode(b"a" + data))),
        "gzip > gzip > base64",
    ),
}


def found_in(data: bytes, sizes: tuple[int, ...] = (), needles: capture.Needles = NEEDLES) -> set[tuple[str, str]]:
    """Hits when the data comes in pieces of these sizes, then the rest."""
    finder = capture.Finder(needles)
    at = 0
    for size in sizes:
        finder.feed(data[at : at + size])
        at += size
    finder.feed(data[at:])
    return finder.hits


@pytest.mark.parametrize("how", WRITTEN)
def test_found_in_every_encoding_at_every_boundary(how: str) -> None:
    write, name = WRITTEN[how]
    body = write(b"so " * 3 + MARKER.encode() + b" it")
    data = b"\x00\x1f\x8bnoise " + body + b" more\xff"
    for cut in range(len(data)):
        assert ("private/prompt", name) in found_in(data, (cut,)), cut
    assert {label for label, _ in found_in(data)} == {"private/prompt"}, "the right marker, and no other"
    assert found_in(data, (), OTHERS) == set(), "another run's markers are not ours"


@pytest.mark.parametrize("how", WRITTEN)
def test_found_byte_by_byte(how: str) -> None:
    write, name = WRITTEN[how]
    data = b"before" + write(MARKER.encode()) + b"after"
    assert ("private/prompt", name) in found_in(data, (1,) * len(data))


@settings(max_examples=60, deadline=None)
@given(
    how=st.sampled_from(sorted(WRITTEN)),
    before=st.binary(max_size=3000),
    after=st.binary(max_size=300),
    sizes=st.lists(st.integers(1, 900), max_size=6),
)
def test_found_whatever_stands_around_it(how: str, before: bytes, after: bytes, sizes: list[int]) -> None:
    write, name = WRITTEN[how]
    # White space and base64 letters at its ends would be part of the encoded text.
    data = before + b"\x00|" + write(MARKER.encode()) + b"|\x00" + after
    assert ("private/prompt", name) in found_in(data, tuple(sizes))


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=5000), sizes=st.lists(st.integers(1, 900), max_size=6))
def test_nothing_is_found_in_anything_else(data: bytes, sizes: list[int]) -> None:
    assert found_in(data + capture.PREFIX.encode() + data, tuple(sizes)) == set()


def test_a_marker_that_was_cut_is_told_as_such() -> None:
    assert found_in(MARKERS.core.encode() + b"...") == {("cut off", "plain")}
    assert found_in(MARKERS.core[:-1].encode() + b"...") == set()


def test_markers_are_new_each_time_and_pass_through_names() -> None:
    again = capture.Markers.make(["private"])
    assert again.core != MARKERS.core and len(set(MARKERS.labels)) == 10
    assert all(marker.isalnum() and marker == marker.lower() and len(marker) <= 63 for marker in MARKERS.labels)
    assert urllib.parse.quote(MARKER) == MARKER and json.dumps(MARKER) == f'"{MARKER}"'
    assert MARKERS.hidden(f"/tmp/{MARKER}.png and {MARKER.upper()}") == "/tmp/(marker).png and (marker)"


def test_the_image_is_one_and_holds_its_marker() -> None:
    image = capture.png(MARKER)
    assert image.startswith(b"\x89PNG") and ("private/prompt", "plain") in found_in(image)
    size, kind = struct.unpack(">I4s", image[8:16])
    assert kind == b"IHDR" and struct.unpack(">I", image[16 + size : 20 + size])[0] == zlib.crc32(image[12 : 16 + size])


def test_large_streams_need_little_memory_and_a_bomb_is_told() -> None:
    finder = capture.Finder(NEEDLES)
    for _ in range(40):
        finder.feed(os.urandom(256 * 1024))
    assert len(finder._tail) <= 4 * NEEDLES.longest and finder.hits == set() and finder.opaque == set()


def test_a_compressed_bomb_is_not_passed_over_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "INFLATED", 1 << 20)
    finder = capture.Finder(NEEDLES)
    finder.feed(gzip.compress(b"\0" * (3 << 20) + MARKER.encode()))
    assert finder.hits == set() and any("more than 1 MiB" in what for what in finder.opaque)


@pytest.mark.parametrize("magic", [b"\x04\x22\x4d\x18"])
def test_what_cannot_be_opened_is_told_when_it_is_a_whole_file(magic: bytes) -> None:
    finder = capture.Finder(NEEDLES)
    finder.feed(magic + b"data")
    assert finder.opaque == {"lz4"}
    other = capture.Finder(NEEDLES)
    other.feed(b"a program that knows " + magic)
    assert other.opaque == set()


# ---- files
def test_files_sparse_ones_links_and_pipes(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as stream:
        stream.truncate(1 << 33)
        stream.seek(5 << 30)
        stream.write(MARKER.encode())
    began = time.monotonic()
    assert capture.search_file(str(sparse), NEEDLES).hits == {("private/prompt", "plain")}
    assert time.monotonic() - began < 20, "the hole was not read"
    (tmp_path / "link").symlink_to(sparse)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "none"):
        assert capture.search_file(str(tmp_path / name), NEEDLES).hits == set()


def test_no_time_left_is_told(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 3 * capture.CHUNK + MARKER.encode())
    found = capture.search_file(str(tmp_path / "large"), NEEDLES, time.monotonic() - 1)
    assert found.fault and not found.hits
    rows = capture.search_inside(MARKERS, [str(tmp_path)], [], seconds=-1, journals=False)
    assert any(row.outcome == "not tested" and "no time left" in row.detail for row in rows)
    assert not any(row.outcome == "holds" and str(tmp_path) in row.source for row in rows)


NOBODY = capture.reader("nobody")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with another user's eyes")


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A folder that everybody can reach."""
    folder = tmp_path
    while folder != folder.parent:
        if stat.S_IMODE(folder.stat().st_mode) & 0o005 != 0o005:
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | 0o055)
        folder = folder.parent
    return tmp_path


@needs_root
def test_what_others_can_read_leaks_and_what_they_cannot_is_told(open_folder: Path) -> None:
    place = open_folder / "log"
    place.mkdir(mode=0o755)
    (place / "open.log").write_bytes(base64.b64encode(b"a" + MARKER.encode()))
    (place / "closed.log").write_text(f"secret words before {MARKER}")
    (place / "closed.log").chmod(0o600)
    (place / f"{MARKER}.txt").write_text("")
    (place / "clean.log").write_text("nothing")
    rows = capture.search_inside(MARKERS, [str(place)], [NOBODY], journals=False)
    by_path = {row.path: row for row in rows if row.kind == "capture"}
    leaked = by_path[str(place / "open.log")]
    assert (leaked.outcome, leaked.source) == ("leaked", "user nobody") and "private/prompt as base64" in leaked.detail
    closed = by_path[str(place / "closed.log")]
    assert closed.outcome == "refused" and "root" in closed.detail
    named = by_path[str(place / "(marker).txt")]
    assert named.outcome == "leaked" and "its name" in named.detail
    assert str(place / "clean.log") not in by_path
    assert not any(MARKER in str(row.as_dict()) or "secret words" in str(row.as_dict()) for row in rows)
    place.chmod(0o700)
    rows = capture.search_inside(MARKERS, [str(place)], [NOBODY], journals=False)
    assert not any(row.outcome == "leaked" and row.kind == "capture" for row in rows), "it closes its files"
    assert any(row.outcome == "holds" and "closed to others" in row.detail for row in rows)


@needs_root
def test_the_search_has_a_control_that_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(row for row in capture.search_inside(MARKERS, [], [NOBODY], journals=False) if row.kind == "control")
    assert row.outcome == "leaked" and "nobody" in row.detail
    monkeypatch.setattr(capture.Needles, "scan", lambda *_: iter(()))
    row = next(row for row in capture.search_inside(MARKERS, [], [NOBODY], journals=False) if row.kind == "control")
    assert row.outcome == "refused"


@needs_root
def test_old_files_are_passed_over_but_where_times_tell_nothing(open_folder: Path) -> None:
    (open_folder / "old").write_text(MARKER)
    later = time.time() + 10
    args = {"readers": [NOBODY], "journals": False}
    rows = capture.search_inside(MARKERS, [str(open_folder)], since=later, **args)
    assert not any(row.outcome == "leaked" and row.kind == "capture" for row in rows)
    rows = capture.search_inside(MARKERS, [str(open_folder)], since=0, **args)
    assert any(row.outcome == "leaked" and row.kind == "capture" for row in rows)


@needs_root
def test_a_command_line_is_read_by_everybody() -> None:
    before = capture.search_inside(MARKERS, [], [NOBODY], journals=False)
    assert [row.outcome for row in before if row.path.startswith("/proc")] == ["holds"]
    with subprocess.Popen(["sleep", "60"], env={"WORD": MARKER}) as hidden:
        try:
            rows = capture.search_inside(MARKERS, [], [NOBODY], journals=False)
            assert [row.outcome for row in rows if row.path.startswith("/proc")] == ["holds"], "root's environment"
        finally:
            hidden.kill()
    with subprocess.Popen(["sh", "-c", "read line", MARKER], stdin=subprocess.PIPE) as shown:
        try:
            rows = capture.search_inside(MARKERS, [], [NOBODY], journals=False)
            leaked = [row for row in rows if row.outcome == "leaked" and row.kind == "capture"]
            assert [row.path for row in leaked] == [f"/proc/{shown.pid}/cmdline"]
        finally:
            shown.kill()


def test_readers_are_the_hybrid_users_and_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("root", "mushishi-hybrid-gateway", "mushishi-sovereign-gateway", "mushishi-ingress-hybrid", "nobody")
    entries = [pwd.struct_passwd((name, "x", 9000 + n, 9000 + n, "", "/", "")) for n, name in enumerate(names)]
    monkeypatch.setattr(pwd, "getpwall", lambda: entries)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: next(entry for entry in entries if entry.pw_name == name))
    readers = {one.name for one in capture.t2_readers()}
    assert readers == {"mushishi-hybrid-gateway", "mushishi-ingress-hybrid", "nobody"}


# ---- wires
def ethernet(kind: int, packet: bytes) -> bytes:
    return b"\2" * 12 + kind.to_bytes(2, "big") + packet


def ipv4(protocol: int, body: bytes, fragment: int = 0, number: int = 7) -> bytes:
    ends = b"\n\0\0\1", b"\n\0\0\2"
    return struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), number, fragment, 64, protocol, 0, *ends) + body


def ipv6(protocol: int, body: bytes) -> bytes:
    ends = b"\x20\1" + b"\0" * 14, b"\x20\2" + b"\0" * 14
    return struct.pack(">IHBB16s16s", 6 << 28, len(body), protocol, 64, *ends) + body


def tcp(data: bytes, port: int = 443, source: int = 5000) -> bytes:
    return struct.pack(">HHIIBBHHH", source, port, 0, 0, 5 << 4, 0, 0, 0, 0) + data


def udp(data: bytes, port: int = 53) -> bytes:
    return struct.pack(">HHHH", 5000, port, 8 + len(data), 0) + data


def seen(*frames: bytes, ether: bool = True) -> set[tuple[str, str, str, str]]:
    wire = capture.Wire(NEEDLES)
    for frame in frames:
        wire.frame(frame, ethernet=ether)
    return wire.hits


HALF = len(MARKER) // 2
HALVES = MARKER[:HALF].encode(), MARKER[HALF:].encode()
EXTENSION = bytes([6, 0]) + b"\0" * 6


@pytest.mark.parametrize(
    ("frames", "flow"),
    [
        ([ethernet(0x0800, ipv4(6, tcp(MARKER.encode())))], "10.0.0.1 → 10.0.0.2 tcp 443"),
        ([ethernet(0x0800, ipv4(17, udp(MARKER.encode())))], "10.0.0.1 → 10.0.0.2 udp 53"),
        ([ethernet(0x0800, ipv4(1, b"\x08\0\0\0" + MARKER.encode()))], "10.0.0.1 → 10.0.0.2 icmp"),
        ([ethernet(0x86DD, ipv6(6, tcp(MARKER.encode())))], "2001:: → 2002:: tcp 443"),
        ([ethernet(0x86DD, ipv6(0, EXTENSION + tcp(MARKER.encode())))], "2001:: → 2002:: tcp 443"),
        ([ethernet(0x0806, MARKER.encode())], "other 0x0806"),
        ([ethernet(0x8100, b"\0\1\x08\0" + ipv4(6, tcp(MARKER.encode())))], "10.0.0.1 → 10.0.0.2 tcp 443"),
        ([ethernet(0x0800, ipv4(6, tcp(half))) for half in HALVES], "10.0.0.1 → 10.0.0.2 tcp 443"),
        ([ethernet(0x86DD, ipv6(17, udp(half))) for half in HALVES], "2001:: → 2002:: udp 53"),
        ([MARKER.encode()[:9]], None),
        ([ethernet(0x0800, ipv4(6, tcp(HALVES[0]))), ethernet(0x0800, ipv4(6, tcp(HALVES[1], source=6000)))], None),
        ([ethernet(0x0800, ipv4(6, tcp(MARKER[:-1].encode())))], ""),
        ([b""], None),
        ([ethernet(0x0800, b"\x45")], None),
    ],
)
def test_frames(frames: list[bytes], flow: str | None) -> None:
    hits = seen(*frames)
    if flow == "":
        assert {label for label, *_ in hits} == {"cut off"}
    elif flow is None:
        assert hits == set()
    else:
        assert ("private/prompt", "plain", "out", flow) in hits


def test_frames_without_ethernet() -> None:
    assert seen(ipv4(6, tcp(MARKER.encode())), ether=False) == {
        ("private/prompt", "plain", "out", "10.0.0.1 → 10.0.0.2 tcp 443")
    }


def test_a_compressed_body_in_many_segments() -> None:
    body = gzip.compress(os.urandom(3000) + MARKER.encode() + os.urandom(3000))
    frames = [ethernet(0x0800, ipv4(6, tcp(body[n : n + 1000]))) for n in range(0, len(body), 1000)]
    assert ("private/prompt", "gzip > plain", "out", "10.0.0.1 → 10.0.0.2 tcp 443") in seen(*frames)


@settings(max_examples=200, deadline=None)
@given(frame=st.binary(max_size=200), ether=st.booleans())
def test_no_frame_ends_the_search(frame: bytes, ether: bool) -> None:
    flow, _ = capture.flow_of(frame, ether)
    assert capture.flow_name(flow)
    seen(frame, ether=ether)


class Fake:
    """A packet socket that gives what it was given."""

    def __init__(self, frames: list[tuple[bytes, int, int]], dropped: int = 0, error: OSError | None = None) -> None:
        self.frames, self.dropped, self.error = list(frames), dropped, error
        self.near, self.far = socket.socketpair()
        self.far.send(b"ready")

    def fileno(self) -> int:
        return self.near.fileno()

    def recvfrom(self, _size: int) -> tuple[bytes, tuple[Any, ...]]:
        if self.frames:
            data, way, kind = self.frames.pop(0)
            return data, ("eth0", 0x0800, way, kind, b"")
        if self.error:
            raise self.error
        self.near.setblocking(False)
        self.near.recv(100)
        raise BlockingIOError

    def getsockopt(self, *_: int) -> bytes:
        return struct.pack("II", 10, self.dropped)

    def close(self) -> None:
        self.near.close()
        self.far.close()


def listened(fake: Fake) -> list[model.Row]:
    with capture.Sniffer(["eth0"], NEEDLES, lambda _: fake) as sniffer:
        time.sleep(0.1)
    return capture.wire_rows("eth0", sniffer.wires["eth0"], sniffer.faults.get("eth0", ""))


def test_the_sniffer_tells_what_went_out_and_in() -> None:
    frame = ethernet(0x0800, ipv4(6, tcp(MARKER.encode())))
    rows = listened(Fake([(frame, capture.OUTGOING, 1), (ipv4(17, udp(MARKER.encode())), 0, 65534)]))
    assert [(row.outcome, row.path) for row in rows] == [
        ("leaked", "in: 10.0.0.1 → 10.0.0.2 udp 53"),
        ("leaked", "out: 10.0.0.1 → 10.0.0.2 tcp 443"),
    ]
    clean = listened(Fake([(ethernet(0x0800, ipv4(6, tcp(b"nothing"))), 4, 1)]))
    assert [(row.outcome, row.path) for row in clean] == [("holds", "no marker in any frame")]


def test_frames_that_were_lost_are_no_proof() -> None:
    assert [row.outcome for row in listened(Fake([], dropped=3))] == ["not tested"]
    assert [row.outcome for row in listened(Fake([], error=OSError(100, "Network is down")))] == ["not tested"]

    def refuse(_: str) -> Any:
        raise PermissionError(1, "Operation not permitted")

    with capture.Sniffer(["eth0"], NEEDLES, refuse) as sniffer:
        pass
    rows = capture.wire_rows("eth0", sniffer.wires["eth0"], sniffer.faults["eth0"])
    assert [row.outcome for row in rows] == ["not tested"]


def test_the_control_is_heard_or_the_run_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = capture.sniffer_control()
    assert [row.kind for row in rows] == ["control", "control"]
    if not any(row.outcome == "not tested" for row in rows):  # a machine that lets nobody make a namespace says so
        assert [row.outcome for row in rows] == ["leaked", "leaked"]
    monkeypatch.setattr(capture.Wire, "frame", lambda *_, **__: None)
    deaf = capture.sniffer_control()
    assert all(row.outcome in ("refused", "not tested") for row in deaf)
    tried = model.Row("capture", "P1", "interface eth0", "no marker in any frame", "holds")
    assert model.verdict([tried, *deaf]) == model.INVALID


def test_a_run_sends_and_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    given_markers = []
    monkeypatch.setattr(capture, "sniffer_control", list)
    monkeypatch.setattr(capture, "packet_socket", lambda _: Fake([]))
    monkeypatch.setattr(capture.Sniffer.__init__, "__defaults__", (lambda _: Fake([]),))
    rows = capture.capture_run(given_markers.append, ["eth0"], 0.05, MARKERS)
    assert given_markers == [MARKERS] and [row.outcome for row in rows] == ["holds"]

    def fail(_: capture.Markers) -> None:
        raise ValueError(f"with {MARKER} in its words")

    rows = capture.capture_run(fail, ["eth0"], 0.05, MARKERS)
    assert [row.outcome for row in rows] == ["not tested", "holds"] and MARKER not in str(rows)


# ---- traffic of our own
class Plane(http.server.BaseHTTPRequestHandler):
    """An ingress that takes what it is sent and, for one profile, has no engine."""

    taken: ClassVar[list[bytes]] = []
    forgotten: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.taken.append(body)
        status = {"private": 200, "client": 503, "coding": 401}[json.loads(body)["model"]]
        queued = status == 200 and self.headers["Prefer"] == "respond-async"
        self.send_response(202 if queued else status)
        if queued:
            self.send_header("Location", "/v1/queue/job-1")
        self._end()

    def do_DELETE(self) -> None:
        self.forgotten.append(f"{self.path} {self.headers['Authorization']}")
        self.send_response(200)
        self._end()

    def _end(self) -> None:
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def test_marked_requests_of_every_profile_and_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "sniffer_control", list)
    said = "private/queued as plain; admission's"
    kept = model.Row("capture", "P7", "search of /var/lib", QUEUE, "refused", None, said)
    monkeypatch.setattr(capture, "search_inside", lambda markers, since: [kept])
    monkeypatch.setattr(capture.Sniffer.__init__, "__defaults__", (lambda _: Fake([]),))
    with http.server.HTTPServer(("127.0.0.1", 0), Plane) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        keys = {"private": "k1", "client": "k2", "coding": "k3"}
        rows = capture.audit_capture("127.0.0.1", server.server_port, keys, ["eth0"], 0.05)
        server.shutdown()
        gone = server.server_port
    found = {row.source: row.outcome for row in rows if row is not kept}
    wanted = {"interface eth0": "holds", "profile private": "holds", "profile client": "holds"}
    assert found == {**wanted, "profile coding": "not tested"}, "a refused request has tried nothing"
    assert [row.outcome for row in rows if row.path == "a queued prompt is in the queue alone"] == ["holds"]
    assert Plane.forgotten == ["/v1/queue/job-1 Bearer k1"], "what was queued for the search is taken out again"
    assert len(Plane.taken) == 15
    for body in Plane.taken:
        hits = found_any(body)
        assert len(hits) == 1, "each holds its marker once, and the image's is in base64"
    assert capture.ask("127.0.0.1", gone, "k", "private", [], 2) == (0, "")


QUEUE = capture.QUEUE_DATA + "queue.db"


@pytest.mark.parametrize(
    ("places", "outcome"),
    [
        ([], "not tested"),
        ([QUEUE], "holds"),
        ([QUEUE, QUEUE + "-wal"], "holds"),
        ([QUEUE, "/var/log/syslog"], "leaked"),
        (["/var/lib/mushishi-sovereign-admission-other/queue.db"], "leaked"),
    ],
)
def test_a_queued_prompt_is_in_the_queue_alone(places: list[str], outcome: str) -> None:
    """A planted copy anywhere else is found, and a search that does not see the queue itself proves nothing."""
    said = "private/queued as plain; root alone can open it"
    rows = [model.Row("capture", "P7", "search", place, "refused", None, said) for place in places]
    rows.append(model.Row("capture", "P7", "search", "/var/lib/other", "refused", None, "private/prompt as plain"))
    (made,) = capture.queued_rows(rows, ["private"])
    assert (made.source, made.outcome) == ("profile private", outcome)
    assert ("/var/log/syslog" in made.detail) == ("/var/log/syslog" in places)


def found_any(body: bytes) -> list[bytes]:
    """Markers of whatever run in a body, base64 opened."""
    whole = body + b"".join(base64.b64decode(one) for one in re.findall(rb"base64,([A-Za-z0-9+/=]+)", body))
    return re.findall(capture.PREFIX.encode() + b"[a-z2-7]{24}", whole)


def test_interfaces_that_lead_off_the_machine(tmp_path: Path) -> None:
    for name in ("lo", "eth0", "wlp3s0", "docker0", "br-sovereign", "veth1a", "sov0-host", "tailscale0", "wg-home"):
        (tmp_path / name).mkdir()
    (tmp_path / "bonding_masters").write_text("")
    assert capture.outside_interfaces(root=str(tmp_path)) == ["eth0", "wg-home", "wlp3s0"]
    assert "tailscale0" in capture.outside_interfaces("wg-home", str(tmp_path))


# ---- pcap files
def pcap(*frames: bytes, order: str = "<", link: int = 1, magic: int = 0xA1B2C3D4, cut: int = 0) -> bytes:
    out = struct.pack(f"{order}IHHIIII", magic, 2, 4, 0, 0, 262144, link)
    for frame in frames:
        out += struct.pack(f"{order}IIII", 1, 2, len(frame), len(frame) + cut) + frame
    return out


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (pcap(ethernet(0x0800, ipv4(6, tcp(MARKER.encode())))), "leaked"),
        (pcap(ethernet(0x0800, ipv4(6, tcp(MARKER.encode()))), order=">"), "leaked"),
        (pcap(ipv4(6, tcp(MARKER.encode())), link=101, magic=0xA1B23C4D), "leaked"),
        (pcap(*(ethernet(0x0800, ipv4(6, tcp(half))) for half in HALVES)), "leaked"),
        (pcap(b"\0" * 16 + ipv4(6, tcp(MARKER.encode())), link=113), "leaked"),
        (pcap(ethernet(0x0800, ipv4(6, tcp(b"nothing")))), "holds"),
        (pcap(), "holds"),
        (pcap(ethernet(0x0800, ipv4(6, tcp(b"nothing"))), cut=9), "not tested"),
        (pcap(ethernet(0x0800, ipv4(6, tcp(b"nothing"))))[:-3], "not tested"),
        (pcap(b"", link=147), "not tested"),
        (b"\x0a\x0d\x0d\x0a" + b"\0" * 40, "not tested"),
        (b"", "not tested"),
    ],
)
def test_pcap_files(data: bytes, outcome: str, tmp_path: Path) -> None:
    path = tmp_path / "far.pcap"
    path.write_bytes(data)
    assert {row.outcome for row in capture.search_pcap(path, MARKERS)} == {outcome}
