# SPDX-License-Identifier: MIT
"""The card, its driver and its display: what machines look like, and what is said about each."""

from __future__ import annotations

from pathlib import Path

import gpu_machines as machines
import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import host
from gpu_machines import NEW, PLAIN, WORKING, Machine

BRANCH = "580-server"
AUTO = host.Wanted(driver="auto", branch=BRANCH, watts=450, display="igpu", toolkit="1.20.1")


def wanted(**changes: object) -> host.Wanted:
    return host.Wanted(**{**AUTO.__dict__, **changes})


def seen(machine: Machine, root: Path) -> host.Seen:
    return host.look(machine.put(root), machine.run, BRANCH)


def judged(machine: Machine, root: Path, want: host.Wanted = AUTO) -> host.Verdict:
    return host.judge(seen(machine, root), want)


# --- what is there


def test_a_working_machine(tmp_path: Path) -> None:
    found = seen(WORKING, tmp_path)
    assert found.cards == (host.Device("0000:01:00.0", "0x10de", "0x2b85", "nvidia", False),)
    assert [device.driver for device in found.devices] == ["nvidia", "amdgpu"], "sound and disks are no displays"
    assert host.Connector("card0-HDMI-A-1", "connected", "0x1002") in found.connectors
    assert len(found.connectors) == 6
    assert (found.secure_boot, found.loaded, found.cuda, found.drawing) == (True, "580.95.05", (13, 0), ())
    assert found.module == host.Module("580.95.05", "Dual MIT/GPL", "Canonical Ltd. Kernel Module Signing")
    (card,) = found.smi
    assert (card.name, card.compute, card.memory_mib) == ("NVIDIA GeForce RTX 5090", (12, 0), 32607)
    assert (card.limit, card.least, card.most, card.display, card.persistent) == (575.0, 400.0, 600.0, False, True)
    assert found.described


def test_a_working_machine_needs_nothing(tmp_path: Path) -> None:
    verdict = judged(WORKING, tmp_path)
    assert (verdict.card, verdict.refused, verdict.install, verdict.toolkit, verdict.load, verdict.restart) == (
        True,
        [],
        [],
        False,
        False,
        "",
    )


@pytest.mark.parametrize("machine", [PLAIN, machines.BARE], ids=["another card", "no files"])
def test_without_a_card_nothing_is_done(machine: Machine, tmp_path: Path) -> None:
    verdict = judged(machine, tmp_path, wanted(driver="ubuntu", watts=9999))
    assert (verdict.card, verdict.refused, verdict.install, verdict.toolkit) == (False, [], [], False)
    assert len(verdict.named) == 1 and "no NVIDIA card" in verdict.named[0]


def test_a_machine_without_a_card_is_asked_for_nothing(tmp_path: Path) -> None:
    asked: list[str] = []

    def run(command: object) -> tuple[int, str, str]:
        asked.append(str(command))
        return 0, "", ""

    host.look(PLAIN.put(tmp_path), run, BRANCH)
    assert asked == []


# --- what is installed


def test_a_new_machine_gets_the_signed_open_modules(tmp_path: Path) -> None:
    verdict = judged(NEW, tmp_path)
    assert verdict.refused == [] and verdict.install == list(machines.WANTED)
    assert verdict.toolkit and verdict.restart == "nouveau has the card" and not verdict.load


def test_a_module_that_nobody_keeps_away_is_loaded(tmp_path: Path) -> None:
    quiet = WORKING.but(says={"nvidia-smi --query-gpu=": (9, machines.SMI_SILENT, "")})
    quiet = quiet.but(without=["proc/driver/nvidia/version"])
    verdict = judged(Machine(quiet.files, {**NEW.links, **machines.driven("0000:01:00.0", "")}, quiet.says), tmp_path)
    assert verdict.load and verdict.restart == "" and verdict.refused == []


