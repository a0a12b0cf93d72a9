# SPDX-License-Identifier: MIT
"""Between SQLite and the disk: every write, truncation and sync of the journal is seen here, and can be the last one.

SQLite asks its VFS for files. For the length of a ``with`` the default one is a copy of the system's, whose files call
`Disk.on` before each operation. The journal's own code is not changed, and not told.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FULL, IOERR = 13, 10
SECTOR = 512

_WRITE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
# The name stays a pointer: SQLite's own files keep it, and find parameters behind it.
_OPEN = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class _Methods(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_int),
        ("close", ctypes.c_void_p),
        ("read", ctypes.c_void_p),
        ("write", ctypes.c_void_p),
        ("truncate", ctypes.c_void_p),
        ("sync", ctypes.c_void_p),
        ("rest", ctypes.c_void_p * 13),
    ]


class _File(ctypes.Structure):
    _fields_ = [("methods", ctypes.POINTER(_Methods))]


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_int),
        ("size_of_file", ctypes.c_int),
        ("longest_path", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("open", ctypes.c_void_p),
        ("rest", ctypes.c_void_p * 15),
    ]


def _library() -> ctypes.CDLL:
    """The very SQLite that Python's module uses; another copy of it would see nothing."""
    maps = Path("/proc/self/maps").read_text()
    found = re.search(r"(/\S*libsqlite3\.so\S*)", maps)
    library = ctypes.CDLL(found[1] if found else _sqlite3.__file__)
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    library.sqlite3_vfs_register.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


@dataclass(frozen=True)
class Op:
    """One operation on a file: write (data at offset), truncate (to offset), sync."""

    kind: str
    path: str
    offset: int = 0
    data: bytes = b""


Hook = Callable[["Disk", Op], int | None]


@dataclass
class Disk:
    """What was done to the files below a folder. hook: called before each operation; a number is SQLite's error."""

    folder: Path
    hook: Hook | None = None
    ops: list[Op] = field(default_factory=list)

    def on(self, op: Op) -> int:
        """0: go on."""
        if not op.path.startswith(str(self.folder)):
            return 0
        error = self.hook(self, op) if self.hook else None
        if error is None:
            self.ops.append(op)
        return error or 0


@contextmanager
def watched(disk: Disk) -> Iterator[Disk]:
    """Files that SQLite opens within are seen by the disk."""
    library = _library()
    plain = library.sqlite3_vfs_find(None)
    mine = _Vfs.from_buffer_copy(plain.contents)
    mine.name = b"watched"
    open_plainly = _OPEN(plain.contents.open)
    paths: dict[int, str] = {}
    tables: list[_Methods] = []
    kept: list[Any] = []

    def opened(_vfs: Any, name: int | None, file: int, flags: int, out: Any) -> int:
        done = open_plainly(ctypes.addressof(plain.contents), name, file, flags, out)
        handle = _File.from_address(file)
        if done == 0 and name and handle.methods:
            paths[file] = os.fsdecode(ctypes.string_at(name))
            handle.methods = ctypes.pointer(_hooked(handle.methods.contents))
        return int(done)

    def _hooked(methods: _Methods) -> _Methods:
        copy = _Methods.from_buffer_copy(methods)
        write, cut, sync = _WRITE(methods.write), _TRUNCATE(methods.truncate), _SYNC(methods.sync)

        def on_write(file: int, data: int, count: int, offset: int) -> int:
            op = Op("write", paths[file], offset, ctypes.string_at(data, count))
            return disk.on(op) or write(file, data, count, offset)

        def on_truncate(file: int, size: int) -> int:
            return disk.on(Op("truncate", paths[file], size)) or cut(file, size)

        def on_sync(file: int, flags: int) -> int:
            return disk.on(Op("sync", paths[file])) or sync(file, flags)

        calls = (_WRITE(on_write), _TRUNCATE(on_truncate), _SYNC(on_sync))
        kept.append((calls, write, cut, sync))
        copy.write, copy.truncate, copy.sync = (ctypes.cast(call, ctypes.c_void_p).value for call in calls)
        tables.append(copy)
        return copy

    call = _OPEN(opened)
    mine.open = ctypes.cast(call, ctypes.c_void_p).value
    library.sqlite3_vfs_register(ctypes.addressof(mine), 1)
    try:
        yield disk
    finally:
        library.sqlite3_vfs_register(ctypes.addressof(plain.contents), 1)
        library.sqlite3_vfs_unregister(ctypes.byref(mine))


def kill_at(number: int, *, torn: bool = False) -> Hook:
    """SIGKILL to this process at that operation; torn: after half of it was written."""

    def hook(disk: Disk, op: Op) -> int | None:
        if len(disk.ops) + 1 == number:
            if torn and op.kind == "write":
                descriptor = os.open(op.path, os.O_WRONLY)
                os.pwrite(descriptor, op.data[: len(op.data) // 2], op.offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    return hook


def fail_at(number: int, error: int) -> Hook:
    """That operation, and every one after it until the hook is taken away, does not happen: the disk is full."""

    def hook(disk: Disk, op: Op) -> int | None:
        return error if len(disk.ops) + 1 >= number and op.kind != "truncate" else None

    return hook


def after_power_cut(base: Path, ops: Sequence[Op], folder: Path, into: Path, keep: Callable[[int], int]) -> None:
    """What the files below `folder` may look like when the power goes after these operations.

    base: the files before the first of them. What was synced is there. Of what was not, anything may be: keep gives for
    each of those operations how much of it, in sectors, is (0: nothing; a large number: all of it).
    """
    shutil.copytree(base, into)
    for path in {op.path for op in ops}:
        synced = max((at for at, op in enumerate(ops) if op.kind == "sync" and op.path == path), default=-1)
        target = into / Path(path).relative_to(folder)
        target.touch()
        with target.open("r+b") as file:
            for at, op in enumerate(ops):
                if op.path != path or op.kind == "sync":
                    continue
                sectors = 1 << 30 if at < synced else keep(at)
                if op.kind == "truncate":
                    if sectors:
                        file.truncate(op.offset)
                else:
                    file.seek(op.offset)
                    file.write(op.data[: sectors * SECTOR])
