# SPDX-License-Identifier: MIT
"""Words that nobody could guess, put into confidential traffic and then looked for: on the wires, and in what others
can open on this machine.

What is encrypted before it leaves cannot be read on a wire; the attacks and the guard's counters speak about that.
Frames are searched one by one and along each flow in the order of their arrival; nothing is put together again. Where a
marker is found the place and its encoding are told, never what stands around it.
"""

from __future__ import annotations

import base64
import bz2
import contextlib
import ctypes
import fcntl
import functools
import http.client
import importlib
import json
import lzma
import os
import pwd
import re
import secrets
import select
import socket
import stat
import struct
import subprocess
import tempfile
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .model import Row

#: Python before 3.14 has none.
ZSTD: Any = None
with contextlib.suppress(ImportError):
    ZSTD = importlib.import_module("compression.zstd")

PREFIX = "mushimark"
CHANNELS = ("prompt", "file-name", "image", "tool-result", "queued")
#: Where the private queue keeps what waits. What a marker of this channel is found in, it must be this.
QUEUE_DATA = "/var/lib/mushishi-sovereign-admission/"
CORE, TAG = 20, 4
CHUNK = 1024 * 1024
DEPTH = 3
#: Bytes that one compressed piece may open to, and how many may be open at a time.
INFLATED, OPEN_AT_ONCE = 1 << 30, 64
FLOWS = 2048


# ---- markers
@dataclass(frozen=True)
class Markers:
    """The markers of one run: they share a random core, for which alone everything is searched first."""

    core: str
    labels: Mapping[str, str]

    @classmethod
    def make(cls, profiles: Iterable[str], channels: Iterable[str] = CHANNELS) -> Markers:
        """One for each profile and channel; 100 bits of chance in the core."""
        core, labels = PREFIX + word(CORE), {}
        kinds = tuple(channels)
        for label in (f"{profile}/{channel}" for profile in profiles for channel in kinds):
            marker = core + word(TAG)
            while marker in labels:
                marker = core + word(TAG)
            labels[marker] = label
        return cls(core, labels)

    def of(self, profile: str, channel: str) -> str:
        """The marker itself."""
        return next(marker for marker, label in self.labels.items() if label == f"{profile}/{channel}")

    def hidden(self, text: str) -> str:
        """A text without markers."""
        return re.sub(PREFIX + "[a-z2-7]+", "(marker)", text, flags=re.IGNORECASE)


def word(length: int) -> str:
    """Random letters and digits that every encoding leaves as they are, and DNS too."""
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for dummy in range(length))


