# SPDX-License-Identifier: MIT
"""The collections that Ansible finds: this checkout, and those it depends on, also where Galaxy cannot be reached."""

from __future__ import annotations

import sys
import zipfile

import yaml

from .paths import COLLECTIONS, ROOT, STATE
from .say import Run

#: community.docker's inventory plugins import it; it comes with the same bundle.
ALSO = "community.library_inventory_filtering_v1"


def wanted() -> list[str]:
    """Collections named in galaxy.yml, and what those need."""
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    return [*galaxy["dependencies"], ALSO]


def install(run: Run) -> None:
    """Link this checkout and unpack its dependencies from the pinned ``ansible`` bundle under ``.lab/collections``."""
    base = COLLECTIONS / "ansible_collections"
    own = base / "mushishi" / "sovereign"
    own.parent.mkdir(parents=True, exist_ok=True)
    if own.is_symlink() or own.exists():
        own.unlink()
    own.symlink_to(ROOT, target_is_directory=True)

    lock = ROOT / "requirements" / "collections.txt"
    mark = COLLECTIONS / "installed"
    want = f"{sys.version_info[:2]} {sorted(wanted())} {lock.read_text()}"
    if mark.is_file() and mark.read_text() == want:
        return
    mark.unlink(missing_ok=True)
    download = STATE / "download"
    run.note("fetching the Ansible collections this one depends on (one bundle, 50 MB)")
    run.command(
        [
            *(STATE / "uv/bin/pip", "download", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"),
            *("--require-hashes", "--dest", download, "--requirement", lock),
        ],
        why="Fetching the bundle of collections",
    )
    prefixes = tuple(f"ansible_collections/{name.replace('.', '/')}/" for name in wanted())
    for wheel in download.glob("ansible-*.whl"):
        with zipfile.ZipFile(wheel) as bundle:
            members = [name for name in bundle.namelist() if name.startswith(prefixes)]
            bundle.extractall(COLLECTIONS, members)
        wheel.unlink()
    mark.write_text(want)
