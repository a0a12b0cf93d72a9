# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""Small files, most of them secret: look at them, write them whole or not at all, and keep mode and owner right."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import re
import secrets
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ansible_collections.mushishi.sovereign.plugins.module_utils._diff import Differences
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

# A secret, a key or an index of keys is far smaller; more than this is not a file of ours.
MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Access:
    """Mode and ownership that a file shall have. ``uid`` or ``gid`` is None when the name does not exist (yet)."""

    mode: int
    owner: str
    group: str
    uid: int | None
    gid: int | None


@dataclass(frozen=True)
class Found:
    """A regular file as it is on disk."""

    content: bytes
    mode: int
    uid: int
    gid: int


def parse_mode(text: str, thing: str) -> int:
    """Turns ``"0600"`` into 0o600.

    Raises:
        SovereignError: not octal, or a mode that lets others read, or the group write, a secret.
    """
    try:
        mode = int(text, 8)
    except ValueError:
        raise SovereignError(thing, f"mode {text!r} is not an octal number", 'Write it as in "0600".') from None
    if mode & ~0o777 or mode & 0o137:
        raise SovereignError(
            thing,
            f"mode {text!r} gives away a secret",
            'Use "0600", "0400", "0640" or "0440": nothing for others, no writing by the group, not executable.',
        )
    return mode


def parse_public_mode(text: str, thing: str) -> int:
    """Turns ``"0644"`` into 0o644, for files and folders that hold no secret.

    Raises:
        SovereignError: not octal, or a mode that lets everybody write what is not a folder with a sticky bit.
    """
    try:
        mode = int(text, 8)
    except ValueError:
        raise SovereignError(thing, f"mode {text!r} is not an octal number", 'Write it as in "0644".') from None
    if mode & ~0o7777 or (mode & 0o002 and not mode & 0o1000):
        raise SovereignError(thing, f"mode {text!r} lets everybody write", 'Use one like "0644", "0755" or "0600".')
    return mode