def png(marker: str) -> bytes:
    """A whole image of one pixel with a marker among its words."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    said, pixel = piece(b"tEXt", b"Comment\0" + marker.encode()), piece(b"IDAT", zlib.compress(b"\0\0"))
    return b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", head) + said + pixel + piece(b"IEND", b"")


# ---- encodings
def aligned(data: bytes, unit: int, bits: int, encode: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """What is certain of an encoded text, whatever stands before and after it. ``unit``: bytes of a group."""
    for before in range(unit):
        whole = encode(b"\0" * before + data + b"\0" * (-(before + len(data)) % unit))
        first = -(-before * 8 // bits)
        last = (before + len(data)) * 8 // bits
        yield whole[first:last]


def base64s(data: bytes) -> list[bytes]:
    """Each alignment, in both alphabets."""
    return sorted({*aligned(data, 3, 6, base64.b64encode), *aligned(data, 3, 6, base64.urlsafe_b64encode)})


def encodings(text: str) -> dict[str, tuple[bool, list[bytes]]]:
    """Encoding → whether case counts, and what to look for."""
    raw = text.encode()
    twice = [raw.hex().encode(), raw.hex().upper().encode(), text.encode("utf-16-le"), text.encode("utf-16-be")]
    either = {
        "plain": raw,
        "reversed": raw[::-1],
        "hex": raw.hex().encode(),
        "UTF-16LE": text.encode("utf-16-le"),
        "UTF-16BE": text.encode("utf-16-be"),
        "percent": b"".join(b"%%%02x" % byte for byte in raw),
        "JSON escapes": b"".join(b"\\u%04x" % byte for byte in raw),
        "escapes": b"".join(b"\\x%02x" % byte for byte in raw),
        "HTML escapes": b"".join(b"&#%d;" % byte for byte in raw),
        "HTML hex escapes": b"".join(b"&#x%x;" % byte for byte in raw),
        "quoted-printable": b"".join(b"=%02x" % byte for byte in raw),
    }
    found = {name: (False, [needle.lower()]) for name, needle in either.items()}
    found["base32"] = False, [needle.lower() for needle in aligned(raw, 5, 5, base64.b32encode)]
    found["base64"] = True, base64s(raw)
    found["base64 twice"] = True, sorted({deep for once in base64s(raw) for deep in base64s(once)})
    found["base64 of hex or UTF-16"] = True, sorted({deep for once in twice for deep in base64s(once)})
    return found


class Needles:
    """What to look for, made once."""

    def __init__(self, markers: Markers) -> None:
        self.markers = markers
        self.core = encodings(markers.core)
        self.each = {label: encodings(marker) for marker, label in markers.labels.items()}
        found = [many for kinds in self.each.values() for exact, many in kinds.values()]
        self.longest = max(len(one) for many in found for one in many)

    def scan(self, data: bytes) -> Iterator[tuple[str, str]]:
        """(label, encoding) of each marker in a piece."""
        low, squeezed = data.lower(), data.translate(None, b" \t\r\n")
        views = {False: (low,), True: (data,) if len(squeezed) == len(data) else (data, squeezed)}
        for encoding, (exact, needles) in self.core.items():
            if any(needle in view for needle in needles for view in views[exact]):
                named = [
                    label
                    for label, kinds in self.each.items()
                    if any(needle in view for needle in kinds[encoding][1] for view in views[exact])
                ]
                yield from ((label, encoding) for label in named or ["cut off"])


MAGIC = re.compile(
    rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]|BZh[1-9]1AY&SY|\xfd7zXZ\x00|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|PK\x03\x04"
)
LONGEST_MAGIC = 10


class Inflater:
    """One compressed piece, opened as it comes."""

    def __init__(self, kind: str, opener: Any, finder: Finder) -> None:
        self.kind, self._opener, self._finder, self._given = kind, opener, finder, 0

    def feed(self, data: bytes) -> bool:
        """Open more of it; False when it is at its end, or is none."""
        first = True
        try:
            while data or first or self._rest():
                out = self._opener.decompress(data, CHUNK)
                data, first = getattr(self._opener, "unconsumed_tail", b""), False
                self._given += len(out)
                if out:
                    self._finder.feed(out)
                if self._opener.eof:
                    return False
                if self._given > INFLATED:
                    self._finder.opaque.add(f"{self.kind}, more than {INFLATED >> 20} MiB")
                    return False
                if not out and not data:
                    return True
        except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError):
            return False
        return True

    def _rest(self) -> bool:
        return getattr(self._opener, "needs_input", True) is False


class Finder:
    """Looks for markers in a stream of any length: ``feed`` it, then read ``hits`` and ``opaque``.

    Memory is bounded: the end of what came is kept so that a marker across two pieces is found, and compressed pieces
    in it are opened as they come, three deep.
    """

    def __init__(self, needles: Needles, depth: int = DEPTH) -> None:
        self._needles, self._depth = needles, depth
        self._overlap = 4 * needles.longest
        self._tail, self._length = b"", 0
        self._open: list[Inflater] = []
        self.hits: set[tuple[str, str]] = set()
        self.opaque: set[str] = set()

    def feed(self, data: bytes) -> None:
        """The next piece."""
        for begin in range(0, len(data), CHUNK):
            self._feed(data[begin : begin + CHUNK])

    def _feed(self, data: bytes) -> None:
        before = len(self._tail)
        whole = self._tail + data
        self.hits.update(self._needles.scan(whole))
        if self._depth:
            self._open = [one for one in self._open if self._fed(one, data)]
            start = max(0, before - LONGEST_MAGIC + 1)
            for match in MAGIC.finditer(whole, start):
                # One that ended in what was there before has been seen before.
                if match.end() > before:
                    self._begin(match[0], whole, match.start(), self._length - before + match.start())
        self._length += len(data)
        self._tail = whole[-self._overlap :]

    def _fed(self, one: Inflater, data: bytes) -> bool:
        alive = one.feed(data)
        self._take(one)
        return alive

    def _take(self, one: Inflater) -> None:
        inner = one._finder
        self.hits.update((label, f"{one.kind} > {encoding}") for label, encoding in inner.hits)
        self.opaque.update(f"{one.kind} > {what}" for what in inner.opaque)

    def _begin(self, magic: bytes, whole: bytes, at: int, offset: int) -> None:
        kind, opener = opener_of(magic)
        if opener is None:
            if offset == 0:
                self.opaque.add(kind)
            return
        one = Inflater(kind, opener, Finder(self._needles, self._depth - 1))
        # A small piece first: most of what looks like compressed data is none.
        alive = one.feed(whole[at : at + 4096]) and (len(whole) <= at + 4096 or one.feed(whole[at + 4096 :]))
        self._take(one)
        if alive and len(self._open) < OPEN_AT_ONCE:
            self._open.append(one)
        elif alive:
            self.opaque.add(f"more than {OPEN_AT_ONCE} compressed pieces at a time")


class Zipped:
    """One file of a zip archive, behind its head."""

    def __init__(self) -> None:
        self._head, self._opener = b"", zlib.decompressobj(-15)
        self._open, self.unconsumed_tail = False, b""

    @property
    def eof(self) -> bool:
        """Whether it is at its end."""
        return self._opener.eof

    def decompress(self, data: bytes, most: int) -> bytes:
        """The next of its content.

        Raises:
            ValueError: it is stored as it is, which is no reason to open it.
        """
        if not self._open:
            self._head += data
            if len(self._head) < 30 or len(self._head) < 30 + sum(struct.unpack("<HH", self._head[26:30])):
                return b""
            if self._head[8:10] != b"\x08\0":
                raise ValueError("not deflated")
            data, self._open = self._head[30 + sum(struct.unpack("<HH", self._head[26:30])) :], True
        out = self._opener.decompress(data, most)
        self.unconsumed_tail = self._opener.unconsumed_tail
        return out


def opener_of(magic: bytes) -> tuple[str, Any]:
    """What opens a compressed piece; none where the standard library has no word for it."""
    if magic == b"\x1f\x8b\x08":
        return "gzip", zlib.decompressobj(31)
    if magic[:1] == b"\x78":
        return "zlib", zlib.decompressobj(15)
    if magic[:3] == b"BZh":
        return "bzip2", bz2.BZ2Decompressor()
    if magic[:1] == b"\xfd":
        return "xz", lzma.LZMADecompressor(memlimit=256 * 1024 * 1024)
    if magic == b"\x28\xb5\x2f\xfd":
        return "zstd", ZSTD.ZstdDecompressor() if ZSTD is not None else None
    if magic == b"PK\x03\x04":
        return "zip", Zipped()
    return "lz4", None


@dataclass
class Found:
    """What a search found in one place. ``fault``: why it did not come to its end."""

    hits: set[tuple[str, str]] = field(default_factory=set)
    opaque: set[str] = field(default_factory=set)
    size: int = 0
    fault: str = ""


def search_stream(stream: IO[bytes], needles: Needles, deadline: float = float("inf")) -> Found:
    """Search a stream to its end."""
    finder, found = Finder(needles), Found()
    try:
        for piece in iter(lambda: stream.read(CHUNK), b""):
            finder.feed(piece)
            found.size += len(piece)
            if time.monotonic() > deadline:
                found.fault = "not to its end: no time left"
                break
    except OSError as error:
        found.fault = str(error.strerror)
    found.hits, found.opaque = finder.hits, finder.opaque
    return found


def search_file(path: str, needles: Needles, deadline: float = float("inf")) -> Found:
    """Search a regular file; holes in it are passed over. A link or a pipe is not followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return Found()
    except OSError as error:
        return Found(fault=str(error.strerror))
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            return Found()
        if about.st_blocks * 512 >= about.st_size or about.st_size == 0:
            return search_stream(stream, needles, deadline)
        return _search_sparse(descriptor, about.st_size, needles, deadline)


