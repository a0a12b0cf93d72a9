# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""What a tenant's compose project may not have (docs/planes.md, P5): each would be a way around the plane. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: Folders of the host that no tenant may see, nor anything below them; and nothing above them.
_FORBIDDEN = ("/run", "/var/run", "/proc", "/sys", "/dev", "/etc", "/root", "/boot", "/var/lib/docker")
#: Kernel namespaces of the host, by the key that would share one.
_SHARED = ("pid", "ipc", "uts", "userns_mode", "cgroup")


def _source(volume: Any) -> str | None:
    """The path on the host behind a volume; None for a named or temporary one."""
    if isinstance(volume, Mapping):
        return str(volume.get("source", "")) if volume.get("type", "volume") == "bind" else None
    source = str(volume).split(":", 1)[0]
    return source if source.startswith(("/", ".", "~")) else None


def _reaches(source: str) -> str | None:
    """The forbidden folder that a path of the host is, is in, or holds."""
    path = "/" + "/".join(part for part in source.split("/") if part not in ("", "."))
    if not source.startswith("/") or ".." in source.split("/"):
        return "a path that is not absolute"
    for folder in _FORBIDDEN:
        if path == folder or path.startswith(f"{folder}/") or folder.startswith(f"{path.rstrip('/')}/"):
            return folder
    return None


def _of_service(name: str, service: Mapping[str, Any], network: str) -> Iterable[str]:
    if service.get("privileged"):
        yield f"service {name} is privileged"
    if service.get("network_mode"):
        yield f"service {name} has network_mode {service['network_mode']}"
    networks = service.get("networks") or []
    names = sorted(networks)
    if names != [network]:
        yield f"service {name} is on the networks {', '.join(names) or 'default'}, not on {network} alone"
    for key in _SHARED:
        value = str(service.get(key) or "")
        if value and value != "private":
            yield f"service {name} has {key}: {value}"
    if [str(word).upper() for word in service.get("cap_drop") or []] != ["ALL"]:
        yield f"service {name} does not drop all capabilities"
    if added := service.get("cap_add"):
        yield f"service {name} adds capabilities: {', '.join(map(str, added))}"
    if not any("no-new-privileges" in str(word) for word in service.get("security_opt") or []):
        yield f"service {name} may gain privileges (no security_opt no-new-privileges:true)"
    options = [str(word) for word in service.get("security_opt") or []]
    if any("unconfined" in word or word.endswith(("=disable", ":disable")) for word in options):
        yield f"service {name} takes a confinement away: {', '.join(options)}"
    if service.get("ports"):
        yield f"service {name} publishes ports"
    if service.get("extra_hosts"):
        yield f"service {name} has extra_hosts"
    for volume in service.get("volumes") or []:
        source = _source(volume)
        if source is not None and (folder := _reaches(source)):
            yield f"service {name} sees {source} of the host ({folder})"
    if service.get("volumes_from"):
        yield f"service {name} takes the volumes of others"


def problems(project: Mapping[str, Any], *, network: str = "sovereign") -> list[str]:
    """Why a compose project may not be a tenant, one sentence each; none when it may."""
    services = project.get("services")
    if not isinstance(services, Mapping) or not services:
        return ["the project has no service"]
    found = [what for name, service in sorted(services.items()) for what in _of_service(name, service or {}, network)]
    for name, settings in sorted((project.get("networks") or {}).items()):
        if not (settings or {}).get("external") or (settings or {}).get("name", name) != network:
            found.append(f"network {name} is not the external network {network}")
    if project.get("include"):
        found.append("the project includes other files")
    return found
