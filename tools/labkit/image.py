# SPDX-License-Identifier: MIT
"""The lab machine's image: the distribution's own archive, systemd as PID 1, of ours only its network at boot."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from pathlib import Path

from .host import Host
from .paths import IMAGE, ROOT, SCENARIO
from .say import Run

#: What a freshly installed server has before any role runs.
INCLUDES = (
    "systemd,systemd-sysv,dbus,python3,python3-apt,sudo,iproute2,ca-certificates,curl,procps,iptables,ufw,"
    "openssh-server,python3-venv,iputils-ping,openssl,kmod,less"
)
MACHINE_FILES = SCENARIO / "machine"
#: The stand-in for the GPU driver's library, and where the machine finds it.
NVML = ROOT / "molecule/standins/nvml.c"
NVML_PLACE = "usr/lib/libnvidia-ml.so.1"
NVML_FLAGS = (
    *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-z,defs"),
    "-Wl,-soname,libnvidia-ml.so.1",
)
ROOTFS = IMAGE / "rootfs"
#: Which build of the root folder this is: what was fetched for another one may not fit it.
BUILD = IMAGE / "build"
NAME = "mushishi-lab-machine"


def recipe(host: Host) -> str:
    """Hash of everything that goes into the image: 12 hex digits."""
    digest = hashlib.sha256(f"{host.suite} {host.components} {INCLUDES} 1\n".encode())
    digest.update(NVML.read_bytes())
    for path in sorted(MACHINE_FILES.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(MACHINE_FILES)} {path.stat().st_mode:o}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def build(run: Run, host: Host, docker: dict[str, str]) -> str:
    """Return the image's name and tag, building it when there is none for this recipe."""
    tag = f"{NAME}:{host.suite}-{recipe(host)}"
    mark = IMAGE / "recipe"
    have_rootfs = BUILD.is_file() and mark.is_file() and mark.read_text() == tag
    if not have_rootfs:
        run.note(f"building {host.suite} from {host.mirror} (about 100 s, 400 MB)")
        if ROOTFS.exists():
            shutil.rmtree(ROOTFS)
        mark.unlink(missing_ok=True)
        IMAGE.mkdir(parents=True, exist_ok=True)
        run.command(
            [
                *("debootstrap", "--variant=minbase", f"--components={host.components}", f"--include={INCLUDES}"),
                *(host.suite, ROOTFS, host.mirror),
            ],
            why="Building the machine image",
            progress=re.compile(r"^I: (?P<what>.+)"),
        )
        mark.write_text(tag)
        BUILD.write_text(str(time.time_ns()))
    if run.command(["docker", "image", "inspect", tag], why="", env=docker, check=False) != 0:
        run.note("importing the image into Docker")
        _adapt(ROOTFS)
        compile_nvml(run, ROOTFS / NVML_PLACE)
        archive = IMAGE / "machine.tar"
        run.command(
            [
                *("tar", "-C", ROOTFS, "--exclude=./workshop", "--exclude=./var/cache/apt/archives/*.deb"),
                *("--exclude=./var/lib/apt/lists/*", "-cf", archive, "."),
            ],
            why="Packing the machine image",
        )
        run.command(["docker", "import", archive, tag], why="Importing the machine image", env=docker)
        archive.unlink()
    return tag


def compile_nvml(run: Run, target: Path) -> None:
    """Make the stand-in of the driver's library, with the compiler of the host: its C library is no newer."""
    run.command(["cc", *NVML_FLAGS, "-o", target, NVML], why="Compiling the stand-in of the GPU driver's library")


def _adapt(rootfs: Path) -> None:
    """Put the lab's own files in, and let packages come from the depot alone."""
    for source in sorted(MACHINE_FILES.rglob("*")):
        target = rootfs / source.relative_to(MACHINE_FILES)
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif source.is_symlink():
            target.unlink(missing_ok=True)
            target.symlink_to(source.readlink())
        else:
            shutil.copy2(source, target)
    (rootfs / "etc/hostname").write_text("hub\n")
    (rootfs / "etc/machine-id").write_text("")
    # As old as can be, so that the first role that installs something reads the depot's index.
    os.utime(rootfs / "var/lib/apt/lists", (0, 0))
    for secret in (rootfs / "etc/ssh").glob("ssh_host_*"):
        secret.unlink()