def _search_sparse(descriptor: int, size: int, needles: Needles, deadline: float) -> Found:
    finder, found, place = Finder(needles), Found(), 0
    try:
        while place < size:
            try:
                place = os.lseek(descriptor, place, os.SEEK_DATA)
            except OSError:
                break  # nothing but a hole to the end
            end = os.lseek(descriptor, place, os.SEEK_HOLE)
            while place < end:
                piece = os.pread(descriptor, min(CHUNK, end - place), place)
                if not piece:
                    break
                finder.feed(piece)
                found.size += len(piece)
                place += len(piece)
                if time.monotonic() > deadline:
                    found.fault = "not to its end: no time left"
                    place = size
            if place < end:
                break
    except OSError as error:
        found.fault = str(error.strerror)
    found.hits, found.opaque = finder.hits, finder.opaque
    return found


# ---- inside: what others can open
#: Whose files are made anew, or changed without a trace in their times: each is searched, however old.
ALWAYS = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # noqa: S108 - searched, not written to
PLACES = (
    *ALWAYS,
    "/var/log",
    "/var/lib",
    "/var/crash",
    "/var/spool",
    "/var/backups",
    "/var/cache",
    "/var/mail",
    "/home",
    "/srv",
    "/etc",
    "/opt/mushishi",
)
#: The same files once more, or none of their own.
LEFT_OUT = re.compile(r"^/var/lib/docker/overlay2/[^/]+/merged$|^/run/(docker|containerd|netns)/|^/var/lib/lxcfs$")


