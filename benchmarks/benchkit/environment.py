# SPDX-License-Identifier: MIT
"""The benchmarks' own Python environments, each made from one lock, and only when it is needed."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from labkit.paths import ROOT, STATE
from labkit.say import Failed, Run

UV = STATE / "uv/bin/uv"
#: A package of a lock, with its marker and hashes: it begins at the margin and goes on indented.
ENTRY = re.compile(r"^([A-Za-z0-9_.-]+)==.*\n(?:[ \t]+.*\n)*", re.MULTILINE)


def entries(lock: str, names: Sequence[str], others: bool = False) -> str:
    """The part of a lock that is about these packages, or about all others."""
    return "".join(found[0] for found in ENTRY.finditer(lock) if (found[1] in names) is not others)


def plots(run: Run) -> Path:
    """The Python that has matplotlib."""
    return _make(run, "plots", ROOT / "requirements/benchmark.txt", ())


def engine(run: Run) -> Path:
    """The Python that has llama_cpp.server, built for this machine: about 6 minutes on 2 cores, once."""
    for tool in ("g++", "cc"):
        if not shutil.which(tool):
            raise Failed(f"{tool} is missing, and cpu_floor compiles. Install it: apt-get install g++")
    return _make(run, "engine", ROOT / "requirements/benchmark-engine.txt", ("llama-cpp-python",))


def _make(run: Run, name: str, lock: Path, built: Sequence[str]) -> Path:
    """An environment in .lab/bench; ``built``: packages compiled here, with the build tools of the same lock."""
    home = STATE / "bench" / f"venv-{name}"
    python, mark = home / "bin/python", home / ".locked"
    text = lock.read_text(encoding="utf-8")
    want = hashlib.sha256(text.encode()).hexdigest()
    if mark.is_file() and mark.read_text(encoding="utf-8") == want:
        return python
    run.note(f"installing the locked packages of {lock.name} into .lab/bench/venv-{name}")
    home.parent.mkdir(parents=True, exist_ok=True)
    run.command([UV, "venv", "--clear", "--python", STATE / "venv/bin/python", home], why="Making an environment")
    install: list[str | Path] = [UV, "pip", "install", "--python", python, "--no-deps", "--require-hashes"]
    ready, source = home / "ready.txt", home / "source.txt"
    ready.write_text(entries(text, built, others=True), encoding="utf-8")
    run.command([*install, "--requirement", ready], why="Installing the benchmarks' packages")
    if built:
        run.note(f"compiling {', '.join(built)} for this machine: about 6 minutes on 2 cores, once")
        source.write_text(entries(text, built), encoding="utf-8")
        run.command(
            [*install, "--no-build-isolation", "--no-binary", ",".join(built), "--verbose", "--requirement", source],
            why="Compiling",
            # The same settings as the role's build of llama-server, as far as they say how fast it computes.
            env={
                "PATH": f"{home / 'bin'}:/usr/local/bin:/usr/bin:/bin",
                "CMAKE_ARGS": "-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_OPENMP=ON -DGGML_CCACHE=OFF",
                "FORCE_CMAKE": "1",
            },
            progress=re.compile(r"(?P<what>\[\d+/\d+\])"),
        )
    mark.write_text(want, encoding="utf-8")
    return python
