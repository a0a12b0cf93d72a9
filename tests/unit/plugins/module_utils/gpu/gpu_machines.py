# SPDX-License-Identifier: MIT
"""Machines as their files and commands show them: sysfs, /proc, dpkg, apt, modinfo and nvidia-smi, in their own forms.

The forms are those of Linux 6.8 to 6.14 on Ubuntu 24.04, dpkg 1.22, apt 2.8, kmod 31 and nvidia-smi 580; the forms were
taken from published logs and the programs' sources. No such machine was at hand: what a real one says may differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

KERNEL = "6.14.0-33-generic"
SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
ON, OFF = b"\x06\x00\x00\x00\x01", b"\x06\x00\x00\x00\x00"
NOBLE = 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nNAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n'
TRIXIE = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nNAME="Debian GNU/Linux"\nVERSION_ID="13"\nID=debian\n'

RTX_5090 = {"class": "0x030000\n", "vendor": "0x10de\n", "device": "0x2b85\n"}
#: Its sound, which is no display device.
SOUND = {"class": "0x040300\n", "vendor": "0x10de\n", "device": "0x22e8\n"}
RADEON = {"class": "0x030000\n", "vendor": "0x1002\n", "device": "0x13c0\n"}
NVME = {"class": "0x010802\n", "vendor": "0x144d\n", "device": "0xa80c\n"}

LOADED = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  "
    "(dvs-builder@U22-I3-B17-02-5)  Tue Sep 23 09:55:41 UTC 2025\n"
    "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)\n"
)
LOADED_CLOSED = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.135  Fri Jan 10 20:00:00 UTC 2025\n"
    "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)\n"
)
MODINFO = f"""\
filename:       /lib/modules/{KERNEL}/kernel/nvidia-580srv-open/nvidia.ko
import_ns:      DMA_BUF
alias:          char-major-195-*
version:        580.95.05
supported:      external
license:        Dual MIT/GPL
firmware:       nvidia/580.95.05/gsp_tu10x.bin
firmware:       nvidia/580.95.05/gsp_ga10x.bin
srcversion:     0A1B2C3D4E5F60718293A4B
alias:          pci:v000010DEd*sv*sd*bc06sc80i00*
alias:          pci:v000010DEd*sv*sd*bc03sc00i00*
depends:        drm
name:           nvidia
retpoline:      Y
vermagic:       {KERNEL} SMP preempt mod_unload modversions
sig_id:         PKCS#7
signer:         Canonical Ltd. Kernel Module Signing
sig_key:        88:F7:52:E5:60:A1:E0:73:7E:31:16:3A:46:6A:D7:B7:0A:85:0C:19
sig_hashalgo:   sha512
parm:           NVreg_EnableMSI:int
"""
DKMS = MODINFO.replace("Canonical Ltd. Kernel Module Signing", "workshop Secure Boot Module Signature key")
CLOSED = MODINFO.replace("Dual MIT/GPL", "NVIDIA")
NO_MODULE = "modinfo: ERROR: Module nvidia not found.\n"

SMI = (
    "00000000:01:00.0, NVIDIA GeForce RTX 5090, 580.95.05, 12.0, 32607, 2, 575.00, 400.00, 600.00, 575.00, "
    "Disabled, Enabled\n"
)
SMI_SILENT = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running.\n"
)
SMI_MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n"
VERSIONS = (
    "NVIDIA-SMI version  : 580.95.05\nNVML version        : 580.95\n"
    "DRIVER version      : 580.95.05\nCUDA Version        : 13.0\n"
)
PMON_NOBODY = """\
# gpu         pid   type     sm    mem    enc    dec    jpg    ofa    command
# Idx           #    C/G      %      %      %      %      %      %    name
    0          -     -      -      -      -      -      -      -    -
