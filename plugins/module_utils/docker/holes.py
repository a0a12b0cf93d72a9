# SPDX-License-Identifier: MIT
"""Published holes of Docker, runc and containerd that matter to the planes: a way out, a way in, a way to the host.
Pure.

A package of Docker's own repository is what its number says. A distribution mends holes without a new number, so of
such a package only those are refused that the promise of the planes stands on; the others are named, with the page to
look at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Origin = Literal["docker", "distribution"]
Version = tuple[int, int, int]

#: The oldest that the roles are written for and tested with.
OLDEST: Version = (26, 0, 0)
#: ``firewall-backend`` is a key of the daemon's settings from here on; an older daemon does not start with it.
BACKEND_KEY: Version = (29, 0, 0)
#: Published IPv6 ports and IPv6 networks are filtered without ``experimental`` from here on.
IPV6_FILTERED: Version = (27, 0, 0)


@dataclass(frozen=True)
class Hole:
    """One published hole.

    Args:
        name: its number.
        component: ``docker``, ``runc`` or ``containerd``.
        affected: (first, first mended) pairs of versions.
        means: what somebody could do, for the reader of an error.
        everywhere: refused in a distribution's package, too. Otherwise that is named only.
        refused: whether it is ever refused; not when its condition never holds on a machine of ours.
        source: where it is written.
    """

    name: str
    component: Literal["docker", "runc", "containerd"]
    affected: tuple[tuple[str, str], ...]
    means: str
    source: str
    everywhere: bool = False
    refused: bool = True


_MOBY = "https://github.com/moby/moby/security/advisories/"
_RUNC = "https://github.com/opencontainers/runc/security/advisories/"

HOLES: tuple[Hole, ...] = (
    Hole(
        "CVE-2024-29018",
        "docker",
        (("0", "23.0.11"), ("24.0.0", "25.0.5")),
        "a container on an internal network can ask the host's resolvers, and so send anything out",
        f"{_MOBY}GHSA-mq39-4gv4-mvpx",
        everywhere=True,
    ),
    Hole(
        "CVE-2024-32473",
        "docker",
        (("26.0.0", "26.0.2"),),
        "interfaces of networks without IPv6 have IPv6 nevertheless",
        f"{_MOBY}GHSA-x84c-p2g9-rqv9",
        everywhere=True,
    ),
    Hole(
        "CVE-2025-54388",
        "docker",
        (("28.0.0", "28.3.3"),),
        "after a reload of firewalld a neighbour reaches ports that are published on loopback",
        f"{_MOBY}GHSA-x4rx-4gw3-53p4",
    ),
    Hole(
        "CVE-2025-54410",
        "docker",
        (("0", "25.0.13"), ("26.0.0", "28.0.0")),
        "after a reload of firewalld containers of different bridges reach each other",
        f"{_MOBY}GHSA-4vq8-7jfc-9cvp",
        # firewalld is none of ours, and the networks of the sovereign plane are internal, which it does not touch.
        refused=False,
    ),
    Hole(
        "CVE-2024-41110",
        "docker",
        (("0", "23.0.15"), ("24.0.0", "25.0.6"), ("26.0.0", "26.1.5"), ("27.0.0", "27.1.1")),
        "a request goes around an authorization plugin; without such a plugin it means nothing",
        f"{_MOBY}GHSA-v23v-6jw2-98fq",
        refused=False,
    ),
    Hole(
        "CVE-2026-34040",
        "docker",
        (("0", "29.3.1"),),
        "a request goes around an authorization plugin; without such a plugin it means nothing",
        f"{_MOBY}GHSA-x744-4wpc-v9h2",
        refused=False,
    ),
    Hole(
        "CVE-2026-41567, CVE-2026-41568 and CVE-2026-42306",
        "docker",
        (("0", "29.5.1"),),
        "a container that somebody uses `docker cp` on becomes root of the host",
        f"{_MOBY}GHSA-x86f-5xw2-fm2r",
    ),
    Hole(
        "CVE-2024-21626",
        "runc",
        (("0", "1.1.12"),),
        "a container gets out by a file descriptor that was left open",
        f"{_RUNC}GHSA-xr7r-f8xq-vfvv",
    ),
    Hole(
        "CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881",
        "runc",
        (("0", "1.2.8"), ("1.3.0", "1.3.3")),
        "a container writes to files of /proc that are masked, and gets out",
        "https://github.com/opencontainers/runc/releases/tag/v1.3.3",
    ),
)


def version_of(text: str) -> Version | None:
    """The first three numbers in a program's answer or a package's version; None when there are none."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def spelled(version: Version) -> str:
    """As people write it."""
    return ".".join(map(str, version))


def _number(text: str) -> Version:
    return version_of(text) or (int(text), 0, 0)


def has(hole: Hole, version: Version) -> bool:
    """Whether a version has a hole."""
    return any(_number(first) <= version < _number(mended) for first, mended in hole.affected)


def mended_in(hole: Hole, version: Version) -> str:
    """The first version without the hole that is newer than this one."""
    return next(mended for first, mended in hole.affected if _number(first) <= version < _number(mended))


def judge(
    versions: Mapping[str, Version], origin: Origin, remedy: str, holes: Sequence[Hole] = HOLES
) -> dict[str, list[str]]:
    """Sentences about what is ``refused`` and what is only ``named``.

    Args:
        versions: component to version, for those that are installed.
        origin: whose packages they are.
        remedy: what to do, as an order; for what is refused.
        holes: the table.
    """
    found: dict[str, list[str]] = {"refused": [], "named": []}
    docker = versions.get("docker")
    if docker is not None and docker < OLDEST:
        found["refused"].append(
            f"Docker is {spelled(docker)}; the roles are written for {spelled(OLDEST)} and newer. {remedy}"
        )
    for hole in holes:
        version = versions.get(hole.component)
        if version is None or not has(hole, version):
            continue
        is_ = f"{hole.component} is {spelled(version)}, which has {hole.name}: {hole.means} ({hole.source})."
        mended = f"Mended in {mended_in(hole, version)}."
        if hole.refused and (hole.everywhere or origin == "docker"):
            found["refused"].append(f"{is_} {mended} {remedy}")
        elif origin == "distribution":
            found["named"].append(
                f"{is_} {mended} A distribution mends without a new number: its security tracker says whether it has."
            )
        else:
            found["named"].append(f"{is_} {mended}")
    return found
