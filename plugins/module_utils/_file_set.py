# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""Many files, folders and links brought to what is wanted, each whole or not at all, none touched that is right."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ansible_collections.mushishi.sovereign.plugins.module_utils import _files
from ansible_collections.mushishi.sovereign.plugins.module_utils._diff import Differences
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

# Bytes read at once from a file that is compared or copied.
_BLOCK = 1024 * 1024
# A file longer than this is shown in a diff by its hash.
_SHOWN_BYTES = 100 * 1024

# Runs a program: argument list in, exit status and what it said out.
Runner = Callable[[Sequence[str]], "tuple[int, str]"]


@dataclass(frozen=True)
class Entry:
    """One path and what shall be there. ``access`` is None for links and for what shall be absent."""

    path: str
    state: str
    access: _files.Access | None = None
    content: bytes | None = None
    source: str | None = None
    target: str | None = None
    validate: tuple[str, ...] = ()

    @property
    def thing(self) -> str:
        """How errors name it."""
        return f"{'path' if self.state == 'absent' else self.state} {self.path}"


@dataclass(frozen=True)
class Change:
    """What differs at one path: properties, and content as (before, after) when that differs."""

    entry: Entry
    properties: Differences
    content: tuple[str, str] | None
    found: os.stat_result | None

    @property
    def changed(self) -> bool:
        """Whether anything differs."""
        return self.properties.changed or self.content is not None

    def diff(self) -> list[dict[str, Any]]:
        """The parts of the module's ``diff``."""
        parts = []
        if self.properties.changed:
            parts.append(self.properties.diff(self.entry.path))
        if self.content is not None:
            before, after = self.content
            parts.append(
                {"before_header": self.entry.path, "after_header": self.entry.path, "before": before, "after": after}
            )
        return parts


def entries_from(raw: Sequence[Mapping[str, Any]], *, check_mode: bool) -> list[Entry]:
    """Checks the entries of a task.

    Raises:
        SovereignError: a path that is relative or named twice, an option that is missing or makes no sense, or an owner
            that does not exist (accepted in check mode).
    """
    entries: list[Entry] = []
    seen: set[str] = set()
    for item in raw:
        path = _files.absolute(item["path"], "entries[].path")
        if path in seen:
            raise SovereignError(f"entry {path}", "the path is named twice", "Say once what shall be there.")
        seen.add(path)
        entries.append(_entry_from(item, path, check_mode=check_mode))
    return entries


def _entry_from(item: Mapping[str, Any], path: str, *, check_mode: bool) -> Entry:
    state = item["state"]
    thing = f"{state} {path}"
    needed = {"file": {"mode"}, "directory": {"mode"}, "link": {"target"}, "absent": set()}[state]
    allowed = needed | {"file": {"content", "src", "validate"}}.get(state, set())
    for name in sorted(needed):
        if not item.get(name):
            raise SovereignError(thing, f"{name} is missing", f"Give {name}.")
    for name in ("content", "src", "target", "validate", "mode"):
        if item.get(name) not in (None, []) and name not in allowed:
            raise SovereignError(thing, f"{name} is given", f"Leave it out: it means nothing with state {state}.")
    if state == "link":
        return Entry(path, state, target=item["target"])
    if state == "absent":
        return Entry(path, state)
    access = _files.resolve_access(
        thing, item["mode"], item["owner"], item["group"], check_mode=check_mode, public=True
    )
    if state == "directory":
        return Entry(path, state, access)
    content, source = item.get("content"), item.get("src")
    if (content is None) == (source is None):
        raise SovereignError(thing, "it needs content or src, and not both", "Give one of them.")
    validate = tuple(item.get("validate") or ())
    if validate and not any("%s" in word for word in validate):
        raise SovereignError(thing, "validate names no file", 'Put "%s" where the path of the new file belongs.')
    return Entry(
        path,
        state,
        access,
        None if content is None else content.encode("utf-8"),
        None if source is None else _files.absolute(source, "entries[].src"),
        validate=validate,
    )


