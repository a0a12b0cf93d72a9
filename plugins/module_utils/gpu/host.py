# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""The card as the machine has it, before and after its driver: what is there, what is refused, what is to be installed.

Read from sysfs, ``/proc``, apt and ``nvidia-smi`` (which asks NVML); judged by pure functions. Nothing is changed here.
Where the names and figures come from: docs/decisions/024.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._look import Runner

NVIDIA = "0x10de"
#: The oldest driver that images made for CUDA 13 run with, and the first CUDA whose compiler knows SM120.
OLDEST_DRIVER = 580
OLDEST_CUDA = (12, 9)
#: The first toolkit that brings units which describe the card to Docker anew when its driver changes.
OLDEST_TOOLKIT = (1, 18)
SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
QUERY = (
    "pci.bus_id,name,driver_version,compute_cap,memory.total,memory.used,"
    "power.limit,power.min_limit,power.max_limit,power.default_limit,display_active,persistence_mode"
)
SHOW = "--showformat=${db:Status-Abbrev} ${Package} ${Version}\\n"
#: Packages by which a driver, or the kernel that it is for, is there.
PATTERNS = (
    "cuda-drivers*",
    "linux-image-*",
    "linux-modules-nvidia-*",
    "nvidia-dkms-*",
    "nvidia-driver-*",
    "nvidia-headless-*",
    "nvidia-kernel-*",
    "nvidia-open*",
    "nvidia-utils-*",
    "*nvidia-container*",
)
#: A driver that is built on the machine, or comes from NVIDIA's own repository or installer.
_FOREIGN = re.compile(r"^(nvidia-dkms-|nvidia-kernel-source-|nvidia-open($|-\d)|cuda-drivers|nvidia-driver-pinning-)")
_CANONICAL = "Canonical Ltd."
#: Ubuntu's archive or a mirror of it, as apt names a source; a PPA has the same suites and other builders.
_ARCHIVE = re.compile(r"^(?!\S*ppa)\S+ noble[a-z-]*/(main|restricted|universe|multiverse)$")


@dataclass(frozen=True)
class Device:
    """A display device on the PCI bus; numbers as sysfs writes them, ``driver`` empty when none is bound."""

    address: str
    vendor: str
    device: str
    driver: str = ""
    boot_vga: bool = False


@dataclass(frozen=True)
class Connector:
    """A connector of a display device; ``status`` is connected, disconnected or unknown."""

    name: str
    status: str
    vendor: str


@dataclass(frozen=True)
class Module:
    """The kernel module that modprobe would load."""

    version: str
    licence: str
    signer: str

    @property
    def open(self) -> bool:
        """Whether it is one of the open modules."""
        return self.licence == "Dual MIT/GPL"


@dataclass(frozen=True)
class Smi:
    """A card as its driver knows it. Memory in MiB, power in watts; None where the card does not tell."""

    bus: str
    name: str
    driver: str
    compute: tuple[int, ...]
    memory_mib: int | None
    used_mib: int | None
    limit: float | None
    least: float | None
    most: float | None
    default: float | None
    display: bool
    persistent: bool


@dataclass(frozen=True)
class Policy:
    """What apt says of a package: the versions, and where the candidate would come from."""

    installed: str | None
    candidate: str | None
    origins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What a machine has. ``packages``: installed ones with their versions."""

    devices: tuple[Device, ...] = ()
    connectors: tuple[Connector, ...] = ()
    secure_boot: bool | None = None
    kernel: str = ""
    system: str = ""
    loaded: str = ""
    module: Module | None = None
    smi: tuple[Smi, ...] = ()
    smi_words: str = ""
    cuda: tuple[int, ...] = ()
    drawing: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    policy: Mapping[str, Policy] = field(default_factory=dict)
    described: bool = False

    @property
    def cards(self) -> tuple[Device, ...]:
        """NVIDIA's among the display devices."""
        return tuple(device for device in self.devices if device.vendor == NVIDIA)


@dataclass(frozen=True)
class Wanted:
    """What is asked for. ``driver``: auto, ubuntu or none; ``watts``: 0 leaves the limit; ``display``: igpu or any."""

    driver: str
    branch: str
    watts: int
    display: str
    toolkit: str