"""
PMON_DESKTOP = """\
# gpu         pid   type     sm    mem    enc    dec    jpg    ofa    command
# Idx           #    C/G      %      %      %      %      %      %    name
    0       2345     G      1      0      -      -      -      -    Xorg
    0       2502     G      0      0      -      -      -      -    gnome-shell
    0       9001     C     97     60      -      -      -      -    python3
"""

KERNELS = f"""\
ii  linux-image-{KERNEL} 6.14.0-33.33~24.04.1
ii  linux-image-generic-hwe-24.04 6.14.0-33.33~24.04.1
rc  linux-image-6.8.0-31-generic 6.8.0-31.31
un  linux-image-unsigned-{KERNEL}
"""
DRIVER = f"""\
ii  linux-modules-nvidia-580-server-open-generic-hwe-24.04 6.14.0-33.33~24.04.1+1
ii  linux-modules-nvidia-580-server-open-{KERNEL} 6.14.0-33.33~24.04.1+1
ii  nvidia-headless-no-dkms-580-server-open 580.95.05-0ubuntu0.24.04.2
ii  nvidia-kernel-common-580-server 580.95.05-0ubuntu0.24.04.2
ii  nvidia-utils-580-server 580.95.05-0ubuntu0.24.04.2
ii  libnvidia-decode-580-server 580.95.05-0ubuntu0.24.04.2
ii  libnvidia-encode-580-server 580.95.05-0ubuntu0.24.04.2
"""
TOOLKIT = """\
ii  libnvidia-container-tools 1.20.1-1
ii  libnvidia-container1:amd64 1.20.1-1
ii  nvidia-container-toolkit 1.20.1-1
ii  nvidia-container-toolkit-base 1.20.1-1
"""
CUDA_REPOSITORY = """\
ii  nvidia-open 580.82.07-0ubuntu1
ii  nvidia-dkms-open 580.82.07-0ubuntu1
ii  nvidia-kernel-source-open 580.82.07-0ubuntu1
"""


def policy(
    *names: str, origin: str = "http://archive.ubuntu.com/ubuntu noble-updates/restricted amd64 Packages"
) -> str:
    """apt-cache policy about packages that can be had and are not installed."""
    block = """\
{0}:
  Installed: (none)
  Candidate: 580.95.05-0ubuntu0.24.04.2
  Version table:
     580.95.05-0ubuntu0.24.04.2 500
        500 {1}
     550.54.14-0ubuntu1 500
        500 http://archive.ubuntu.com/ubuntu noble/restricted amd64 Packages
"""
    return "".join(block.format(name, origin) for name in names)


WANTED = (
    "linux-modules-nvidia-580-server-open-generic-hwe-24.04",
    f"linux-modules-nvidia-580-server-open-{KERNEL}",
    "nvidia-headless-no-dkms-580-server-open",
    "nvidia-utils-580-server",
    "libnvidia-decode-580-server",
    "libnvidia-encode-580-server",
)


@dataclass(frozen=True)
class Machine:
    """Files by path (bytes or text), links by path, and what commands say: (status, output, error)."""

    files: Mapping[str, str | bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    says: Mapping[str, tuple[int, str, str]] = field(default_factory=dict)

    def put(self, root: Path) -> str:
        """Lay the files below ``root``; returns it as text."""
        for path, content in self.files.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.encode())
        for path, leads_to in self.links.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(leads_to)
        return str(root)

    def run(self, command: Sequence[str]) -> tuple[int, str, str]:
        """A command by its first words; the longest that is known answers."""
        line = " ".join(command)
        known = [start for start in self.says if line.startswith(start)]
        return self.says[max(known, key=len)] if known else (127, "", f"{command[0]}: No such file or directory")

    def but(
        self,
        files: Mapping[str, str | bytes] | None = None,
        links: Mapping[str, str] | None = None,
        says: Mapping[str, tuple[int, str, str]] | None = None,
        without: Sequence[str] = (),
    ) -> Machine:
        """The same machine with something else in place, or without something."""
        kept = {path: content for path, content in {**self.files, **(files or {})}.items() if path not in without}
        return replace(self, files=kept, links={**self.links, **(links or {})}, says={**self.says, **(says or {})})


def pci(address: str, values: Mapping[str, str], first: bool | None = None) -> dict[str, str]:
    """A device's files in sysfs."""
    folder = f"sys/bus/pci/devices/{address}"
    files = {f"{folder}/{name}": value for name, value in values.items()}
    return files if first is None else {**files, f"{folder}/boot_vga": f"{int(first)}\n"}


