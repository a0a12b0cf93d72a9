# SPDX-License-Identifier: MIT
"""Whose Docker it is or shall be, what is to be installed in which version, and what is held. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._host import parse_os_release

from . import holes

#: The one system that Docker's packages are pinned for.
PINNED_FOR = ("ubuntu", "noble")


@dataclass
class Plan:
    """What is to be done about packages.

    Args:
        origin: whose packages they are or will be.
        ask_index: whether it depends on Docker's repository being reached, which nobody has asked yet.
        install: words for apt, with exact versions where there is a pin.
        hold: packages to be held that are not yet.
        own_source: whether our source of packages is needed and nobody else's leads there.
        remedy: what to do about a hole.
        refused: sentences.
    """

    origin: holes.Origin
    ask_index: bool = False
    install: list[str] = field(default_factory=list)
    hold: list[str] = field(default_factory=list)
    own_source: bool = False
    remedy: str = ""
    refused: list[str] = field(default_factory=list)


def installed(answer: str) -> dict[str, str]:
    """Package to version, from ``dpkg-query`` with status, name and version a line. Half-installed ones are out."""
    found = {}
    for line in answer.splitlines():
        words = line.split()
        # "ii" is installed, "hi" installed and held.
        if len(words) == 3 and words[0][1:2] == "i":
            found[words[1]] = words[2]
    return found


def upstream(version: str) -> holes.Version:
    """A package's version without its epoch and the distribution's part."""
    return holes.version_of(version.rpartition(":")[2]) or (0, 0, 0)


def origin_of(source: str, there: Mapping[str, str], system: tuple[str, str], reached: bool | None) -> holes.Origin:
    """Whose Docker it is; with ``auto`` what is installed stays."""
    if source in ("docker", "distribution"):
        return "docker" if source == "docker" else "distribution"
    if "docker-ce" in there:
        return "docker"
    if "docker.io" in there or system != PINNED_FOR:
        return "distribution"
    return "docker" if reached else "distribution"


def refusals(source: str, there: Mapping[str, str], system: tuple[str, str]) -> list[str]:
    """What a chosen source cannot be."""
    said = []
    if source == "docker" and system != PINNED_FOR:
        said.append(
            "docker_engine_source is docker; its packages are pinned for Ubuntu 24.04 (noble), and this is "
            f"{' '.join(system)}. Set it to distribution or auto."
        )
    other = {"docker": "docker.io", "distribution": "docker-ce"}.get(source, "")
    if other and other in there:
        said.append(
            f"docker_engine_source is {source}, and {other} {there[other]} is installed, which cannot stand beside it. "
            f"Stop what runs and remove it (apt-get remove {other}; images, volumes and containers stay on the disk), "
            "or set docker_engine_source to auto."
        )
    return said


def plan(look: Mapping[str, Any], settings: Mapping[str, Any], reached: bool | None) -> Plan:
    """What is to be done.

    Args:
        look: the result of the module ``look``, with the commands ``packages``, ``held`` and ``sources``.
        settings: ``source``, ``pins``, ``ce`` and ``distribution_packages``, ``source_path``.
        reached: whether Docker's index was reached; None when nobody asked.
    """
    said = {name: str(answer.get("stdout", "")) for name, answer in look.get("commands", {}).items()}
    release = parse_os_release(str(look.get("contents", {}).get("/etc/os-release") or ""))
    system = (release.get("ID", "unknown"), release.get("VERSION_CODENAME", "unknown"))
    there = installed(said.get("packages", ""))
    source, pins = str(settings["source"]), settings["pins"]
    origin = origin_of(source, there, system, reached)
    made = Plan(origin, refused=refusals(source, there, system))
    made.ask_index = (
        source == "auto" and reached is None and system == PINNED_FOR and not {"docker-ce", "docker.io"} & set(there)
    )
    names: Sequence[str] = (
        settings["ce"] if origin == "docker" else settings["distribution_packages"].get(system[0].capitalize(), [])
    )
    missing = [name for name in names if name not in there]
    if origin == "distribution":
        made.install = missing
        made.remedy = "Upgrade the distribution's packages (apt-get install --only-upgrade docker.io containerd runc)."
        return made
    # Where the user asks for Docker's packages, older ones come up to the pin; newer ones stay.
    old = [
        name for name in pins if source == "docker" and name in there and upstream(there[name]) < upstream(pins[name])
    ]
    wanted = [name for name in names if name in missing or name in old]
    made.install = [f"{name}={pins[name]}" if name in pins else name for name in wanted]
    made.hold = [
        name
        for name, pin in pins.items()
        if name not in said.get("held", "").split() and (name in wanted or there.get(name) == pin)
    ]
    strangers = [path for path in said.get("sources", "").splitlines() if path != settings["source_path"]]
    made.own_source = bool(wanted) and not strangers
    made.remedy = (
        f"Set docker_engine_source to docker, which installs {spelled_pin(pins)}."
        if source == "auto"
        else f"Install {spelled_pin(pins)} or newer."
    )
    return made


def spelled_pin(pins: Mapping[str, str]) -> str:
    """Docker's pinned version for a sentence."""
    return f"Docker {holes.spelled(upstream(pins['docker-ce']))} from Docker's repository"


def expected(made: Plan, pins: Mapping[str, str]) -> dict[str, holes.Version]:
    """Components whose version this run brings about, with that version."""
    names = {"docker-ce": "docker", "containerd.io": "containerd"}
    wanted = {word.partition("=")[0] for word in made.install} if made.origin == "docker" else set()
    return {names[name]: upstream(pins[name]) for name in names if name in wanted}