@dataclass
class Verdict:
    """Sentences, and what follows from them. ``restart``: why the machine has to start anew; empty when it need not."""

    card: bool = False
    refused: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    install: list[str] = field(default_factory=list)
    toolkit: bool = False
    load: bool = False
    restart: str = ""


def numbers(text: str) -> tuple[int, ...]:
    """The numbers at the beginning of a version: ``numbers("580.95.05")`` is ``(580, 95, 5)``."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match.group(0).split(".")) if match else ()


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def devices(root: str) -> tuple[Device, ...]:
    """Every display device (PCI class 03) of the machine whose files are at ``root``."""
    found = []
    for folder in sorted(glob.glob(f"{root}/sys/bus/pci/devices/*")):
        if not _text(f"{folder}/class").startswith("0x03"):
            continue
        driver = os.path.basename(os.readlink(f"{folder}/driver")) if os.path.islink(f"{folder}/driver") else ""
        vendor, device = _text(f"{folder}/vendor"), _text(f"{folder}/device")
        first = _text(f"{folder}/boot_vga") == "1"
        found.append(Device(os.path.basename(folder), vendor, device, driver, first))
    return tuple(found)


def connectors(root: str) -> tuple[Connector, ...]:
    """Every connector of every card that the kernel draws with; ``card1-DP-1`` is one of ``card1``."""
    found = []
    for folder in sorted(glob.glob(f"{root}/sys/class/drm/card[0-9]*-*")):
        name = os.path.basename(folder)
        vendor = _text(f"{root}/sys/class/drm/{name.split('-', 1)[0]}/device/vendor")
        found.append(Connector(name, _text(f"{folder}/status"), vendor))
    return tuple(found)


def secure_boot(root: str) -> bool | None:
    """Whether the firmware enforces signatures; None on a machine without UEFI."""
    try:
        with open(f"{root}/{SECURE_BOOT}", "rb") as stream:
            value = stream.read()
    except OSError:
        return None
    # Four bytes of attributes stand before the value.
    return value[4:5] == b"\x01"


def loaded_version(text: str) -> str:
    """The driver's version from ``/proc/driver/nvidia/version``; empty when it says none."""
    match = re.search(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text, re.MULTILINE)
    return match.group(1) if match else ""


def modinfo(text: str) -> Module | None:
    """What ``modinfo nvidia`` says; None when it knows no such module."""
    fields = dict(re.findall(r"^(\w+):[ \t]+(.*?)[ \t]*$", text, re.MULTILINE))
    if "version" not in fields:
        return None
    return Module(fields["version"], fields.get("license", ""), fields.get("signer", ""))


def _figure(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def smi(text: str) -> tuple[Smi, ...]:
    """The cards in an answer to ``QUERY``, as csv without header and units; other lines are left out."""
    found = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) != len(QUERY.split(",")) or not re.match(r"[0-9A-Fa-f]{4,8}:", words[0]):
            continue
        memory, used = _figure(words[4]), _figure(words[5])
        limit, least, most, default = (_figure(word) for word in words[6:10])
        found.append(
            Smi(
                bus=words[0],
                name=words[1],
                driver=words[2],
                compute=numbers(words[3]),
                memory_mib=None if memory is None else int(memory),
                used_mib=None if used is None else int(used),
                limit=limit,
                least=least,
                most=most,
                default=default,
                display=words[10] in ("Enabled", "Yes"),
                persistent=words[11] == "Enabled",
            )
        )
    return tuple(found)


def cuda_version(text: str) -> tuple[int, ...]:
    """The newest CUDA that the driver runs, from ``nvidia-smi --version``."""
    match = re.search(r"^CUDA (?:UMD )?Version\s*:\s*(\d+\.\d+)", text, re.MULTILINE | re.IGNORECASE)
    return numbers(match.group(1)) if match else ()


def drawing(text: str) -> tuple[str, ...]:
    """Programs that draw with a card, from ``nvidia-smi pmon --count 1``."""
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return tuple(sorted({row[-1] for row in rows if len(row) > 3 and row[1].isdigit() and "G" in row[2]}))


def installed(text: str) -> dict[str, str]:
    """Installed packages and their versions, from dpkg-query in the form of ``SHOW``."""
    rows = [line.split() for line in text.splitlines()]
    return {row[1]: row[2] for row in rows if len(row) == 3 and row[0][1:2] == "i"}