def _uid_of(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return int(name) if name.isdigit() else None


def _gid_of(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return int(name) if name.isdigit() else None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def resolve_access(thing: str, mode: str, owner: str, group: str, *, check_mode: bool, public: bool = False) -> Access:
    """Looks up owner and group. ``public``: it holds no secret, others may read it.

    Raises:
        SovereignError: the mode is unfit (for a secret), or user or group does not exist. In check mode a missing
            name is accepted: an earlier task that check mode left out may create it.
    """
    bits = parse_public_mode(mode, thing) if public else parse_mode(mode, thing)
    access = Access(bits, owner, group, _uid_of(owner), _gid_of(group))
    if not check_mode:
        for kind, name, number in (("user", owner, access.uid), ("group", group, access.gid)):
            if number is None:
                raise SovereignError(thing, f"{kind} {name!r} does not exist", f"Create the {kind} first.")
    return access


def look(path: str, thing: str) -> Found | None:
    """Reads the file at ``path``; None when there is none, nor its folder.

    Symbolic links are not followed: a secret has one place.

    Raises:
        SovereignError: something else than a regular file is there, it is too large, or it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SovereignError(thing, "it is a symbolic link", "Remove the link, then run again.") from None
        raise SovereignError(
            thing, f"it cannot be read ({error.strerror})", "Run as root and look at the path."
        ) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise SovereignError(thing, "it is not a regular file", "Move away what is there, then run again.")
    with os.fdopen(descriptor, "rb") as stream:
        if status.st_size > MAX_BYTES:
            raise SovereignError(
                thing,
                f"it holds {status.st_size} bytes, more than any secret",
                "Look at what it is, move it away, then run again.",
            )
        return Found(stream.read(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def compare_access(differences: Differences, label: str, found: Found | None, access: Access) -> None:
    """Notes differences of mode, owner and group under names that begin with ``label``."""
    if found is not None:
        compare_numbers(differences, label, found.mode, found.uid, found.gid, access)


def compare_numbers(differences: Differences, label: str, mode: int, uid: int, gid: int, access: Access) -> None:
    """Notes differences of ``mode`` (permission bits), ``uid`` and ``gid`` as they are on disk."""
    differences.compare(f"{label}mode", f"{mode:04o}", f"{access.mode:04o}")
    if uid != access.uid:
        differences.compare(f"{label}owner", _user_name(uid), access.owner)
    if gid != access.gid:
        differences.compare(f"{label}group", _group_name(gid), access.group)


def fix_access(path: str, access: Access) -> None:
    """Sets mode and owner of the regular file at ``path`` without following a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _apply(descriptor, access)
    finally:
        os.close(descriptor)


def _apply(descriptor: int, access: Access) -> None:
    # Narrow the mode first, so that a new owner never sees it wider than wanted; chown may clear bits, so set it last.
    os.fchmod(descriptor, access.mode & 0o600)
    os.fchown(
        descriptor,
        -1 if access.uid is None else access.uid,
        -1 if access.gid is None else access.gid,
    )
    os.fchmod(descriptor, access.mode)


def temporary_beside(path: str) -> str:
    """A new name in the folder of ``path``. Files with such a name that a killed run left behind are removed."""
    folder, name = os.path.split(path)
    left = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}")
    try:
        for other in os.listdir(folder):
            if left.fullmatch(other):
                os.unlink(os.path.join(folder, other))
    except FileNotFoundError:
        pass  # no folder, or another process was faster: the caller sees what that means
    return os.path.join(folder, f".{name}.{secrets.token_hex(8)}")


def write_whole(
    path: str,
    content: bytes | Iterable[bytes],
    access: Access,
    thing: str,
    *,
    only_new: bool = False,
    check: Callable[[str], None] | None = None,
) -> None:
    """Writes ``content`` to ``path`` so that a reader, or a power cut, sees the old file or the new one, never a part.

    Args:
        path: destination; its folder must exist.
        content: the bytes of the file, whole or in blocks.
        access: mode and owner, set before the file gets its name.
        thing: how errors name the file.
        only_new: refuse to replace a file that appeared meanwhile.
        check: called with the path of the finished file before it gets its name; what it raises leaves the old file.

    Raises:
        SovereignError: the folder is missing, or (with ``only_new``) somebody else created the file.
    """
    folder = os.path.dirname(path)
    temporary = temporary_beside(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise SovereignError(thing, f"folder {folder} does not exist", "Create the folder first.") from None
    except OSError as error:
        raise SovereignError(
            thing, f"folder {folder} cannot be written ({error.strerror})", "Run as root and look at the folder."
        ) from None
    try:
        with os.fdopen(descriptor, "wb") as stream:
            for block in (content,) if isinstance(content, bytes) else content:
                stream.write(block)
            stream.flush()
            _apply(stream.fileno(), access)
            os.fsync(stream.fileno())
        if check is not None:
            check(temporary)
        if only_new:
            os.link(temporary, path)
        else:
            os.rename(temporary, path)
    except FileExistsError:
        raise SovereignError(
            thing, "another process created it at the same time", "Run again: the other file is then kept."
        ) from None
    finally:
        # Still there after link(), and after every error.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    sync_folder(folder)


def remove(path: str) -> None:
    """Removes the file at ``path`` and makes that last."""
    os.unlink(path)
    sync_folder(os.path.dirname(path))


def sync_folder(folder: str) -> None:
    """Makes what was created, renamed or removed in ``folder`` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def absolute(path: str, option: str) -> str:
    """Returns ``path`` when it is absolute and plain.

    Raises:
        SovereignError: a relative path, or one with ``..`` or ``//`` in it.
    """
    if not os.path.isabs(path) or os.path.normpath(path) != path:
        raise SovereignError(f"option {option}", f"{path!r} is not a plain absolute path", "Give the full path.")
    return path
