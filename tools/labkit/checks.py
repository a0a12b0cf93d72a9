# SPDX-License-Identifier: MIT
"""The static checks: what judges the source without running it. One line each, its output only when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from . import collections, environments, galaxy, sanity, source
from .paths import CACHE, COLLECTIONS, ROOT, STATE, VENV
from .say import Run, clock

#: How many run at a time. The longest two use one core each.
PARALLEL = 2
#: Of a failed check's output.
SHOWN_LINES = 60
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: What a check's end means: nothing when it passed, otherwise what to show. Gets the exit status and the output.
Judge = Callable[[int, str], str]


def by_status(status: int, output: str) -> str:
    """The usual judge: 0 is a pass."""
    return "" if status == 0 else output or f"ended with status {status}, without a word"


@dataclass(frozen=True)
class Check:
    """A command and how to read its end. ``slow``: a pass on the very same files is remembered."""

    name: str
    argv: Sequence[str | Path]
    cwd: Path = ROOT
    env: Mapping[str, str] = field(default_factory=dict)
    judge: Judge = by_status
    slow: bool = False


@dataclass(frozen=True)
class Result:
    """How a check ended: ``fault`` is empty when it passed; ``remembered`` when it was not run again."""

    check: Check
    fault: str
    seconds: float
    remembered: bool = False


def environment(tools: Path) -> dict[str, str]:
    """What every check runs with; nothing of the user's own settings of Ansible."""
    return {
        "PATH": f"{tools / 'bin'}:{SYSTEM_PATH}",
        "ANSIBLE_HOME": str(STATE / "ansible"),
        "ANSIBLE_COLLECTIONS_PATH": f"{source.SOURCE}:{COLLECTIONS}",
        "ANSIBLE_LOCAL_TEMP": str(STATE / "ansible/tmp"),
        "ANSIBLE_CONFIG": str(galaxy.no_settings()),
        "MUSHISHI_COPY": str(source.SOURCE / source.NAME),
        "PYTHONPATH": str(ROOT / "tools"),
        "NO_COLOR": "1",
        "LC_ALL": "C.UTF-8",
    }


def typed(tools: Path, tree: source.Copy) -> list[Check]:
    """mypy, strict, over everything that carries a promise: the collection, the services, the tools."""
    parts = {
        "plugins": (source.SOURCE, ["-p", "ansible_collections.mushishi.sovereign.plugins"]),
        "admission": (tree.path / "roles/admission/files", ["-p", "admission"]),
        "gateway": (tree.path / "roles/gateway/files/mushishi_gateway", ["."]),
        "prober": (tree.path / "roles/gateway/files", ["-p", "prober"]),
        "sovereignctl": (tree.path / "roles/sovereignctl/files", ["-p", "sovereignctl"]),
        "guard": (tree.path / "roles/guard/files", ["."]),
        "tailscale": (tree.path / "roles/tailscale/files", ["."]),
        "labkit": (tree.path / "tools", ["-p", "labkit"]),
        "standins": (tree.path / "molecule", ["-p", "standins"]),
        "benchkit": (tree.path / "benchmarks", ["-p", "benchkit"]),
    }
    config = ("--config-file", str(tree.path / "mypy.ini"))
    #: What a part imports beyond its own folder.
    beside = {"benchkit": str(tree.path / "tools"), "sovereignctl": str(source.SOURCE)}
    return [
        Check(
            f"mypy --strict: {name}",
            [tools / "bin/mypy", *config, "--cache-dir", str(CACHE / f"mypy-{name}"), *what],
            cwd=folder,
            env={"MYPYPATH": beside[name]} if name in beside else {},
        )
        for name, (folder, what) in parts.items()
    ]


