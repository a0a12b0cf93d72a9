# SPDX-License-Identifier: MIT
"""A clean copy of the checkout under its collection name: what the static checks look at and write into.

Ansible's tools want ``…/ansible_collections/mushishi/sovereign``, some of them leave folders behind, and a file that
stands in the checkout without belonging to it (a note, a log) must not be judged.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .paths import ROOT, STATE
from .say import Failed

#: Folders in which Ansible finds the collection: the copy of the checkout, and of what the archive for Galaxy holds.
SOURCE, SHIPPED = STATE / "source", STATE / "shipped"
NAME = Path("ansible_collections/mushishi/sovereign")


@dataclass(frozen=True)
class Copy:
    """A copy of the checkout: its folder, its files (relative to it), and one SHA-256 over all of them."""

    path: Path
    files: tuple[str, ...]
    digest: str


def copy(root: Path = ROOT, base: Path = SOURCE) -> Copy:
    """Make the copy the same as the checkout. Files that git ignores are left out; a file that is gone is removed."""
    target = base / NAME
    target.mkdir(parents=True, exist_ok=True)
    if not (target / ".git").is_dir():
        # Of its own, so that ansible-test does not take the checkout around it, which ignores all that lies here.
        _git(target, "init", "--quiet")
    listed = _git(target, f"--work-tree={root}", "ls-files", "-z", "--others", "--exclude-standard", cwd=root)
    files = tuple(sorted(name for name in listed.split("\0") if name and (root / name).is_file()))
    if not files:
        raise Failed(f"git lists no file in {root}; the checks would judge nothing.")
    empty_of_others(target, set(files))
    whole = hashlib.sha256()
    for name in files:
        data = (root / name).read_bytes()
        mode = (root / name).stat().st_mode & 0o111
        whole.update(f"{name}\0{bool(mode)}\0{hashlib.sha256(data).hexdigest()}\n".encode())
        there = target / name
        if not there.is_file() or there.read_bytes() != data or (there.stat().st_mode & 0o111) != mode:
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, there)
    return Copy(target, files, whole.hexdigest())


def empty_of_others(target: Path, wanted: set[str]) -> None:
    """Remove every file under a folder whose name relative to it is not wanted; its ``.git`` stays."""
    for folder, folders, names in os.walk(target):
        folders[:] = [name for name in folders if name != ".git"]
        for name in names:
            path = Path(folder, name)
            if str(path.relative_to(target)) not in wanted:
                path.unlink()


def _git(repository: Path, *words: str, cwd: Path | None = None) -> str:
    argv = ["git", f"--git-dir={repository / '.git'}", *words]
    done = subprocess.run(argv, cwd=cwd or repository, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"`{' '.join(argv)}` ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def shell_files(tree: Copy) -> list[str]:
    """Files of the copy that are shell programs: by their name, or by their first line."""
    found = []
    for name in tree.files:
        if name.endswith(".j2"):
            continue  # judged as they are rendered, by a unit test
        with (tree.path / name).open("rb") as stream:
            first = stream.readline(100)
        if name.endswith(".sh") or (first.startswith(b"#!") and b"sh" in first.split(b"/")[-1].split()[-1]):
            found.append(name)
    return found
