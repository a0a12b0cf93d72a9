# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""What a tenant's compose project may have, and what would be a way around the plane (docs/planes.md, P5). Pure.

Compose learns new words with each release, some of which are ways out; a word that is not known here is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

#: Folders of the host that no tenant may see, nor anything below them; and nothing above them.
_FORBIDDEN = ("/run", "/var/run", "/proc", "/sys", "/dev", "/etc", "/root", "/boot", "/var/lib/docker")
#: Kernel namespaces of the host, by the key that would share one.
_SHARED = ("pid", "ipc", "uts", "userns_mode", "cgroup")
#: Words of a service that are judged below, and those with which nothing can be reached.
_JUDGED = frozenset(
    (*_SHARED, "privileged", "network_mode", "networks", "cap_add", "cap_drop", "security_opt", "ports", "extra_hosts",
     "volumes", "volumes_from", "devices", "logging")
)  # fmt: skip
_HARMLESS = frozenset(
    ("container_name", "hostname", "image", "labels", "pull_policy", "platform", "environment", "command", "entrypoint",
     "working_dir", "user", "init", "tty", "stdin_open", "restart", "healthcheck", "depends_on", "stop_signal",
     "stop_grace_period", "dns", "expose", "sysctls", "ulimits", "read_only", "tmpfs", "shm_size", "mem_limit",
     "mem_reservation", "memswap_limit", "cpus", "cpuset", "cpu_shares", "pids_limit", "oom_score_adj", "cgroup_parent")
)  # fmt: skip
_TOP = ("name", "version", "services", "networks", "volumes", "include")
#: A device as CDI calls it, such as nvidia.com/gpu=all: what it stands for is described below /etc/cdi, by root.
_CDI = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9_-]*=[A-Za-z0-9][A-Za-z0-9._:-]*")
#: Where Docker keeps a container's words on this machine; any other driver sends them away.
_LOGS = ("json-file", "local", "none")
#: A dollar sign that compose would put something else in the place of.
_INSERTED = re.compile(r"(?<!\$)(?:\$\$)*\$(?!\$)")


def _source(volume: Any) -> str | None:
    """The path on the host behind a volume; None for a named or temporary one."""
    if isinstance(volume, Mapping):
        return None if volume.get("type", "volume") in ("volume", "tmpfs") else str(volume.get("source", ""))
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
    for device in service.get("devices") or []:
        named = device.get("source") if isinstance(device, Mapping) else device
        if not _CDI.fullmatch(str(named)):
            yield f"service {name} has the device {named}, which is no name of CDI's (nvidia.com/gpu=all)"
    if (driver := (service.get("logging") or {}).get("driver", _LOGS[0])) not in _LOGS:
        yield f"service {name} logs by {driver}, not by {' or '.join(_LOGS)}"
    for key in _unknown(service, _JUDGED | _HARMLESS):
        yield f"service {name} has {key}, which no tenant may have"


def _unknown(given: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """Words that are not known; what begins with x- is nobody's."""
    return sorted(str(key) for key in given if key not in known and not str(key).startswith("x-"))


def _inserted(value: Any) -> Iterable[str]:
    """Texts that would be others when compose has put its variables in."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, str):
        if _INSERTED.search(value):
            yield value
    elif isinstance(value, list):
        for each in value:
            yield from _inserted(each)


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
    # A volume of one's own lies where Docker keeps them; options could lay any folder of the host below it.
    for name, settings in sorted((project.get("volumes") or {}).items()):
        if keys := _unknown(settings or {}, ("labels",)):
            found.append(f"volume {name} has {', '.join(keys)}, which no tenant's may have")
    found += [f"the project has {key}, which no tenant's may have" for key in _unknown(project, _TOP)]
    filled = "would be filled in by compose; write what is meant, or $$ for a $"
    found += [f"{text!r} {filled}" for text in _inserted(project)]
    return found