def policies(text: str) -> dict[str, Policy]:
    """What ``apt-cache policy`` says, by package. One that apt does not know is not in it."""
    found: dict[str, Policy] = {}
    for block in re.split(r"^(?=\S+:$)", text, flags=re.MULTILINE):
        head = re.match(r"(\S+):\n  Installed: (\S+)\n  Candidate: (\S+)\n", block)
        if head is None:
            continue
        name, present, candidate = head.groups()
        table = re.search(rf"^ (?:\*\*\*|   ) {re.escape(candidate)} -?\d+\n((?: {{8,}}.*\n?)*)", block, re.MULTILINE)
        origins = tuple(re.findall(r"^ +-?\d+ (\S+ \S+)", table.group(1), re.MULTILINE)) if table else ()
        absent = "(none)"
        found[name] = Policy(
            None if present == absent else present, None if candidate == absent else candidate, origins
        )
    return found


def flavours(packages: Iterable[str]) -> list[str]:
    """Flavours of the kernel whose newest is kept installed: ``generic-hwe-24.04`` of linux-image-generic-hwe-24.04."""
    names = (name.removeprefix("linux-image-") for name in packages if name.startswith("linux-image-"))
    return sorted(name for name in names if not re.match(r"\d|unsigned-|uc-|extra-", name))


def driver_packages(branch: str, kernel: str, flavours_here: Sequence[str]) -> list[str]:
    """Canonical's own build of the open modules, for the kernel that runs and those to come, and the programs for it.

    ``branch`` is ``580`` or ``580-server``. Without a display's libraries: nobody can draw with the card.
    """
    modules = f"linux-modules-nvidia-{branch}-open-"
    return [
        *(modules + flavour for flavour in flavours_here),
        modules + kernel,
        f"nvidia-headless-no-dkms-{branch}-open",
        f"nvidia-utils-{branch}",
        f"libnvidia-decode-{branch}",
        f"libnvidia-encode-{branch}",
    ]


def look(root: str, run: Runner, branch: str) -> Seen:
    """Everything about the machine's cards. A command that is not there says nothing; the files are at ``root``."""

    def said(*argv: str) -> str:
        status, out, err = run(argv)
        return out if status == 0 else out + err

    found = devices(root)
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', _text(f"{root}/etc/os-release"), re.MULTILINE))
    system = f"{release.get('ID', '')} {release.get('VERSION_ID', '')}"
    if not any(device.vendor == NVIDIA for device in found):
        return Seen(devices=found, connectors=connectors(root), system=system)
    kernel = _text(f"{root}/proc/sys/kernel/osrelease")
    # A pattern that matches no package is no fault of dpkg-query's answer about the others.
    packages = installed(run(("dpkg-query", "--show", SHOW, *PATTERNS))[1])
    asked = driver_packages(branch, kernel, flavours(packages))
    ask = ("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits")
    status, out, err = run(ask)
    cards = smi(out) if status == 0 else ()
    return Seen(
        devices=found,
        connectors=connectors(root),
        secure_boot=secure_boot(root),
        kernel=kernel,
        system=system,
        loaded=loaded_version(_text(f"{root}/proc/driver/nvidia/version") + "\n"),
        module=modinfo(said("modinfo", "nvidia")),
        smi=cards,
        smi_words="" if cards else " ".join((out + " " + err).split())[:300],
        cuda=cuda_version(said("nvidia-smi", "--version")) if cards else (),
        drawing=drawing(said("nvidia-smi", "pmon", "--count", "1")) if cards else (),
        packages=packages,
        policy=policies(run(("apt-cache", "policy", *asked))[1]),
        described=any(glob.glob(f"{root}/{folder}/cdi/*") for folder in ("etc", "var/run", "run")),
    )


