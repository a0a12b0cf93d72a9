# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""Manifests of models: which files, from where, under which licence, of which size and hash. Pure.

A manifest is a promise about somebody else's files. What it does not say is asked of the operator, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._+=@,()-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SOURCE = re.compile(r"(https?|file)://\S+")
#: A branch or tag of a repository on a hub of models: what it leads to changes.
_MOVES = re.compile(r"/resolve/(?![0-9a-f]{40}(/|$))([^/]+)")
HOW = (
    "On a Hugging Face repository both stand in https://huggingface.co/api/models/<owner>/<name>/tree/<commit>"
    "?recursive=true (size, and lfs.oid for the hash of large files); of a file that you have, `stat -c %s FILE` and "
    "`sha256sum FILE` print them"
)
_KEYS = {"name", "source", "licence", "licence_url", "files"}
_FILE_KEYS = {"path", "url", "sha256", "size_bytes"}


@dataclass
class Manifest:
    """What is wrong, one sentence each, and the files as role bring takes them; ``bytes`` is their sum."""

    problems: list[str] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """All of them together."""
        return sum(int(entry["size_bytes"]) for entry in self.files)


def _path_is_good(path: str) -> bool:
    """Whether a path stays below its folder and is no part of a transfer."""
    parts = path.split("/")
    return all(_PART.fullmatch(part) and part != ".." for part in parts) and not re.search(r"\.part(\.json)?$", path)


def _file(model: str, source: str, raw: Any, found: Manifest) -> dict[str, Any] | None:
    """A file of a manifest, checked; None when it cannot be used."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("path"), str):
        found.problems.append(f"model {model}: a file is no dictionary with a path: {raw!r}.")
        return None
    path = raw["path"]
    thing = f"model {model}, file {path}"
    if unknown := sorted(set(map(str, raw)) - _FILE_KEYS):
        found.problems.append(f"{thing}: it has {', '.join(unknown)}; known are {', '.join(sorted(_FILE_KEYS))}.")
    if not _path_is_good(path):
        found.problems.append(f"{thing}: the path must be relative, without `..` and odd characters.")
    url = str(raw.get("url") or (f"{source.rstrip('/')}/{path}" if source else ""))
    if not _SOURCE.fullmatch(url):
        found.problems.append(
            f"{thing}: its address {url!r} is no https:// or file:// address. Give the model a source, or the file a "
            "url."
        )
    elif moves := _MOVES.search(url):
        found.problems.append(
            f"{thing}: {moves.group(2)} is a branch or a tag, and what it leads to changes. Write the commit (40 hex "
            "digits)."
        )
    size, sha256 = raw.get("size_bytes"), str(raw.get("sha256") or "").lower()
    sized = isinstance(size, int) and not isinstance(size, bool) and size > 0
    if not sized or not _SHA256.fullmatch(sha256):
        what = " and ".join(
            name for name, bad in (("size_bytes", not sized), ("sha256", not _SHA256.fullmatch(sha256))) if bad
        )
        found.problems.append(f"{thing}: {what} is missing or malformed. {HOW}.")
        return None
    return {"path": path, "url": url, "sha256": sha256, "size_bytes": size}


def read(raw: Any, root: str, accepted: Sequence[str], variable: str) -> Manifest:
    """All files of a list of manifests, below ``root``/<model>.

    Args:
        raw: the manifests, as the operator wrote them.
        accepted: licences that the operator has read and accepts, by their names in the manifests.
        variable: the setting that lists them, for the message.
    """
    found = Manifest()
    names: set[str] = set()
    for model in raw if isinstance(raw, Sequence) and not isinstance(raw, (str, bytes)) else [raw]:
        if not isinstance(model, Mapping) or not _NAME.fullmatch(str(model.get("name") or "")):
            found.problems.append(f"a model has no name like nemotron-nvfp4: {model!r:.120}.")
            continue
        name = str(model["name"])
        if name in names:
            found.problems.append(f"model {name}: it is named twice.")
        names.add(name)
        if unknown := sorted(set(map(str, model)) - _KEYS):
            found.problems.append(f"model {name}: it has {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}.")
        licence, where = str(model.get("licence") or ""), str(model.get("licence_url") or "")
        if not licence:
            found.problems.append(f"model {name}: it says no licence. Write the one that its publisher gives it.")
        elif licence not in accepted:
            found.problems.append(
                f"model {name}: its licence {licence!r} is not accepted. Read it"
                f"{f' at {where}' if where else ''}; if you accept it, add it to {variable}."
            )
        files = model.get("files")
        if not isinstance(files, Sequence) or isinstance(files, (str, bytes)) or not files:
            found.problems.append(f"model {name}: it has no files. Each needs path, size_bytes and sha256. {HOW}.")
            continue
        paths: set[str] = set()
        for entry in files:
            made = _file(name, str(model.get("source") or ""), entry, found)
            if made is None:
                continue
            if made["path"] in paths:
                found.problems.append(f"model {name}, file {made['path']}: it is named twice.")
            paths.add(made["path"])
            told = f"{made['path']} of {name}"
            found.files.append({**made, "path": f"{root.rstrip('/')}/{name}/{made['path']}", "name": told})
    return found