def driven(address: str, driver: str) -> dict[str, str]:
    """The link to the driver that a device is bound to."""
    return {f"sys/bus/pci/devices/{address}/driver": f"../../../../bus/pci/drivers/{driver}"}


def card(number: int, address: str, **status: str) -> tuple[dict[str, str], dict[str, str]]:
    """A card's connectors in sysfs: files and links. ``DP_1="connected"`` is ``card0-DP-1``."""
    base = f"sys/class/drm/card{number}"
    files = {f"{base}-{name.replace('_', '-')}/status": f"{value}\n" for name, value in status.items()}
    return files, {f"{base}/device": f"../../../bus/pci/devices/{address}"}


_IGPU_FILES, _IGPU_LINKS = card(0, "0000:7c:00.0", HDMI_A_1="connected", DP_1="disconnected", Writeback_1="unknown")
_NV_FILES, _NV_LINKS = card(1, "0000:01:00.0", DP_2="disconnected", DP_3="disconnected", HDMI_A_2="disconnected")

#: An RTX 5090 beside a processor with graphics, display on the board, driver and toolkit of ours at work.
WORKING = Machine(
    files={
        **pci("0000:01:00.0", RTX_5090, first=False),
        **pci("0000:01:00.1", SOUND),
        **pci("0000:02:00.0", NVME),
        **pci("0000:7c:00.0", RADEON, first=True),
        **_IGPU_FILES,
        **_NV_FILES,
        SECURE_BOOT: ON,
        "proc/sys/kernel/osrelease": f"{KERNEL}\n",
        "proc/driver/nvidia/version": LOADED,
        "etc/os-release": NOBLE,
        "var/run/cdi/nvidia.yaml": "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\n",
    },
    links={
        **driven("0000:01:00.0", "nvidia"),
        **driven("0000:7c:00.0", "amdgpu"),
        **_IGPU_LINKS,
        **_NV_LINKS,
    },
    says={
        "dpkg-query": (0, KERNELS + DRIVER + TOOLKIT, ""),
        "apt-cache policy": (0, "", ""),
        "modinfo nvidia": (0, MODINFO, ""),
        "nvidia-smi --query-gpu=": (0, SMI, ""),
        "nvidia-smi --version": (0, VERSIONS, ""),
        "nvidia-smi pmon": (0, PMON_NOBODY, ""),
    },
)
#: The same on the day it was bought: nouveau has the card, nothing is installed.
NEW = Machine(
    files={path: text for path, text in WORKING.files.items() if not path.startswith(("proc/driver", "var/run"))},
    links={**WORKING.links, **driven("0000:01:00.0", "nouveau")},
    says={
        "dpkg-query": (1, KERNELS, "dpkg-query: no packages found matching nvidia-dkms-*\n"),
        "apt-cache policy": (0, policy(*WANTED), ""),
        "modinfo nvidia": (1, "", NO_MODULE),
    },
)
#: A machine without NVIDIA: a processor with graphics alone.
PLAIN = Machine(
    files={**pci("0000:7c:00.0", RADEON, first=True), **_IGPU_FILES, "etc/os-release": NOBLE},
    links={**driven("0000:7c:00.0", "amdgpu"), **_IGPU_LINKS},
)
#: A container or a small virtual machine: no such files at all.
BARE = Machine()