def _driver(seen: Seen, wanted: Wanted, verdict: Verdict) -> None:
    """Which driver is there, and what is to be installed."""
    foreign = sorted(name for name in seen.packages if _FOREIGN.match(name))
    ours = [name for name in seen.packages if name.startswith(f"nvidia-headless-no-dkms-{wanted.branch}-open")]
    there = bool(seen.loaded or seen.module or foreign) or any(
        name.startswith(("nvidia-headless-", "nvidia-driver-", "nvidia-utils-")) for name in seen.packages
    )
    if wanted.driver == "ubuntu" and foreign:
        verdict.refused.append(
            f"driver: host_gpu_driver is ubuntu, and {', '.join(foreign)} of another source or build is installed. "
            "Two sources on one machine break each other: remove it (apt purge), or set host_gpu_driver to auto."
        )
        return
    if there and not ours:
        others = foreign or sorted(name for name in seen.packages if name.startswith("nvidia-"))[:4]
        if wanted.driver == "ubuntu":
            verdict.refused.append(
                f"driver: host_gpu_driver is ubuntu, branch {wanted.branch}, and another driver is there "
                f"({', '.join(others) or seen.loaded or 'a module without a package'}). Remove it first, or set "
                "host_gpu_driver to auto, which keeps it."
            )
        elif wanted.driver == "auto":
            verdict.named.append(
                f"the driver of another hand is kept ({', '.join(others) or 'no package'}, "
                f"{seen.loaded or (seen.module.version if seen.module else 'not loaded')})."
            )
        return
    if wanted.driver == "none":
        return
    if seen.system != "ubuntu 24.04":
        verdict.refused.append(
            f"driver: Canonical's signed modules are for Ubuntu 24.04, this is {seen.system}. Install a driver of "
            f"{OLDEST_DRIVER} or newer with open modules yourself, or set host_gpu_driver to none."
        )
        return
    names = driver_packages(wanted.branch, seen.kernel, flavours(seen.packages))
    missing = [name for name in names if name not in seen.packages]
    unknown = [name for name in missing if name not in seen.policy or seen.policy[name].candidate is None]
    if unknown:
        verdict.refused.append(
            f"driver: apt has no {', '.join(unknown)}. Its lists may be old (apt update), the component `restricted` "
            f"may be off, or there is no such build for kernel {seen.kernel}: update the kernel and restart first, or "
            "choose another host_gpu_driver_branch."
        )
        return
    strange = [name for name in missing if not any(_ARCHIVE.search(origin) for origin in seen.policy[name].origins)]
    if strange:
        where = seen.policy[strange[0]].origins
        verdict.refused.append(
            f"driver: {', '.join(strange)} would not come from Ubuntu's archive but from "
            f"{', '.join(where) or 'nowhere'}. Take that source away, or install its driver yourself: with "
            "host_gpu_driver auto it is kept."
        )
        return
    verdict.install = missing


def _module(seen: Seen, verdict: Verdict) -> None:
    """Whether the module that is there may be loaded, and whether it is the one that is."""
    module = seen.module
    version = seen.loaded or (module.version if module else "")
    if version and numbers(version) < (OLDEST_DRIVER,):
        verdict.refused.append(
            f"driver {version}: it is older than {OLDEST_DRIVER}, which images made for CUDA 13 need. Remove it, "
            "restart, and run again: the role then installs its own."
        )
    if module and not module.open:
        verdict.refused.append(
            f"driver {module.version}: its module has the licence {module.licence or 'unknown'}. Blackwell cards have "
            "open modules only: install the -open packages of the same branch."
        )
    if seen.secure_boot and module and not seen.loaded and not module.signer.startswith(_CANONICAL):
        verdict.refused.append(
            f"Secure Boot is on, and the module nvidia {module.version} is signed by {module.signer or 'nobody'}, not "
            "by Canonical. The kernel refuses it until its key is enrolled at the machine's own screen (mokutil). "
            "Remove the module that was built here and let the role install the signed one, or enrol the key."
        )
    if module and seen.loaded and module.version != seen.loaded:
        verdict.restart = f"the driver {seen.loaded} runs and {module.version} is installed"
    elif "mismatch" in seen.smi_words:
        verdict.restart = f"nvidia-smi says: {seen.smi_words}"
    elif not seen.loaded and (module or verdict.install):
        taken = sorted({card.driver for card in seen.cards if card.driver and card.driver != "nvidia"})
        if taken:
            verdict.restart = f"{', '.join(taken)} has the card"
        else:
            verdict.load = module is not None