def _look(path: str, thing: str) -> os.stat_result | None:
    """What is at ``path`` itself; a link is not followed."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SovereignError(thing, f"it cannot be looked at ({error.strerror})", "Look at the path.") from None


def _kind(status: os.stat_result) -> str:
    for kind, test in (("link", stat.S_ISLNK), ("directory", stat.S_ISDIR), ("file", stat.S_ISREG)):
        if test(status.st_mode):
            return kind
    return "special file"


def _blocks(path: str, thing: str, what: str) -> Iterator[bytes]:
    """The content of the file at ``path``, a link in the last place refused.

    The file is opened before the first block is asked for. Errors say ``what`` of which ``thing`` cannot be read.

    Raises:
        SovereignError: it cannot be opened; from the iterator: it cannot be read.
    """

    def unreadable(error: OSError) -> SovereignError:
        return SovereignError(thing, f"{what} cannot be read ({error.strerror})", "Look at it.")

    def rest(stream: BinaryIO) -> Iterator[bytes]:
        with stream:
            try:
                while block := stream.read(_BLOCK):
                    yield block
            except OSError as error:
                raise unreadable(error) from None

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        return rest(os.fdopen(descriptor, "rb"))
    except OSError as error:
        raise unreadable(error) from None


def _source_blocks(entry: Entry) -> Iterator[bytes]:
    """The wanted content of a file, read once more at each call."""
    if entry.content is not None:
        return iter((entry.content,))
    return _blocks(os.path.realpath(entry.source or ""), entry.thing, f"src {entry.source}")


def _present_blocks(entry: Entry) -> Iterator[bytes]:
    """The content that is there now."""
    return _blocks(entry.path, entry.thing, "what is there")


def _source_size(entry: Entry, *, check_mode: bool) -> int | None:
    """Size in bytes of the wanted content; None when ``src`` is not there yet (check mode)."""
    if entry.content is not None:
        return len(entry.content)
    try:
        status = os.stat(entry.source or "")
    except FileNotFoundError:
        if check_mode:
            return None
        raise SovereignError(entry.thing, f"src {entry.source} does not exist", "Make that file first.") from None
    if not stat.S_ISREG(status.st_mode):
        raise SovereignError(entry.thing, f"src {entry.source} is not a regular file", "Name a file.")
    return status.st_size


def _same_content(entry: Entry, size: int | None, found: os.stat_result) -> bool:
    if size != found.st_size:
        return False
    if entry.content is not None:
        return b"".join(_present_blocks(entry)) == entry.content
    return _digest(_present_blocks(entry)) == _digest(_source_blocks(entry))


def _digest(blocks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def _shown(blocks: Iterator[bytes], size: int) -> str:
    """Text for a diff: the content when it is text and not long, else its size and hash."""
    if size <= _SHOWN_BYTES:
        content = b"".join(blocks)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" not in text:
            return text
        blocks = iter((content,))
    return f"{size} bytes, sha256 {_digest(blocks)}\n"


def compare(entry: Entry, *, check_mode: bool, gone: Container[str] = ()) -> Change:
    """Compares what is at the path with what is wanted.

    ``gone``: paths that a dry run has already said it would take away.

    Raises:
        SovereignError: something of another kind is in the way, or it cannot be read.
    """
    found = _look(entry.path, entry.thing)
    properties = Differences()
    kind = "absent" if found is None else _kind(found)
    properties.compare("state", kind, entry.state)
    if found is not None and kind != entry.state and entry.state != "absent":
        remedy = "Remove the link, or give the path that it leads to." if kind == "link" else "Move it away."
        raise SovereignError(entry.thing, f"a {kind} is in its place", remedy)
    if entry.state == "absent":
        if kind == "directory" and any(os.path.join(entry.path, name) not in gone for name in os.listdir(entry.path)):
            raise SovereignError(entry.thing, "it is a folder with something in it", "Empty it first.")
        return Change(entry, properties, None, found)
    if entry.state == "link":
        properties.compare("target", None if found is None else os.readlink(entry.path), entry.target)
        return Change(entry, properties, None, found)
    if found is not None and entry.access is not None:
        _files.compare_numbers(properties, "", stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, entry.access)
    if entry.state == "directory":
        return Change(entry, properties, None, found)
    size = _source_size(entry, check_mode=check_mode)
    if found is not None and _same_content(entry, size, found):
        return Change(entry, properties, None, found)
    before = "" if found is None else _shown(_present_blocks(entry), found.st_size)
    after = f"as {entry.source}\n" if size is None else _shown(_source_blocks(entry), size)
    return Change(entry, properties, (before, after), found)


def _set_access(path: str, found: os.stat_result, access: _files.Access) -> None:
    """Sets mode and owner. On the way the mode is never wider than both the old and the new one."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if (found.st_uid, found.st_gid) != (access.uid, access.gid):
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & access.mode)
            os.fchown(descriptor, -1 if access.uid is None else access.uid, -1 if access.gid is None else access.gid)
        os.fchmod(descriptor, access.mode)
    finally:
        os.close(descriptor)