@dataclass(frozen=True)
class Reader:
    """A user who must not find anything."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def t2_readers() -> list[Reader]:
    """Everybody on the hybrid side, and nobody in particular."""
    names = [entry.pw_name for entry in pwd.getpwall() if re.match(r"mushishi-(ingress-)?hybrid", entry.pw_name)]
    return [reader(name) for name in [*sorted(names), "nobody"]]


def reader(name: str) -> Reader:
    """A user by name."""
    entry = pwd.getpwnam(name)
    return Reader(name, entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(name, entry.pw_gid)))


def as_reader(who: Reader | None, job: Callable[[], Any]) -> Any:
    """The JSON that a job gives in a process of its own, as that user.

    Raises:
        RuntimeError: it gave none.
    """
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(source)
            if who is not None and os.geteuid() == 0:
                os.setgroups(who.groups)
                os.setresgid(who.gid, who.gid, who.gid)
                os.setresuid(who.uid, who.uid, who.uid)
            with os.fdopen(sink, "w", encoding="utf-8") as stream:
                json.dump(job(), stream)
            status = 0
        finally:
            os._exit(status)
    os.close(sink)
    with os.fdopen(source, encoding="utf-8", errors="replace") as stream:
        text = stream.read()
    os.waitpid(child, 0)
    try:
        return json.loads(text)
    except ValueError:
        raise RuntimeError(f"a search as {who.name if who else 'root'} gave no answer") from None


def openable(paths: Sequence[str]) -> list[bool]:
    """Which files can be opened for reading, folders listed, by who asks."""
    found = []
    for path in paths:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW))
            found.append(True)
        except OSError:
            found.append(False)
    return found


def files_in(place: str, since: float) -> Iterator[tuple[str, bool]]:
    """Every regular file under a place, and whether it can hold something that was made after ``since``."""
    every = place in ALWAYS
    if os.path.islink(place):
        return
    if os.path.isfile(place):
        yield place, True
        return
    for folder, folders, names in os.walk(place):
        folders[:] = [name for name in folders if not LEFT_OUT.match(os.path.join(folder, name))]
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                about = os.lstat(path)
                if stat.S_ISREG(about.st_mode):
                    yield path, every or max(about.st_mtime, about.st_ctime) >= since


def search_places(places: Iterable[str], needles: Needles, since: float, deadline: float) -> Iterator[tuple[str, Any]]:
    """Search each place as who we are: (place, {file: Found} of what is worth a word, and how much was searched)."""
    for place in places:
        found: dict[str, Found] = {}
        total = Found()
        count = 0
        for path, fresh in files_in(place, since):
            named = set(needles.scan(path.encode("utf-8", "surrogateescape")))
            one = search_file(path, needles, deadline) if fresh else Found()
            one.hits |= {(label, f"its name, {encoding}") for label, encoding in named}
            count, total.size = count + fresh, total.size + one.size
            if one.hits or one.opaque or one.fault:
                found[path] = one
            if time.monotonic() > deadline:
                total.fault = "not to its end: no time left"
                break
        yield place, (found, total, count)


def search_inside(
    markers: Markers,
    places: Sequence[str] = PLACES,
    readers: Sequence[Reader] | None = None,
    since: float = 0.0,
    seconds: float = 120.0,
    journals: bool = True,
) -> list[Row]:
    """What a reader of the hybrid side could find of the markers. Run it as root.

    Args:
        markers: what was sent.
        places: folders and files to search.
        readers: who must find nothing; by default every hybrid user, and ``nobody``.
        since: when the markers were made; older files cannot hold them.
        seconds: how long it may take.
        journals: whether to ask ``journalctl``, too.
    """
    who = list(t2_readers() if readers is None else readers)
    needles, deadline = Needles(markers), time.monotonic() + seconds
    rows = [_inside_control(who)]
    for place, (found, total, count) in search_places(places, needles, since, deadline):
        rows += _place_rows(place, found, total, count, who, markers)
    rows += [row for one in who for row in _process_rows(one, needles)]
    if journals:
        rows += [row for one in (None, *who) for row in _journal_rows(one, needles, since)]
    return rows


def _place_rows(
    place: str, found: Mapping[str, Found], total: Found, count: int, who: Sequence[Reader], markers: Markers
) -> list[Row]:
    rows, kept = [], 0
    paths = [path for path, one in found.items() if one.hits]
    # A name is read by who can list its folder, a content by who can open the file.
    for path in paths:
        names = {hit for hit in found[path].hits if hit[1].startswith("its name")}
        asked = {os.path.dirname(path): names, path: found[path].hits - names}
        for target, hits in asked.items():
            if not hits:
                continue
            able = [one.name for one in who if as_reader(one, functools.partial(openable, [target]))[0]]
            said = "; ".join(f"{label} as {encoding}" for label, encoding in sorted(hits))
            rule = "P8" if place.startswith("/var/log") else "P7"
            if able:
                leak = ("leaked", None, f"{said}; what stands around it is withheld")
                rows.append(Row("capture", rule, f"user {', '.join(able)}", markers.hidden(path), *leak))
            else:
                kept += 1
                closed = f"{said}; {_owner(path)} and root alone can open it"
                rows.append(Row("capture", rule, f"search of {place}", markers.hidden(path), "refused", None, closed))
    for path, one in found.items():
        why = one.fault or ", ".join(sorted(one.opaque))
        if why and not one.hits:
            words = f"cannot be opened here: {why}" if one.opaque and not one.fault else why
            rows.append(Row("capture", "P7", f"search of {place}", markers.hidden(path), "not tested", None, words))
    if total.fault:
        rows.append(Row("capture", "P7", f"search of {place}", "the rest of it", "not tested", None, total.fault))
    elif not any(row.outcome == "leaked" for row in rows):
        said = f"{count} files, {total.size} bytes" + (f"; {kept} with a marker, closed to others" if kept else "")
        rows.append(Row("capture", "P7", f"search of {place}", "no marker that others can read", "holds", None, said))
    return rows


def _owner(path: str) -> str:
    try:
        return pwd.getpwuid(os.lstat(path).st_uid).pw_name
    except (KeyError, OSError):
        return "its owner"


def _process_rows(who: Reader, needles: Needles) -> list[Row]:
    """What a reader finds in the command lines and environments of other processes."""

    def job() -> list[list[str]]:
        hits = []
        for pid in (name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()):
            for part in ("cmdline", "environ", "comm"):
                with contextlib.suppress(OSError), open(f"/proc/{pid}/{part}", "rb") as stream:
                    hits += [[f"/proc/{pid}/{part}", *hit] for hit in search_stream(stream, needles).hits]
        return hits

    hits = as_reader(who, job)
    source = f"user {who.name}"
    if hits:
        return [Row("capture", "P7", source, path, "leaked", None, f"{label} as {how}") for path, label, how in hits]
    return [Row("capture", "P7", source, "/proc/*/cmdline, environ", "holds", None, "no marker")]


def _journal_rows(who: Reader | None, needles: Needles, since: float) -> list[Row]:
    """What ``journalctl`` gives a reader; to root (``None``) it gives all, which is no leak and is told."""
    words = ["journalctl", "--no-pager", "--output=export", "--all", "--quiet", f"--since=@{int(since)}"]
    if who is None:
        words.append("--namespace=*")
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    if who is not None and os.geteuid() == 0:
        given.update(user=who.uid, group=who.gid, extra_groups=list(who.groups))
    source = f"user {who.name}" if who else "search of the journals"
    try:
        with subprocess.Popen(words, cwd="/", **given) as reading:
            pipe: Any = reading.stdout
            found = search_stream(pipe, needles, time.monotonic() + 60)
            reading.kill()
    except OSError as error:
        return [Row("capture", "P8", source, "journalctl", "not tested", None, str(error.strerror))]
    said = "; ".join(f"{label} as {encoding}" for label, encoding in sorted(found.hits))
    if found.fault:
        return [Row("capture", "P8", source, "journalctl", "not tested", None, found.fault)]
    if not found.hits:
        return [Row("capture", "P8", source, "journalctl", "holds", None, f"no marker in {found.size} bytes")]
    if who is None:
        return [Row("capture", "P8", source, "journalctl", "refused", None, f"{said}; see what each reader gets of it")]
    return [Row("capture", "P8", source, "journalctl", "leaked", None, said)]


def _inside_control(who: Sequence[Reader]) -> Row:
    """A planted file that everybody can read must be found by the same search."""
    planted = Markers.make(["control"], ["planted"])
    needles = Needles(planted)
    folder = tempfile.mkdtemp(prefix="mushishi-audit-")
    try:
        os.chmod(folder, 0o755)  # noqa: S103 - everybody shall find it
        path = os.path.join(folder, "planted.log")
        with open(path, "wb") as stream:
            stream.write(b"x" * 100 + base64.b64encode(b"a" + planted.of("control", "planted").encode()) + b"y" * 100)
        os.chmod(path, 0o644)
        found, total, count = next(iter(search_places([folder], needles, 0.0, float("inf"))))[1]
        rows = _place_rows(folder, found, total, count, who, planted)
    finally:
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)
    able = ", ".join(row.source for row in rows if row.outcome == "leaked")
    outcome = "leaked" if able else "refused"
    return Row("control", "P7", "search of what others can open", "a planted file, base64", outcome, None, able)


# ---- outside: what is on the wires
OUTGOING = 4


def flow_of(frame: bytes, ethernet: bool) -> tuple[tuple[Any, ...], bytes]:
    """A frame's flow and what it carries; a frame that is not understood is a flow of its kind, and carries itself."""
    kind, place = 0, 0
    if ethernet:
        if len(frame) < 14:
            return ("short",), frame
        kind, place = int.from_bytes(frame[12:14], "big"), 14
        while kind in (0x8100, 0x88A8) and len(frame) >= place + 4:
            kind, place = int.from_bytes(frame[place + 2 : place + 4], "big"), place + 4
    elif frame:
        kind = {4: 0x0800, 6: 0x86DD}.get(frame[0] >> 4, 0)
    packet = frame[place:]
    if kind == 0x0800 and len(packet) >= 20:
        length = (packet[0] & 15) * 4
        protocol, ends = packet[9], (packet[12:16], packet[16:20])
        if int.from_bytes(packet[6:8], "big") & 0x1FFF:
            return (*ends, protocol, packet[4:6]), packet[length:]
        body = packet[length : max(int.from_bytes(packet[2:4], "big"), length) or None]
    elif kind == 0x86DD and len(packet) >= 40:
        protocol, ends, body = packet[6], (packet[8:24], packet[24:40]), packet[40:]
        while protocol in (0, 43, 60) and len(body) >= 8:
            protocol, body = body[0], body[(body[1] + 1) * 8 :]
        if protocol == 44:
            return (*ends, protocol, body[4:8]), body[8:]
    else:
        return ("other", kind), packet
    if protocol == 6 and len(body) >= 20:
        return (*ends, protocol, body[:4]), body[(body[12] >> 4) * 4 :]
    if protocol == 17 and len(body) >= 8:
        return (*ends, protocol, body[:4]), body[8:]
    return (*ends, protocol), body


