# SPDX-License-Identifier: MIT
"""Every unit, put together with its drop-ins as on the machine, before the eyes of systemd itself.

``systemd-analyze verify`` ends with 0 for a misspelt setting, so it must also say nothing. ``systemd-analyze security``
puts a figure on what a unit could do; the largest that is accepted stands here. The systemd that judges may be older
than the machine's (255 or newer): a setting that it does not know has to be named in ``TOO_NEW``, with the reason why
the unit needs it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rendering import ROWS, UNITS, Rendered

#: Tenths of systemd's exposure level, 0 (shut) to 100 (open).
MOST_EXPOSED = 25
#: Units without the shared hardening: (limit, why). They make the walls that the others live behind, as root.
LESS_SHUT = {
    "mushishi-guard.service": (70, "loads the packet filter: CAP_NET_ADMIN in the host's own namespace"),
    "mushishi-evidence.service": (60, "reads and mends the rules of both namespaces: CAP_NET_ADMIN, CAP_SYS_ADMIN"),
    "mushishi-firewall-rollback.service": (50, "puts back UFW's files and loads its rules: writes /etc, CAP_NET_ADMIN"),
    "mushishi-plane.service": (96, "makes bridges and network namespaces: mounts, sysctl, root"),
}
#: Settings that the judging systemd may not know: {setting: why it is needed}. None so far.
TOO_NEW: dict[str, str] = {}
SETTINGS = ("example", "lab")
DISTRIBUTION = Path("/usr/lib/systemd/system")


def assemble(root: Path, setting: str, rendered: Rendered) -> dict[str, str]:
    """Write every unit and drop-in below ``root`` with the distribution's own beside them; {path: text}.

    Programs that they start get a stand-in, so that a missing file is a misspelt path and not a missing package.
    """
    assert shutil.which("systemd-analyze"), "systemd-analyze is missing: install systemd"
    shutil.copytree(DISTRIBUTION, root / DISTRIBUTION.relative_to("/"), symlinks=True)
    (root / "lib").symlink_to("usr/lib")
    made: dict[str, str] = {}
    for path, text in units_of(setting, rendered):
        made[path] = text
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        for program in re.findall(r"^Exec\w+=[-@:+!]*(/\S+)", text, re.MULTILINE):
            stand_in(root, program)
    return made


def units_of(setting: str, rendered: Rendered) -> list[tuple[str, str]]:
    """(path, text) of each unit and drop-in under a setting."""
    found = []
    for row in ROWS:
        result = rendered[row.role, row.template, setting]
        assert not isinstance(result, str), result
        found += [(path, text) for path, text in result if path.startswith(UNITS)]
    return found


def stand_in(root: Path, program: str) -> None:
    path = root / program.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def analyze(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = ["systemd-analyze", words[0], f"--root={root}", *words[1:]]
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def verify(root: Path, unit: str) -> str:
    """What systemd says of a unit, without the settings that are excused; empty is good."""
    done = analyze(root, "verify", "--man=no", "--recursive-errors=yes", f"{UNITS}/{unit}")
    lines = [line for line in done.stdout.splitlines() if not any(f"'{name}'" in line for name in TOO_NEW)]
    return "\n".join(lines) or ("" if done.returncode == 0 else f"ended with {done.returncode}")


def exposure(root: Path, unit: str) -> int:
    """Tenths of the exposure level that systemd computes."""
    done = analyze(root, "security", "--no-pager", "--offline=true", unit)
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout
    return round(float(found[1]) * 10)


@pytest.fixture(scope="module", params=SETTINGS)
def machine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, rendered: Rendered
) -> tuple[Path, list[str]]:
    """A root folder with all units of a setting, and the units' names."""
    root = tmp_path_factory.mktemp("root")
    made = assemble(root, request.param, rendered)
    return root, sorted(Path(path).name for path in made if path.endswith(".service"))


def test_all_units_are_there(machine: tuple[Path, list[str]]) -> None:
    expected = [row for row in ROWS if row.template.endswith(".service.j2")]
    assert len(machine[1]) >= len(expected) > 8
    assert set(LESS_SHUT) <= set(machine[1])


def test_systemd_has_nothing_to_say(machine: tuple[Path, list[str]]) -> None:
    root, units = machine
    assert {unit: said for unit in units if (said := verify(root, unit))} == {}


def test_no_unit_is_more_exposed_than_stated(machine: tuple[Path, list[str]]) -> None:
    root, units = machine
    seen = {unit: exposure(root, unit) for unit in units}
    assert {unit: level for unit, level in seen.items() if level > LESS_SHUT.get(unit, (MOST_EXPOSED, ""))[0]} == {}


def test_an_exception_is_needed(machine: tuple[Path, list[str]]) -> None:
    root, _units = machine
    assert [unit for unit in LESS_SHUT if exposure(root, unit) <= MOST_EXPOSED] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("NoNewPrivileges=yes", "NoNewwPrivileges=yes"), "Unknown key"),
        (("Type=exec", "Type=often"), "Failed to parse"),
        (("ExecStart=/", "ExecStart=/not-there/"), "not executable"),
        (("[Install]", "[Instal]"), "Unknown section"),
    ],
)
def test_a_fault_in_a_unit_or_its_drop_in_is_found(
    tmp_path: Path, change: tuple[str, str], words: str, rendered: Rendered
) -> None:
    made = assemble(tmp_path, "example", rendered)
    unit = "mushishi-sovereign-admission.service"
    for path in (f"{UNITS}/{unit}", f"{UNITS}/mushishi-sovereign-.service.d/10-hardening.conf"):
        (tmp_path / path.lstrip("/")).write_text(made[path].replace(*change))
    assert words in verify(tmp_path, unit)


def test_a_unit_without_its_hardening_is_found(tmp_path: Path, rendered: Rendered) -> None:
    assemble(tmp_path, "example", rendered)
    (tmp_path / f"{UNITS}/mushishi-sovereign-.service.d/10-hardening.conf".lstrip("/")).unlink()
    assert exposure(tmp_path, "mushishi-sovereign-admission.service") > MOST_EXPOSED


#: What makes the plane or stands at its edge; every other unit lives in it.
NOT_IN_THE_PLANE = {"mushishi-plane.service", "mushishi-guard.service"}


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_lives_in_the_plane_comes_back_with_it(setting: str, rendered: Rendered) -> None:
    """``BindsTo=`` takes a unit down with the plane; ``WantedBy=`` is what brings it up again."""
    units = {Path(path).name: text for path, text in units_of(setting, rendered) if path.endswith(".service")}
    bound = {name for name, text in units.items() if "\nBindsTo=mushishi-plane.service\n" in text}
    wish = re.compile(r"^WantedBy=.*\bmushishi-plane\.service", re.MULTILINE)
    wanted = {name for name, text in units.items() if wish.search(text)}
    inside = {name for name, text in units.items() if "NetworkNamespacePath=" in text} - NOT_IN_THE_PLANE
    assert len(inside) > 4 and inside == wanted, inside ^ wanted
    assert bound <= wanted, bound - wanted