def _make_folder(entry: Entry, access: _files.Access) -> None:
    """Makes the folder, and those above it that are missing, with the same mode and owner."""
    missing = [entry.path]
    while not os.path.lexists(os.path.dirname(missing[-1])):
        missing.append(os.path.dirname(missing[-1]))
    for path in reversed(missing):
        os.mkdir(path, 0o700)
        _set_access(path, os.lstat(path), access)
        _files.sync_folder(os.path.dirname(path))


def _make_link(entry: Entry) -> None:
    temporary = _files.temporary_beside(entry.path)
    os.symlink(entry.target or "", temporary)
    try:
        os.rename(temporary, entry.path)
    except OSError:
        os.unlink(temporary)
        raise
    _files.sync_folder(os.path.dirname(entry.path))


def _validator(entry: Entry, run: Runner) -> Callable[[str], None] | None:
    if not entry.validate:
        return None

    def check(temporary: str) -> None:
        command = [word.replace("%s", temporary) for word in entry.validate]
        status, said = run(command)
        if status != 0:
            told = said.replace(temporary, entry.path).strip() or "it said nothing"
            raise SovereignError(
                entry.thing,
                f"{os.path.basename(command[0])} refuses the new content (exit status {status}): {told}",
                "The file was left as it is. Correct the settings that it is made from.",
            )

    return check


def apply(change: Change, run: Runner) -> None:
    """Makes it so. Does nothing when nothing differs.

    Raises:
        SovereignError: the folder is missing, the validation fails, or the system refuses.
    """
    entry, access = change.entry, change.entry.access
    if not change.changed:
        return
    try:
        if entry.state == "absent":
            if change.found is not None and stat.S_ISDIR(change.found.st_mode):
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)
            _files.sync_folder(os.path.dirname(entry.path))
        elif entry.state == "link":
            _make_link(entry)
        elif access is not None and entry.state == "directory" and change.found is None:
            _make_folder(entry, access)
        elif access is not None and change.content is not None:
            _files.write_whole(entry.path, _source_blocks(entry), access, entry.thing, check=_validator(entry, run))
        elif access is not None and change.found is not None:
            _set_access(entry.path, change.found, access)
    except OSError as error:
        raise SovereignError(
            entry.thing, f"it cannot be changed ({error.strerror})", "Look at the path and its folder."
        ) from None


def ensure(entries: Sequence[Entry], run: Runner, *, check_mode: bool) -> dict[str, Any]:
    """Brings every entry, in order, to what is wanted, and returns the module's result.

    Each entry is compared just before its turn, so that one may rely on those before it (a folder, a program that
    validates). What is wrong with an entry ends the work there; what was done before stays and is right.
    """
    diff: list[dict[str, Any]] = []
    changed_paths: list[str] = []
    gone: set[str] = set()
    for entry in entries:
        change = compare(entry, check_mode=check_mode, gone=gone)
        if check_mode and entry.state == "absent":
            gone.add(entry.path)
        if not change.changed:
            continue
        if not check_mode:
            apply(change, run)
        diff += change.diff()
        changed_paths.append(entry.path)
    return {"changed": bool(changed_paths), "diff": diff, "changed_paths": changed_paths}