def flow_name(flow: tuple[Any, ...]) -> str:
    """A flow in words."""
    if len(flow) < 3:
        return " ".join(str(one) if isinstance(one, str) else f"{one:#06x}" for one in flow)
    family = socket.AF_INET if len(flow[0]) == 4 else socket.AF_INET6
    ends = [socket.inet_ntop(family, one) for one in flow[:2]]
    name = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}.get(flow[2], f"protocol {flow[2]}")
    port = f" {int.from_bytes(flow[3][2:4], 'big')}" if flow[2] in (6, 17) and len(flow) > 3 else ""
    return f"{ends[0]} → {ends[1]} {name}{port}"


class Wire:
    """What was seen on one wire."""

    def __init__(self, needles: Needles) -> None:
        self._needles = needles
        self._flows: OrderedDict[tuple[Any, ...], Finder] = OrderedDict()
        self.frames = self.bytes = self.dropped = 0
        self.cut = False
        self.hits: set[tuple[str, str, str, str]] = set()

    def frame(self, data: bytes, *, ethernet: bool = True, outgoing: bool = True) -> None:
        """The next frame."""
        self.frames, self.bytes = self.frames + 1, self.bytes + len(data)
        flow, payload = flow_of(data, ethernet)
        way = "out" if outgoing else "in"
        hits = set(self._needles.scan(data))
        if payload:
            finder = self._flows.pop((way, *flow), None) or Finder(self._needles, 1)
            self._flows[(way, *flow)] = finder
            if len(self._flows) > FLOWS:
                self._flows.popitem(last=False)
            finder.feed(payload)
            hits |= finder.hits
            finder.hits = set()
        self.hits |= {(label, encoding, way, flow_name(flow)) for label, encoding in hits}


