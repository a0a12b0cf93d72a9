# SPDX-License-Identifier: MIT
"""Environments beside the controller's own: the tools that judge the source, each set from its lock."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from .paths import ROOT, STATE
from .say import Run

UV = STATE / "uv/bin/uv"


def make(run: Run, name: str) -> Path:
    """Install ``requirements/<name>.txt`` into ``.lab/<name>``, unless it stands there; returns the folder."""
    lock, target = ROOT / "requirements" / f"{name}.txt", STATE / name
    mark = target / ".locked"
    want = f"{sys.version} {hashlib.sha256(lock.read_bytes()).hexdigest()} compiled"
    if mark.is_file() and mark.read_text() == want:
        return target
    run.note(f"installing {lock.relative_to(ROOT)} into {target.relative_to(ROOT)}")
    shutil.rmtree(target, ignore_errors=True)  # there may be none yet
    python = target / "bin/python"
    run.command([UV, "venv", "--python", sys.executable, target], why=f"Making the environment {name}")
    # Compiled once: the tools write no bytecode of their own, and would compile all that they import at every start.
    run.command(
        [UV, "pip", "sync", "--compile-bytecode", "--python", python, "--require-hashes", lock],
        why=f"Installing {lock.name}",
    )
    mark.write_text(want)
    return target