def test_half_an_installation_is_finished(tmp_path: Path) -> None:
    lost = "nvidia-utils-580-server"
    packages = "".join(line for line in machines.DRIVER.splitlines(True) if lost not in line)
    machine = WORKING.but(
        says={
            "dpkg-query": (0, machines.KERNELS + packages, ""),
            "apt-cache policy": (0, machines.policy(lost), ""),
        }
    )
    assert judged(machine, tmp_path).install == [lost]


def test_what_apt_does_not_know_is_refused(tmp_path: Path) -> None:
    machine = NEW.but(says={"apt-cache policy": (0, machines.policy(*machines.WANTED[2:]), "")})
    (refusal,) = judged(machine, tmp_path).refused
    assert machines.WANTED[0] in refusal and machines.WANTED[1] in refusal and "restricted" in refusal
    assert machines.WANTED[2] not in refusal


@pytest.mark.parametrize(
    ("origin", "fine"),
    [
        ("http://archive.ubuntu.com/ubuntu noble-updates/restricted amd64 Packages", True),
        ("https://mirror.example.org/ubuntu noble-security/multiverse amd64 Packages", True),
        ("https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2404/x86_64  Packages", False),
        ("https://ppa.launchpadcontent.net/graphics-drivers/ppa/ubuntu noble/main amd64 Packages", False),
    ],
)
def test_the_archive_alone_is_taken_from(origin: str, fine: bool, tmp_path: Path) -> None:
    machine = NEW.but(says={"apt-cache policy": (0, machines.policy(*machines.WANTED, origin=origin), "")})
    verdict = judged(machine, tmp_path)
    assert bool(verdict.install) is fine and bool(verdict.refused) is not fine


def test_another_hand_s_driver_is_kept_or_refused(tmp_path: Path) -> None:
    machine = WORKING.but(says={"dpkg-query": (0, machines.KERNELS + machines.CUDA_REPOSITORY, "")})
    kept = judged(machine, tmp_path)
    assert kept.refused == [] and kept.install == [] and "nvidia-open" in kept.named[0]
    refused = host.judge(host.look(str(tmp_path), machine.run, BRANCH), wanted(driver="ubuntu"))
    assert len(refused.refused) == 1 and "nvidia-dkms-open" in refused.refused[0]


def test_a_driver_without_a_package_is_not_overwritten(tmp_path: Path) -> None:
    machine = WORKING.but(says={"dpkg-query": (0, machines.KERNELS, "")})
    assert judged(machine, tmp_path).install == []
    verdict = host.judge(host.look(str(tmp_path), machine.run, BRANCH), wanted(driver="ubuntu"))
    assert "580.95.05" in verdict.refused[0] and verdict.install == []


def test_none_installs_nothing(tmp_path: Path) -> None:
    verdict = judged(NEW, tmp_path, wanted(driver="none"))
    assert (verdict.install, verdict.refused) == ([], [])


def test_debian_with_a_card_has_to_bring_its_own(tmp_path: Path) -> None:
    verdict = judged(NEW.but(files={"etc/os-release": machines.TRIXIE}), tmp_path)
    assert verdict.install == [] and "this is debian 13" in verdict.refused[0]


@pytest.mark.parametrize(
    ("present", "needed"),
    [
        ("", True),
        ("ii  nvidia-container-toolkit-base 1.17.9-1\n", True),
        (machines.TOOLKIT, False),
        ("ii  nvidia-container-toolkit-base 1.21.0-1\n", False),
    ],
)
def test_the_toolkit(present: str, needed: bool, tmp_path: Path) -> None:
    machine = WORKING.but(says={"dpkg-query": (0, machines.KERNELS + machines.DRIVER + present, "")})
    assert judged(machine, tmp_path).toolkit is needed


def test_flavours_of_the_kernel() -> None:
    names = ["linux-image-6.8.0-90-generic", "linux-image-unsigned-6.8.0-90-generic", "linux-image-generic", "bash"]
    assert host.flavours(names) == ["generic"]
    assert host.driver_packages("580", "6.8.0-90-generic", ["generic"])[:2] == [
        "linux-modules-nvidia-580-open-generic",
        "linux-modules-nvidia-580-open-6.8.0-90-generic",
    ]


# --- what may be loaded