def packet_socket(interface: str) -> socket.socket:
    """What the kernel shows of an interface, both directions, from now on."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with contextlib.suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, 33, 64 * 1024 * 1024)  # SO_RCVBUFFORCE
    opened.bind((interface, 3))  # ETH_P_ALL
    opened.setblocking(False)
    return opened


class Sniffer:
    """Listens on interfaces while the body of ``with`` runs, and sends nothing."""

    def __init__(
        self, interfaces: Sequence[str], needles: Needles, opened: Callable[[str], Any] = packet_socket
    ) -> None:
        self._needles, self._opened, self._names = needles, opened, list(interfaces)
        self._stop = threading.Event()
        self._sockets: dict[Any, str] = {}
        self.wires = {name: Wire(needles) for name in interfaces}
        self.faults: dict[str, str] = {}

    def __enter__(self) -> Sniffer:
        for name in self._names:
            try:
                self._sockets[self._opened(name)] = name
            except OSError as error:
                self.faults[name] = str(error.strerror)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *dummy: object) -> None:
        self._stop.set()
        self._thread.join()
        for opened, name in self._sockets.items():
            with contextlib.suppress(OSError, struct.error):
                # SOL_PACKET, PACKET_STATISTICS: seen, dropped
                self.wires[name].dropped += struct.unpack("II", opened.getsockopt(263, 6, 8))[1]
            opened.close()

    def _listen(self) -> None:
        waiting = list(self._sockets)
        while waiting:
            ready = select.select(waiting, [], [], 0.05)[0]
            for opened in ready:
                if not self._read(opened):
                    waiting.remove(opened)
            if not ready and self._stop.is_set():
                return

    def _read(self, opened: Any) -> bool:
        name = self._sockets[opened]
        wire = self.wires[name]
        for _number in range(256):
            try:
                data, about = opened.recvfrom(256 * 1024)
            except BlockingIOError:
                return True
            except OSError as error:
                self.faults[name] = str(error.strerror)
                return False
            wire.frame(data, ethernet=about[3] in (1, 772), outgoing=about[2] == OUTGOING)
        return True


def wire_rows(name: str, wire: Wire, fault: str = "") -> list[Row]:
    """What was seen on a wire, as rows."""
    source = f"interface {name}"
    said = f"{wire.frames} frames, {wire.bytes} bytes"
    rows = [
        Row("capture", "P1", source, f"{way}: {flow}", "leaked", None, f"{label} as {encoding}")
        for label, encoding, way, flow in sorted(wire.hits)
    ]
    if fault:
        rows.append(Row("capture", "P1", source, "all of its frames", "not tested", None, f"{said}, then: {fault}"))
    elif wire.dropped:
        lost = f"{said}; {wire.dropped} came faster than they could be read"
        rows.append(Row("capture", "P1", source, "all of its frames", "not tested", None, lost))
    elif not rows:
        rows.append(Row("capture", "P1", source, "no marker in any frame", "holds", None, said))
    return rows


def in_new_namespace(job: Callable[[], Any]) -> Any:
    """The JSON that a job gives in a network namespace of its own, which ends with it; only ``lo`` is there, and is up.

    Raises:
        RuntimeError: there may be none.
    """

    def inside() -> Any:
        if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) != 0:  # CLONE_NEWNET
            return {"fault": os.strerror(ctypes.get_errno())}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running
        return job()

    said = as_reader(None, inside)
    if isinstance(said, dict) and "fault" in said:
        raise RuntimeError(f"no network namespace: {said['fault']}")
    return said


def sniffer_control() -> list[Row]:
    """A planted marker, sent whole and halved inside a namespace of its own, must be seen by the same sniffer."""
    planted = Markers.make(["control"], ["whole", "halved"])

    def job() -> list[str]:
        with Sniffer(["lo"], Needles(planted)) as sniffer:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                out.bind(("127.0.0.1", 0))
                out.sendto(b"..." + planted.of("control", "whole").encode() + b"...", ("127.0.0.1", 9))
                halved = planted.of("control", "halved").encode()
                for half in (halved[:17], halved[17:]):
                    out.sendto(half, ("127.0.0.1", 9))
            time.sleep(0.2)
        return sorted({hit[0] for hit in sniffer.wires["lo"].hits})

    try:
        seen, why = set(in_new_namespace(job)), ""
    except RuntimeError as error:
        seen, why = set(), str(error)
    rows = []
    for channel in ("whole", "halved"):
        outcome = "not tested" if why else "leaked" if f"control/{channel}" in seen else "refused"
        way = f"a planted marker on lo, {channel}"
        rows.append(Row("control", "P1", "sniffer in a namespace of its own", way, outcome, None, why))
    return rows


def capture_run(
    send: Callable[[Markers], None], interfaces: Sequence[str], seconds: float, markers: Markers | None = None
) -> list[Row]:
    """Listen on the outside interfaces while confidential traffic is sent, and for ``seconds`` after it.

    Not on the interface of the readers (``tailscale0``): there a question and its answer are in place. ``send`` gets
    the markers; give ``markers`` to look for them inside, too (:func:`search_inside`).
    """
    made = markers or Markers.make(["private", "client", "coding"])
    rows, fault = sniffer_control(), ""
    with Sniffer(interfaces, Needles(made)) as sniffer:
        try:
            send(made)
        except Exception as error:  # noqa: BLE001 - whatever it was: what was captured still counts
            fault = type(error).__name__
        time.sleep(seconds)
    if fault:
        failed = f"it failed: {fault}"
        rows.append(Row("capture", "P1", "the traffic with markers", "was sent", "not tested", None, failed))
    for name, wire in sniffer.wires.items():
        rows += wire_rows(name, wire, sniffer.faults.get(name, ""))
    return rows


# ---- confidential traffic of our own, on a real machine
#: Interfaces on which nothing leaves the machine, beside the readers' own.
NOT_OUTSIDE = re.compile(r"^(lo|docker\d*|br-.*|veth.*|sov.*)$")


def outside_interfaces(readers: str = "tailscale0", root: str = "/sys/class/net") -> list[str]:
    """The interfaces that lead off the machine, the readers' left out."""
    names = sorted(os.listdir(root)) if os.path.isdir(root) else []
    linked = [name for name in names if os.path.isdir(os.path.join(root, name))]
    return [name for name in linked if not NOT_OUTSIDE.match(name) and name != readers]


