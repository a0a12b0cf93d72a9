# SPDX-License-Identifier: MIT
"""Files below a profile's media folder, read here so that no engine needs a way to any file.

Every step of the path is opened by itself, relative to the step before and never through a link; type, size and content
are judged on the one open file, so that nothing can be changed between the look and the reading.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path, PurePosixPath

STEPS_MAX = 8
_HEAD = "file:///"
_STEP = re.compile(r"[^./\\%?#\x00-\x1f\x7f][^/\\%?#\x00-\x1f\x7f]{0,254}")
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a pipe must not make us wait


class MediaError(Exception):
    """A file that is not given out; the text says why, in the words of a refusal."""


def _starts(*heads: bytes) -> Callable[[bytes], bool]:
    return lambda content: content.startswith(heads)


def _boxed(frame: bytes, at: int, kind: bytes) -> Callable[[bytes], bool]:
    return lambda content: content.startswith(frame) and content[at : at + len(kind)] == kind


def _text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode("utf-8")
    except UnicodeDecodeError:
        return False


TYPES: dict[str, tuple[str, Callable[[bytes], bool]]] = {
    ".png": ("image/png", _starts(b"\x89PNG\r\n\x1a\n")),
    ".jpg": ("image/jpeg", _starts(b"\xff\xd8\xff")),
    ".jpeg": ("image/jpeg", _starts(b"\xff\xd8\xff")),
    ".gif": ("image/gif", _starts(b"GIF87a", b"GIF89a")),
    ".webp": ("image/webp", _boxed(b"RIFF", 8, b"WEBP")),
    ".bmp": ("image/bmp", _starts(b"BM")),
    ".wav": ("audio/wav", _boxed(b"RIFF", 8, b"WAVE")),
    ".mp3": ("audio/mpeg", _starts(b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")),
    ".flac": ("audio/flac", _starts(b"fLaC")),
    ".ogg": ("audio/ogg", _starts(b"OggS")),
    ".webm": ("video/webm", _starts(b"\x1a\x45\xdf\xa3")),
    ".mp4": ("video/mp4", _boxed(b"", 4, b"ftyp")),
    ".pdf": ("application/pdf", _starts(b"%PDF-")),
    ".txt": ("text/plain", _text),
    ".md": ("text/markdown", _text),
    ".csv": ("text/csv", _text),
    ".json": ("application/json", _text),
}
"""Media type of a name's ending, and whether a content is of that type. Both must agree."""


def steps_of(url: str) -> list[str]:
    """The steps from the folder to the file; raises MediaError. Nothing is decoded: a name has one spelling."""
    steps = url.removeprefix(_HEAD).split("/")
    if not url.startswith(_HEAD) or not all(_STEP.fullmatch(step) for step in steps):
        raise MediaError(
            "must be file:///<name> or file:///<folder>/<name>, as named below the media folder: no step that begins "
            "with a dot, no %-escapes, no query"
        )
    if len(steps) > STEPS_MAX:
        raise MediaError(f"lies deeper than {STEPS_MAX} folders")
    return steps


def _open(folder: Path, steps: list[str]) -> int:
    """The file's descriptor; raises OSError."""
    at = os.open(folder, _FOLDER)
    try:
        for step in steps[:-1]:
            inner = os.open(step, _FOLDER, dir_fd=at)
            os.close(at)
            at = inner
        return os.open(steps[-1], _FILE, dir_fd=at)
    finally:
        os.close(at)


def read_below(folder: Path, url: str, limit: int) -> bytes:
    """The content of a regular file below the folder, at most `limit` bytes; raises MediaError."""
    try:
        descriptor = _open(folder, steps_of(url))
    except PermissionError:
        raise MediaError("names a file that admission may not read") from None
    except OSError:
        raise MediaError("names no file of this profile's media folder (links are not followed)") from None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise MediaError("must name a regular file")
        if about.st_nlink != 1:  # the other name could be in a tree of somebody else
            raise MediaError("names a file that has a second name (a hard link)")
        content = _content(descriptor, limit + 1)
    except OSError:
        raise MediaError("names a file that cannot be read") from None
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise MediaError("names a file that is larger than what is left of a request's size")
    return content


def _content(descriptor: int, most: int) -> bytes:
    content = bytearray()
    while len(content) < most and (piece := os.read(descriptor, most - len(content))):
        content += piece
    return bytes(content)


class Shelf:
    """The files that one request may name: a profile's folder, and the bytes that are left to it."""

    def __init__(self, folder: Path, left: int) -> None:
        self._folder = folder
        self._left = left

    def take(self, url: str, allowed: frozenset[str]) -> str:
        """A file as a data: URL, of one of the allowed media types; raises MediaError."""
        name = steps_of(url)[-1]
        kind, is_of = TYPES.get(PurePosixPath(name).suffix.lower(), ("", _text))
        if kind == "video/webm" and kind not in allowed:
            kind = "audio/webm"
        if kind not in allowed:
            endings = sorted(ending for ending, (known, _is) in TYPES.items() if known in allowed)
            raise MediaError("must name a file with one of these endings: " + ", ".join(endings))
        content = read_below(self._folder, url, max(0, self._left) * 3 // 4)
        if not content or not is_of(content):
            raise MediaError("names a file whose content is not what its ending says")
        whole = f"data:{kind};base64," + base64.b64encode(content).decode("ascii")
        self._left -= len(whole)
        return whole