def test_an_old_driver_is_refused(tmp_path: Path) -> None:
    machine = WORKING.but(files={"proc/driver/nvidia/version": machines.LOADED_CLOSED})
    assert any("550.135" in line and "580" in line for line in judged(machine, tmp_path).refused)


def test_closed_modules_are_refused(tmp_path: Path) -> None:
    machine = WORKING.but(says={"modinfo nvidia": (0, machines.CLOSED, "")})
    assert "licence NVIDIA" in judged(machine, tmp_path).refused[0]


@pytest.mark.parametrize(
    ("boot", "module", "loaded", "refused"),
    [
        (machines.ON, machines.DKMS, False, True),
        (machines.ON, machines.MODINFO, False, False),
        (machines.OFF, machines.DKMS, False, False),
        (machines.ON, machines.DKMS, True, False),
        (machines.ON, machines.MODINFO.replace("signer:", "nobody:"), False, True),
    ],
    ids=["built here", "Canonical's", "Secure Boot off", "the kernel took it", "not signed"],
)
def test_secure_boot(boot: bytes, module: str, loaded: bool, refused: bool, tmp_path: Path) -> None:
    machine = WORKING.but(files={machines.SECURE_BOOT: boot}, says={"modinfo nvidia": (0, module, "")})
    machine = machine if loaded else machine.but(without=["proc/driver/nvidia/version"])
    found = [line for line in judged(machine, tmp_path).refused if "Secure Boot" in line]
    assert bool(found) is refused


def test_a_machine_without_uefi_has_no_secure_boot(tmp_path: Path) -> None:
    assert seen(WORKING.but(without=[machines.SECURE_BOOT]), tmp_path).secure_boot is None


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ({"modinfo nvidia": (0, machines.MODINFO.replace("580.95.05", "580.126.09"), "")}, "580.126.09 is installed"),
        ({"nvidia-smi --query-gpu=": (18, machines.SMI_MISMATCH, "")}, "mismatch"),
        ({}, ""),
    ],
)
def test_what_needs_a_restart(says: dict[str, tuple[int, str, str]], why: str, tmp_path: Path) -> None:
    assert why in (restart := judged(WORKING.but(says=says), tmp_path).restart) and bool(restart) is bool(why)


# --- what it does


@pytest.mark.parametrize(("watts", "refused"), [(0, 0), (399, 1), (400, 0), (450, 0), (600, 0), (601, 1)])
def test_the_power_limit_is_one_that_the_card_allows(watts: int, refused: int, tmp_path: Path) -> None:
    found = judged(WORKING, tmp_path, wanted(watts=watts)).refused
    assert len(found) == refused and all("400 to 600 W" in line for line in found)


def test_a_card_that_does_not_tell_its_limits_is_left_alone(tmp_path: Path) -> None:
    words = machines.SMI.replace("575.00, 400.00, 600.00, 575.00", "[N/A], [N/A], [N/A], [N/A]")
    machine = WORKING.but(says={"nvidia-smi --query-gpu=": (0, words, "")})
    assert "does not tell" in judged(machine, tmp_path).refused[0]
    assert host.judge(host.look(str(tmp_path), machine.run, BRANCH), wanted(watts=0)).refused == []


def test_without_a_driver_the_limit_is_told_to_wait(tmp_path: Path) -> None:
    assert any("450 W" in line for line in judged(NEW, tmp_path).named)


@pytest.mark.parametrize(
    ("smi", "version", "refused"),
    [("12.0", "13.0", False), ("12.0", "12.8", True), ("12.0", "12.9", False), ("9.0", "12.8", False)],
)
def test_sm120_needs_cuda_12_9(smi: str, version: str, refused: bool, tmp_path: Path) -> None:
    machine = WORKING.but(
        says={
            "nvidia-smi --query-gpu=": (0, machines.SMI.replace(" 12.0,", f" {smi},"), ""),
            "nvidia-smi --version": (0, machines.VERSIONS.replace("13.0", version), ""),
        }
    )
    assert any("CUDA" in line for line in judged(machine, tmp_path).refused) is refused