def _display(seen: Seen, wanted: Wanted, verdict: Verdict) -> None:
    """Whether anybody looks at, or draws with, the card."""
    plugged = [each.name for each in seen.connectors if each.status == "connected" and each.vendor == NVIDIA]
    signs = []
    if plugged:
        signs.append(f"a display is plugged into {', '.join(plugged)}")
    if any(card.display for card in seen.smi):
        signs.append("the driver says that a display is active")
    if seen.drawing:
        signs.append(f"{', '.join(seen.drawing)} draw with it")
    if any(card.boot_vga for card in seen.cards):
        signs.append("the firmware starts on it")
    if not signs or wanted.display == "any":
        return
    others = [device for device in seen.devices if device.vendor != NVIDIA]
    remedy = (
        "Plug the display into the board, and make the built-in graphics the first in the firmware's setup"
        if others
        else "This machine has no other graphics; set host_gpu_display to any"
    )
    verdict.named.append(f"display on the card: {'; '.join(signs)}. It costs about 1 GB. {remedy}.")


def _power(seen: Seen, wanted: Wanted, verdict: Verdict) -> None:
    """Whether the card may be limited as it was asked for."""
    if not wanted.watts:
        return
    if not seen.smi:
        verdict.named.append(f"power limit {wanted.watts} W: no driver answers yet, so it is checked when one does.")
    for card in seen.smi:
        if card.least is None or card.most is None:
            verdict.refused.append(
                f"power limit {wanted.watts} W: {card.name} does not tell its limits. Set host_gpu_power_watts to 0."
            )
        elif not card.least <= wanted.watts <= card.most:
            verdict.refused.append(
                f"power limit {wanted.watts} W: {card.name} allows {card.least:.0f} to {card.most:.0f} W "
                f"(default {card.default or card.most:.0f}). Correct host_gpu_power_watts, or set it to 0."
            )


def _compute(seen: Seen, verdict: Verdict) -> None:
    """SM120 needs a driver that runs CUDA 12.9 or newer."""
    for card in seen.smi:
        if card.compute >= (12, 0) and seen.cuda and seen.cuda < OLDEST_CUDA:
            verdict.refused.append(
                f"{card.name} (compute capability {'.'.join(map(str, card.compute))}): the driver runs CUDA up to "
                f"{'.'.join(map(str, seen.cuda))}, and what is compiled for this card needs "
                f"{'.'.join(map(str, OLDEST_CUDA))}. Install a driver of {OLDEST_DRIVER} or newer."
            )


def judge(seen: Seen, wanted: Wanted) -> Verdict:
    """What is refused, what a person should know, what is to be done. Pure."""
    verdict = Verdict(card=bool(seen.cards))
    if not verdict.card:
        verdict.named.append("no NVIDIA card (PCI class 03, vendor 10de) on this machine: host_gpu does nothing.")
        return verdict
    _driver(seen, wanted, verdict)
    _module(seen, verdict)
    _display(seen, wanted, verdict)
    _power(seen, wanted, verdict)
    _compute(seen, verdict)
    if wanted.toolkit:
        present = seen.packages.get("nvidia-container-toolkit-base", "")
        verdict.toolkit = numbers(present) < OLDEST_TOOLKIT or numbers(present) < numbers(wanted.toolkit)
    if seen.secure_boot and not verdict.refused and wanted.driver != "none":
        verdict.named.append("Secure Boot is on: Canonical's modules are signed for it; nothing has to be enrolled.")
    return verdict


def as_result(seen: Seen, verdict: Verdict) -> dict[str, Any]:
    """Plain values, for a module's answer."""
    return {
        "card": verdict.card,
        "refused": verdict.refused,
        "named": verdict.named,
        "install": verdict.install,
        "toolkit": verdict.toolkit,
        "load": verdict.load,
        "restart": verdict.restart,
        "described": seen.described,
        "kernel": seen.kernel,
        "secure_boot": seen.secure_boot,
        "driver": seen.loaded or (seen.module.version if seen.module else ""),
        "answers": bool(seen.smi),
        "cuda": ".".join(map(str, seen.cuda)),
        "cards": [
            {
                "address": card.address,
                "device": card.device,
                "kernel_driver": card.driver,
            }
            for card in seen.cards
        ],
        "nvml": [
            {
                "bus": card.bus,
                "name": card.name,
                "compute_capability": ".".join(map(str, card.compute)),
                "memory_mib": card.memory_mib,
                "used_mib": card.used_mib,
                "power_watts": {"limit": card.limit, "least": card.least, "most": card.most, "default": card.default},
                "display_active": card.display,
                "persistent": card.persistent,
            }
            for card in seen.smi
        ],
        "drawing": list(seen.drawing),
        "connected": [each.name for each in seen.connectors if each.status == "connected"],
    }
