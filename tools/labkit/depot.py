# SPDX-License-Identifier: MIT
"""The depot: every package that the lab machine installs, fetched once by the host and served from a folder.

The lab's networks reach nothing outside, so that "no byte left" can be said of all of it. The roles install from this
folder through the settings that an air-gapped machine would use.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from .host import Host
from .image import BUILD, ROOTFS
from .paths import CACHE, DEPOT, ROOT, SCENARIO, STATE
from .say import Run

WORKSHOP = "workshop"
STANDINS = ROOT / "molecule" / "standins"

#: Folders that the GPU modes expect their weights in.
GPU_MODELS = ("nemotron-nvfp4", "qwen3-coder-30b-awq")


def role_packages(distribution: str) -> list[str]:
    """Distribution packages that the roles install: every ``__<role>_…packages`` variable, for one distribution."""
    found: set[str] = set()
    for path in sorted((ROOT / "roles").glob("*/vars/*.yml")):
        for name, value in (yaml.safe_load(path.read_text()) or {}).items():
            if name.endswith("_packages"):
                found.update(_names(value, distribution))
    return sorted(found)


def _names(value: Any, distribution: str) -> list[str]:
    if isinstance(value, dict):
        return _names(value.get(distribution.capitalize(), value.get(distribution, [])), distribution)
    return [str(name) for name in value]


def role_locks(sources: bool = False) -> list[Path]:
    """The roles' locks: files of pinned and hashed packages. ``sources``: those whose archive is wanted as source."""
    locks = [path for path in (ROOT / "roles").glob("*/files/*.txt") if "--hash=sha256:" in path.read_text()]
    return sorted(path for path in locks if path.name.startswith("source") is sources)


def fill(run: Run, host: Host, docker: dict[str, str]) -> None:
    """Bring the depot up to date; each part is made again only when what it is made from has changed."""
    DEPOT.mkdir(parents=True, exist_ok=True)
    for folder in (CACHE / "machine", DEPOT / "models"):
        folder.mkdir(parents=True, exist_ok=True)
    build = BUILD.read_text()
    _once("debs", [build, *role_packages(host.distribution)], lambda: _debs(run, host))
    _once("wheels", [build, *(path.read_text() for path in [*role_locks(), *role_locks(True)])], lambda: _wheels(run))
    _once("client", [build, (ROOT / "requirements/lab-client.txt").read_text()], lambda: _client(run))
    _certificates(run)
    _model(run)
    sources = [path.read_text() for path in sorted(STANDINS.glob("*.py"))]
    _once("engine", [build, (SCENARIO / "engine-image.txt").read_text(), *sources], lambda: _engine(run, docker))


def _once(part: str, made_from: list[str], make: Any) -> None:
    mark = DEPOT / f".{part}"
    want = hashlib.sha256("\0".join(made_from).encode()).hexdigest()
    if mark.is_file() and mark.read_text() == want:
        return
    mark.unlink(missing_ok=True)
    make()
    mark.write_text(want)