PLUGGED = {"sys/class/drm/card1-DP-2/status": "connected\n"}
ACTIVE = {"nvidia-smi --query-gpu=": (0, machines.SMI.replace("Disabled, Enabled", "Enabled, Enabled"), "")}
DESKTOP = {"nvidia-smi pmon": (0, machines.PMON_DESKTOP, "")}
FIRST = {"sys/bus/pci/devices/0000:01:00.0/boot_vga": "1\n"}


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (WORKING.but(files=PLUGGED), "card1-DP-2"),
        (WORKING.but(says=ACTIVE), "display is active"),
        (WORKING.but(says=DESKTOP), "Xorg, gnome-shell"),
        (WORKING.but(files=FIRST), "firmware starts on it"),
    ],
    ids=["plugged", "active", "drawing", "first"],
)
def test_a_display_on_the_card_is_named(machine: Machine, words: str, tmp_path: Path) -> None:
    found = [line for line in judged(machine, tmp_path).named if line.startswith("display on the card")]
    assert words in found[0] and "into the board" in found[0] and "python3" not in found[0]
    assert host.judge(host.look(str(tmp_path), machine.run, BRANCH), wanted(display="any")).refused == []


def test_a_display_on_the_board_is_not_named(tmp_path: Path) -> None:
    assert not [line for line in judged(WORKING, tmp_path).named if "display" in line]


def test_any_display_is_fine_when_asked(tmp_path: Path) -> None:
    verdict = judged(WORKING.but(files=PLUGGED), tmp_path, wanted(display="any"))
    assert not [line for line in verdict.named if "display" in line]


def test_a_machine_with_one_card_is_told_otherwise(tmp_path: Path) -> None:
    files = {path: text for path, text in WORKING.files.items() if "7c:00.0" not in path and "card0" not in path}
    links = {path: to for path, to in WORKING.links.items() if "7c:00.0" not in path and "card0" not in path}
    verdict = judged(Machine({**files, **PLUGGED}, links, WORKING.says), tmp_path)
    assert "host_gpu_display to any" in next(line for line in verdict.named if "display" in line)


# --- the forms


def test_apt_s_answer_is_read_with_what_is_installed() -> None:
    text = (
        "nvidia-utils-580-server:\n  Installed: 1\n  Candidate: 2\n  Version table:\n     2 500\n"
        "        500 http://security.ubuntu.com/ubuntu noble-security/restricted amd64 Packages\n *** 1 100\n"
        "        100 /var/lib/dpkg/status\nbase-files:\n  Installed: 13\n  Candidate: 13\n  Version table:\n"
        " *** 13 500\n"
        "        500 http://a/ubuntu noble/main amd64 Packages\n        100 /var/lib/dpkg/status\n"
        "gone:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n"
    )
    assert host.policies(text) == {
        "nvidia-utils-580-server": host.Policy(
            "1", "2", ("http://security.ubuntu.com/ubuntu noble-security/restricted",)
        ),
        "base-files": host.Policy("13", "13", ("http://a/ubuntu noble/main",)),
        "gone": host.Policy(None, None),
    }


def test_removed_packages_are_not_installed() -> None:
    assert host.installed(machines.KERNELS) == {
        "linux-image-6.14.0-33-generic": "6.14.0-33.33~24.04.1",
        "linux-image-generic-hwe-24.04": "6.14.0-33.33~24.04.1",
    }


@pytest.mark.parametrize("words", ["", machines.SMI_SILENT, "No devices were found\n", "a, b\n"])
def test_what_is_no_card_is_none(words: str) -> None:
    assert host.smi(words) == ()


def test_the_result_is_plain(tmp_path: Path) -> None:
    found = seen(WORKING, tmp_path)
    result = host.as_result(found, host.judge(found, AUTO))
    assert result["nvml"][0]["power_watts"] == {"limit": 575.0, "least": 400.0, "most": 600.0, "default": 575.0}
    assert (result["driver"], result["answers"], result["cuda"]) == ("580.95.05", True, "13.0")
    assert result["connected"] == ["card0-HDMI-A-1"]