def all_checks(run: Run) -> tuple[list[Check], source.Copy]:
    """Every static check, and the copy they look at. Makes the environments they need.

    The longest begins first, and beside it the cheap ones: a typo is found in the first minute.
    """
    tools, importer = environments.make(run, "checks"), environments.make(run, "importer")
    collections.install(run)
    tree = source.copy()
    here = tree.path
    shell = source.shell_files(tree)
    longest = Check(
        "ansible-test sanity, no ignores", [sys.executable, "-m", "labkit.sanity"], judge=sanity.judge, slow=True
    )
    quick = [
        Check("ruff", [tools / "bin/ruff", "check", "--no-cache", "--output-format", "concise", "."], cwd=here),
        Check("yamllint", [tools / "bin/yamllint", "--strict", "--format", "parsable", "."], cwd=here),
        # SC1091: what is sourced lies on another machine. Where it lies here, a directive in the file names it.
        Check(
            f"shellcheck ({len(shell)} files)",
            [tools / "bin/shellcheck", "--external-sources", "--exclude=SC1091", *shell],
            cwd=here,
        ),
        Check("docs/reference is what tools/docs writes", [VENV / "bin/python", here / "tools/docs", "--check"]),
        Check("antsibull-changelog lint", [tools / "bin/antsibull-changelog", "lint"], cwd=here),
        *typed(tools, tree),
    ]
    long = [
        Check(
            "ansible-lint, profile production",
            [tools / "bin/ansible-lint", "--offline", "--strict", "--format", "pep8", "--nocolor"],
            cwd=here,
            slow=True,
        ),
        Check(
            "ansible-doc knows every plugin and role",
            [sys.executable, "-m", "labkit.galaxy", "documented"],
        ),
        Check(
            "antsibull-docs lint",
            [tools / "bin/antsibull-docs", "lint-collection-docs", here, "--plugin-docs"],
            judge=galaxy.judge_docs,
            slow=True,
        ),
        Check(
            "galaxy-importer on the built archive",
            [importer / "bin/python", "-m", "galaxy_importer.main", galaxy.archive(tree)],
            cwd=galaxy.WORKSHOP,
            env={
                "PATH": f"{importer / 'bin'}:{SYSTEM_PATH}",
                "GALAXY_IMPORTER_CONFIG": str(ROOT / "tools/labkit/galaxy-importer.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            },
            judge=galaxy.judge_import,
            slow=True,
        ),
        Check("ansible-test sanity: planted faults", [sys.executable, "-m", "labkit.sanity", "planted"], slow=True),
    ]
    return [longest, *quick, *long], tree


def one(check: Check, env: Mapping[str, str], digest: str) -> Result:
    """Run one check, unless it is slow and passed on the very same files."""
    mark = CACHE / "passed" / "".join(letter if letter.isalnum() else "-" for letter in check.name)
    want = f"{digest} {sys.version}"
    if check.slow and mark.is_file() and mark.read_text() == want:
        return Result(check, "", 0.0, remembered=True)
    mark.unlink(missing_ok=True)
    began = time.monotonic()
    done = subprocess.run(
        [str(word) for word in check.argv],
        cwd=check.cwd,
        env={**os.environ, **env, **check.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    fault = check.judge(done.returncode, done.stdout)
    if not fault and check.slow:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(want)
    return Result(check, fault, time.monotonic() - began)


def run_all(run: Run) -> tuple[int, int]:
    """Run every static check; returns how many passed and failed."""
    with run.phase("Static checks: tools and a clean copy of the source"):
        checks, tree = all_checks(run)
        galaxy.build(run, tree)
    failed = 0
    with run.phase(f"Static checks ({len(checks)}, {PARALLEL} at a time)"):
        env = environment(STATE / "checks")
        with ThreadPoolExecutor(PARALLEL) as pool:
            futures = [pool.submit(one, check, env, tree.digest) for check in checks]
            for future in as_completed(futures):
                result = future.result()
                failed += bool(result.fault)
                run.note(say(result))
    return len(checks) - failed, failed


def say(result: Result) -> str:
    """One line for a pass; the end of the output, too, for a failure."""
    took = "passed before on the same files" if result.remembered else clock(result.seconds)
    if not result.fault:
        return f"ok      {result.check.name} ({took})"
    lines = result.fault.rstrip().splitlines()
    left_out = [f"… {len(lines) - SHOWN_LINES} lines before"] if len(lines) > SHOWN_LINES else []
    return "\n".join([f"FAILED  {result.check.name} ({took})", *left_out, *lines[-SHOWN_LINES:]])