def _inside(run: Run, script: str, why: str, progress: str | None = None) -> None:
    """Run a shell script in the machine's root folder, with the host's network and package settings."""
    shop = ROOTFS / WORKSHOP
    shop.mkdir(exist_ok=True)
    resolv = ROOTFS / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    shutil.copy("/etc/resolv.conf", resolv)
    bundle = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
    shutil.copy(bundle, shop / "ca.pem")
    passed = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    passed |= {name: os.environ[name] for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL") if name in os.environ}
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
    env |= {"PIP_CERT": "/workshop/ca.pem", **passed}
    argv = ["env", "-i", *(f"{name}={value}" for name, value in env.items())]
    run.command(
        [*argv, "chroot", ROOTFS, "sh", "-eu", "-c", script],
        why=why,
        progress=re.compile(progress) if progress else None,
    )


def _debs(run: Run, host: Host) -> None:
    names = role_packages(host.distribution)
    run.note(f"fetching {len(names)} distribution packages and what they need")
    components = host.components.replace(",", " ")
    suites = (host.suite, f"{host.suite}-updates")
    sources = "".join(f"deb {host.mirror} {suite} {components}\n" for suite in suites)
    (ROOTFS / "etc/apt/sources.list").write_text(sources)
    _inside(
        run,
        "apt-get -q update; "
        "DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends --download-only "
        + " ".join(names),
        "Fetching distribution packages",
        r"^Get:\d+ \S+ \S+ \S+ (?P<what>\S+)",
    )
    target = DEPOT / "debs"
    shutil.rmtree(target, ignore_errors=True)  # there may be none yet
    target.mkdir()
    for package in (ROOTFS / "var/cache/apt/archives").glob("*.deb"):
        shutil.move(package, target / package.name)
    index = run.output(["sh", "-c", f"cd '{target}' && apt-ftparchive packages ."], why="Indexing the packages")
    (target / "Packages").write_text(index)


def _wheels(run: Run) -> None:
    locks, sources = role_locks(), role_locks(True)
    run.note("fetching the Python packages of the roles' locks")
    shop = ROOTFS / WORKSHOP
    shop.mkdir(exist_ok=True)
    script = "test -x /workshop/venv/bin/pip || python3 -m venv /workshop/venv\n"
    script += "rm -rf /workshop/wheels; mkdir /workshop/wheels\n"
    fetch = "/workshop/venv/bin/pip download --disable-pip-version-check --no-deps --require-hashes -d /workshop/wheels"
    for number, lock in enumerate([*locks, *sources]):
        shutil.copy(lock, shop / f"lock-{number}.txt")
        # A source archive's own build is asked for its metadata; only that one package is taken as source.
        names = ",".join(re.findall(r"^([A-Za-z0-9_.-]+)==", lock.read_text(), re.MULTILINE))
        kind = f"--no-binary={names}" if lock in sources else "--only-binary=:all:"
        script += f"{fetch} {kind} -r /workshop/lock-{number}.txt\n"
    _inside(run, script, "Fetching Python packages", r"^Collecting (?P<what>\S+)")
    target = DEPOT / "wheels"
    shutil.rmtree(target, ignore_errors=True)  # there may be none yet
    shutil.move(shop / "wheels", target)


def _client(run: Run) -> None:
    target = DEPOT / "client"
    shutil.rmtree(target, ignore_errors=True)  # there may be none yet
    version = (ROOTFS / "usr/bin/python3").readlink().name.removeprefix("python")
    run.command(
        [
            *(STATE / "uv/bin/uv", "pip", "install", "--target", target, "--python-version", version),
            *("--only-binary=:all:", "--require-hashes", "--requirement", ROOT / "requirements/lab-client.txt"),
        ],
        why="Fetching the tailnet client's packages",
    )


def _certificates(run: Run) -> None:
    run.command(
        [sys.executable, "-m", "standins.make_ca", DEPOT.parent / "ca"],
        why="Making the lab's certificate authority",
        env={"PYTHONPATH": str(STANDINS.parent)},
    )


def _model(run: Run) -> None:
    program = STANDINS / "make_tiny_gguf.py"
    run.command([sys.executable, program, DEPOT / "models/tiny.gguf"], why="Making the tiny model")
    for name in GPU_MODELS:
        folder = DEPOT / "models" / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text('{"note": "the engine stand-in reads no weights"}\n')


def _python_files(run: Run) -> list[str]:
    """Paths in the machine's root folder of its Python, the standard library, and the libraries both are linked to."""
    python = (ROOTFS / "usr/bin/python3").readlink().name
    library = ROOTFS / "usr/lib" / python
    files = {f"usr/bin/{python}", "usr/bin/python3"}
    files |= {
        str(path.relative_to(ROOTFS))
        for path in library.rglob("*")
        if not path.is_dir() and "__pycache__" not in path.parts and "test" not in path.parts
    }
    linked = run.output(
        ["chroot", ROOTFS, "sh", "-c", f"ldd /usr/bin/{python} /usr/lib/{python}/lib-dynload/*.so"],
        why="Listing what Python is linked to",
    )
    for name in set(re.findall(r"(/\S+\.so\S*)", linked)):
        path = ROOTFS / "usr" / name.lstrip("/").removeprefix("usr/")
        # The name that the loader asks for, and each file behind it.
        while path.exists() or path.is_symlink():
            files.add(str(path.relative_to(ROOTFS)))
            if not path.is_symlink():
                break
            path = Path(os.path.normpath(path.parent / path.readlink()))
    return sorted(files)


def _engine(run: Run, docker: dict[str, str]) -> None:
    """The engine stand-in as an image archive: Python and the stand-ins, nothing else."""
    run.note("packing the engine stand-in's image")
    stage = DEPOT / "engine-root"
    shutil.rmtree(stage, ignore_errors=True)  # there may be none yet
    stage.mkdir()
    for name in _python_files(run):
        source, target = ROOTFS / name, stage / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    for name in ("lib", "lib64", "bin"):
        (stage / name).symlink_to(f"usr/{name}")
    shutil.copytree(STANDINS, stage / "opt/standins", ignore=shutil.ignore_patterns("__pycache__", "*.md"))
    for folder in ("tmp", "etc"):
        (stage / folder).mkdir(exist_ok=True)
    (stage / "etc/passwd").write_text("root:x:0:0:root:/:/usr/sbin/nologin\n")
    tag = "mushishi-lab-engine:stand-in"
    changes = [word for line in (SCENARIO / "engine-image.txt").read_text().splitlines() for word in ("--change", line)]
    tarball = DEPOT / "engine-root.tar"
    run.command(["tar", "-C", stage, "--sort=name", "-cf", tarball, "."], why="Packing the engine stand-in")
    run.command(["docker", "import", *changes, tarball, tag], why="Importing the engine stand-in", env=docker)
    run.command(["docker", "save", "-o", DEPOT / "engine.tar", tag], why="Saving the engine stand-in", env=docker)
    identity = run.output(["docker", "image", "inspect", "-f", "{{.Id}}", tag], why="Reading the image", env=docker)
    (DEPOT / "facts.json").write_text(json.dumps({"engine_image": tag, "engine_image_id": identity.strip()}))
    tarball.unlink()
    shutil.rmtree(stage)
    subprocess.run(["docker", "image", "rm", tag], env={**os.environ, **docker}, capture_output=True)