def messages(channel: str, marker: str) -> list[dict[str, Any]]:
    """A chat that holds a marker in one of its places."""
    if channel == "tool-result":
        call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
        return [
            {"role": "user", "content": "Look it up."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": f"It is {marker}."},
        ]
    if channel == "image":
        image = "data:image/png;base64," + base64.b64encode(png(marker)).decode()
        parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": image}}]
        return [{"role": "user", "content": parts}]
    if channel == "file-name":
        data = "data:text/plain;base64," + base64.b64encode(b"a few words").decode()
        file = {"type": "file", "file": {"filename": f"{marker}.txt", "file_data": data}}
        return [{"role": "user", "content": [{"type": "text", "text": "Read it."}, file]}]
    return [{"role": "user", "content": f"Say nothing about {marker}."}]


def ask(
    address: str,
    port: int,
    key: str,
    profile: str,
    chat: Sequence[Mapping[str, Any]],
    timeout: float = 60,
    prefer: str = "wait=5",
) -> tuple[int, str]:
    """One chat request to a plane's ingress; the status of its answer, 0 where there was none, and its job, if any."""
    body = json.dumps({"model": profile, "messages": list(chat), "max_tokens": 8})
    head = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Prefer": prefer}
    return exchanged(address, port, "POST", "/v1/chat/completions", body, head, timeout)


def exchanged(
    address: str, port: int, method: str, path: str, body: str | None, head: Mapping[str, str], timeout: float
) -> tuple[int, str]:
    """Status and Location of one answer; 0 where there was none."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request(method, path, body, dict(head))
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()
    return answer.status, answer.headers.get("location") or ""


def queued_rows(rows: Sequence[Row], profiles: Iterable[str], data: str = QUEUE_DATA) -> list[Row]:
    """Of the search's rows: a prompt that waits is found in the queue's own data, and nowhere else."""
    made = []
    for profile in profiles:
        label = f"{profile}/queued as "
        places = [row.path for row in rows if label in row.detail and row.outcome != "holds"]
        outside = sorted({place for place in places if not place.startswith(data)})
        inside = len(places) - len(outside)
        outcome = "leaked" if outside else "holds" if inside else "not tested"
        said = ", ".join(outside[:5]) if outside else f"found in {inside} files of the queue (control), and in no other"
        if outcome == "not tested":
            said = "the search did not find it in the queue itself, so it would not have found it elsewhere"
        what = "a queued prompt is in the queue alone"
        made.append(Row("capture", "P7", f"profile {profile}", what, outcome, None, said))
    return made


def audit_capture(
    address: str,
    port: int,
    keys: Mapping[str, str],
    interfaces: Sequence[str] | None = None,
    seconds: float = 5.0,
    readers: str = "tailscale0",
) -> list[Row]:
    """Marked requests of every T1 profile, while the outside interfaces are listened to; then a look inside.

    Args:
        address: where clients reach the sovereign plane's ingress.
        port: its port.
        keys: T1 profile → its key.
        interfaces: where to listen; by default every interface that leads off the machine.
        seconds: how long to listen on after the last answer.
        readers: the interface of the readers, on which questions and answers are in place.
    """
    markers, since = Markers.make(keys), time.time() - 1
    statuses: dict[str, int] = {}
    jobs: dict[str, str] = {}

    def send(made: Markers) -> None:
        for label in made.labels.values():
            profile, channel = label.split("/")
            chat = messages(channel, made.of(profile, channel))
            prefer = "respond-async" if channel == "queued" else "wait=5"
            statuses[label], job = ask(address, port, keys[profile], profile, chat, prefer=prefer)
            if job:
                jobs[job] = profile

    names = outside_interfaces(readers) if interfaces is None else interfaces
    rows = capture_run(send, names, seconds, markers)
    for profile in keys:
        found = [status for label, status in statuses.items() if label.startswith(f"{profile}/")]
        # Refused at the door is not tried; taken in, and then without an engine, is.
        taken = [status for status in found if status in (200, 202, 429) or status >= 500]
        said = f"answers: {', '.join(str(status) for status in found)}"
        outcome = "holds" if len(taken) == len(found) > 0 else "not tested"
        rows.append(Row("capture", "P1", f"profile {profile}", "marked requests were taken in", outcome, None, said))
    seen = search_inside(markers, since=since)
    rows += queued_rows(seen, sorted({label.split("/")[0] for label, status in statuses.items() if status == 202}))
    for job, profile in jobs.items():
        head = {"Authorization": f"Bearer {keys[profile]}"}
        exchanged(address, port, "DELETE", job, None, head, 60)
    return rows + seen


# ---- pcap files
PCAP = {b"\xa1\xb2\xc3\xd4": ">", b"\xa1\xb2\x3c\x4d": ">", b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<"}
#: Link types whose frames begin otherwise than Ethernet's: how much to leave out, and whether IP follows.
LINKS = {1: 0, 101: 0, 12: 0, 0: 4, 113: 16, 276: 20, 228: 0, 229: 0}


def frames_of(stream: IO[bytes]) -> Iterator[tuple[bytes, bool, bool]]:
    """Each frame of a file of ``tcpdump -w``: its bytes, whether it is Ethernet's, whether it is whole.

    Raises:
        ValueError: it is no such file, or of a link that is not known.
    """
    head = stream.read(24)
    order = PCAP.get(head[:4])
    if order is None or len(head) < 24:
        raise ValueError("it is no pcap file (pcapng is not read: tcpdump -w writes pcap)")
    link = struct.unpack(f"{order}I", head[20:24])[0] & 0x0FFFFFFF
    if link not in LINKS:
        raise ValueError(f"its link type, {link}, is not known here")
    while True:
        record = stream.read(16)
        if not record:
            return
        if len(record) < 16:
            raise ValueError("it is cut off")
        kept, length = struct.unpack(f"{order}II", record[8:])
        data = stream.read(kept)
        if len(data) < kept:
            raise ValueError("it is cut off")
        yield data[LINKS[link] :], link == 1, kept == length


def search_pcap(path: Path, markers: Markers) -> list[Row]:
    """What a file of captured frames holds of the markers."""
    wire, fault = Wire(Needles(markers)), ""
    try:
        with path.open("rb") as stream:
            for data, ethernet, whole in frames_of(stream):
                wire.frame(data, ethernet=ethernet)
                wire.cut |= not whole
    except (OSError, ValueError) as error:
        fault = str(error)
    if wire.cut and not fault:
        fault = "frames were cut off when they were captured (tcpdump -s 0 keeps them whole)"
    return wire_rows(f"of {path.name}", wire, fault)
