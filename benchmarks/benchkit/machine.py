# SPDX-License-Identifier: MIT
"""What machine this is, as it stands in every row of a result."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path


def facts(root: Path, versions: Mapping[str, str]) -> dict[str, str]:
    """Cores, memory, CPU, kernel, versions (name → version), the commit of the checkout, and now (UTC)."""
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "memory_gib": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f}",
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        "kernel": kernel(platform.release()),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "commit": commit(root),
        "measured_at": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    }


def cpu_model(cpuinfo: str) -> str:
    """The CPU's name; with family, model and stepping where the name alone says little."""
    found = dict(re.findall(r"^(model name|cpu family|model|stepping)\s*:\s*(.*)$", cpuinfo, re.MULTILINE))
    name = re.sub(r"\((?:R|TM)\)", "", found.get("model name", platform.machine())).strip()
    if re.search(r"\d", name) or "model" not in found:
        return name
    return f"{name} (family {found['cpu family']} model {found['model']} stepping {found['stepping']})"


def kernel(release: str) -> str:
    """The version alone: what a builder appends to it says more about him than about the kernel."""
    found = re.match(r"\d+(?:\.\d+)*", release)
    return found[0] if found else release


def commit(root: Path) -> str:
    """The short commit, with ``+`` when files under version control differ from it; ``unknown`` outside a checkout."""
    try:
        found = _git(root, "rev-parse", "--short=9", "HEAD")
        # Results and plots are what a run itself writes.
        own = (":!benchmarks/results", ":!docs/benchmarks", ":!docs/benchmarks.md")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *own)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{found}+" if changed else found


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()
