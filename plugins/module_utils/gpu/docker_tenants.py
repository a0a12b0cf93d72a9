# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""Tenants as Docker has them: looked at by the docker SDK, brought up and down by ``docker compose``.

Only containers whose names the registry holds are looked at, and only projects that it names are touched. A project's
text has the hash of itself in the label ``mushishi.project`` of its containers (roles/vllm): one that was made from
another text is stale.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Running
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Registry, Tenant

if TYPE_CHECKING:
    IMPORT_ERROR: ImportError | None
    docker: Any
else:
    try:
        import docker

        IMPORT_ERROR = None
    except ImportError as exc:
        docker, IMPORT_ERROR = None, exc

# Runs a program: argument list; exit status, standard output and standard error out.
Runner = Callable[[Sequence[str]], "tuple[int, str, str]"]
Answer = TypeVar("Answer")
LABEL = "mushishi.project"
_IN_TEXT = re.compile(rf'^\s*{re.escape(LABEL)}:\s*"?([0-9a-f]{{64}})"?\s*$', re.MULTILINE)
#: A Docker that is restarted comes back in seconds; nothing is given up meanwhile.
PATIENCE = 60.0
_PAUSE = 0.5
#: Docker is away; or what a run that was killed had begun is not over.
_AWAY = re.compile(
    r"cannot connect to the docker daemon|error during connect|connection (refused|reset)|unexpected eof"
    r"|already in progress|marked for removal|no such container",
    re.IGNORECASE,
)
_LOG_LINES = 20
_LOG_CHARACTERS = 3000


def started(text: str) -> float:
    """Docker's time of a start (RFC 3339 with nanoseconds) as Unix time; 0 for one that never was."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)$", text)
    if match is None:
        return 0.0
    when = datetime.fromisoformat(match[1] + match[2].replace("Z", "+00:00"))
    return max(0.0, when.astimezone(timezone.utc).timestamp())


def project_hash(tenant: Tenant) -> str | None:
    """What its project's text says of itself; None for one that says nothing.

    Raises:
        SovereignError: there is no such file.
    """
    try:
        with open(tenant.project, encoding="utf-8") as stream:
            found = _IN_TEXT.search(stream.read())
    except OSError as error:
        raise SovereignError(
            f"tenant {tenant.name}", f"its project {tenant.project} cannot be read ({error.strerror})", "Run site.yml."
        ) from None
    return found.group(1) if found else None


class DockerTenants:
    """The part of a switch's world that Docker has."""

    def __init__(
        self,
        registry: Registry,
        client: Any,
        run: Runner,
        now: Callable[[], float],
        *,
        patience: float = 0.0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """``now``: Unix time; ``patience``: seconds in which a Docker that is away may come back."""
        self._registry, self._client, self._run, self._time = registry, client, run, now
        self._patience, self._pause = patience, pause
        self._owner = {name: tenant.name for tenant in registry.tenants.values() for name in tenant.containers}
        #: Number of a container → how often Docker had started it again when the tenants were last looked at.
        self._restarts: dict[str, int] = {}

    def _patiently(self, ask: Callable[[], Answer], away: Callable[[Answer], bool] = lambda _answer: False) -> Answer:
        """What Docker answers, asked again for a while when it is away. ``away``: whether an answer says so."""
        left = self._patience
        while True:
            try:
                answer = ask()
                if left <= 0 or not away(answer):
                    return answer
            except Exception as error:  # noqa: BLE001 - the SDK raises its own and those of requests
                if left <= 0:
                    raise self._silent(error) from None
            self._pause(_PAUSE)
            left -= _PAUSE

    def _containers(self) -> dict[str, list[Mapping[str, Any]]]:
        """Tenant → what Docker says of each of its containers, running or not."""

        def shown() -> list[tuple[str, Mapping[str, Any]]]:
            # One that goes away between the list and the look is no error.
            listed = self._client.containers.list(all=True, ignore_removed=True)
            return [(container.name, container.attrs) for container in listed if container.name in self._owner]

        found: dict[str, list[Mapping[str, Any]]] = {}
        for name, attributes in self._patiently(shown):
            found.setdefault(self._owner[name], []).append(attributes)
        return found

    @staticmethod
    def _silent(error: Exception) -> SovereignError:
        return SovereignError("Docker", f"it does not answer: {error}", "Look at systemctl status docker.")

    def running(self) -> Mapping[str, Running]:
        """Tenants that have a container; stale when one is missing, dead, restarts, or is of another project."""
        found = {}
        for name, containers in self._containers().items():
            tenant = self._registry.tenants[name]
            wanted = project_hash(tenant)
            states = [each.get("State", {}) for each in containers]
            self._restarts |= {str(each.get("Id")): int(each.get("RestartCount") or 0) for each in containers}
            labels = {(each.get("Config", {}).get("Labels") or {}).get(LABEL) for each in containers}
            whole = len(containers) == len(tenant.containers) and all(
                state.get("Running") and not state.get("Restarting") and not state.get("Paused") for state in states
            )
            age = self._time() - max((started(str(state.get("StartedAt", ""))) for state in states), default=0.0)
            found[name] = Running(age, not whole or labels != {wanted})
        return found

    def alive(self, tenant: Tenant) -> bool:
        """Whether all its containers run and none was started again by Docker: one that dies and comes back is dead.

        What happened to one that was there before does not count; it may have had a bad day.
        """
        containers = self._containers().get(tenant.name, [])
        return len(containers) == len(tenant.containers) and all(
            each["State"].get("Running")
            and not each["State"].get("Restarting")
            and int(each.get("RestartCount") or 0) == self._restarts.get(str(each.get("Id")), 0)
            for each in containers
        )

    def owners(self) -> dict[str, str]:
        """Number of a container → the tenant whose it is."""
        return {str(each.get("Id")): name for name, containers in self._containers().items() for each in containers}

    def namespace_of(self, tenant: Tenant, address: str) -> str | None:
        """The network namespace of its container that has an address on the LAN; None when none runs with it."""
        for each in self._containers().get(tenant.name, []):
            networks = ((each.get("NetworkSettings") or {}).get("Networks") or {}).values()
            pid = int(each.get("State", {}).get("Pid") or 0)
            if pid and any((network or {}).get("IPAddress") == address for network in networks):
                return f"/proc/{pid}/ns/net"
        return None

    def logs(self, tenant: Tenant) -> str:
        """The last lines of each of its containers, the newest last."""
        told = []
        for name in tenant.containers:
            try:
                text = self._client.containers.get(name).logs(tail=_LOG_LINES).decode("utf-8", "replace")
            except Exception as error:  # noqa: BLE001 - a log that cannot be had must not hide what went wrong
                text = f"(no log: {error})"
            told.append(f"{name}: {text.strip()[-_LOG_CHARACTERS:] or '(it said nothing)'}")
        return "; ".join(told)

    def startable(self, tenant: Tenant) -> str:
        """Empty when what its project needs is on the machine: its images, and the files and folders that it is shown.

        Docker would find out by itself, but only after the others were stopped.
        """
        status, out, err = self._compose_run(tenant, "config", "--format=json")
        if status != 0:
            return " ".join((err or out).split())[-_LOG_CHARACTERS:]
        try:
            services = json.loads(out)["services"].values()
            images = sorted({service["image"] for service in services})
            shown = sorted(
                volume["source"]
                for service in services
                for volume in service.get("volumes") or []
                if volume.get("type") == "bind"
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return f"docker compose config gives nothing that can be read ({error!r})"
        missing = [f"{path} is not there" for path in shown if not os.path.exists(path)]
        there = self._patiently(lambda: {tag for tag in images if self._has_image(tag)})
        return "; ".join([*missing, *(f"there is no image {tag}" for tag in images if tag not in there)])

    def _has_image(self, tag: str) -> bool:
        try:
            self._client.images.get(tag)
        except Exception as error:
            # docker.errors.ImageNotFound, whose name is enough: the SDK need not be here to read this file.
            if type(error).__name__ == "ImageNotFound":
                return False
            raise
        return True

    def start(self, tenant: Tenant) -> None:
        """Bring its project up, in the background, with what is on the machine.

        Raises:
            SovereignError: compose says no; its words are told.
        """
        self._compose(tenant, "up", "--detach", "--pull=never", "--remove-orphans", "--force-recreate")

    def stop(self, tenant: Tenant) -> None:
        """Take its project down; containers that are not gone in their time are killed.

        Raises:
            SovereignError: compose says no.
        """
        self._compose(tenant, "down", "--remove-orphans", f"--timeout={tenant.stop_seconds:.0f}")

    def _compose(self, tenant: Tenant, *words: str) -> None:
        status, out, err = self._compose_run(tenant, *words)
        if status != 0:
            told = " ".join((err or out).split())[-_LOG_CHARACTERS:]
            raise SovereignError(
                f"tenant {tenant.name}",
                f"docker compose {words[0]} ended with {status}: {told}",
                f"Try it: docker compose --file {tenant.project} {words[0]}.",
            )

    def _compose_run(self, tenant: Tenant, *words: str) -> tuple[int, str, str]:
        argv = ["docker", "compose", "--file", tenant.project, *words]
        return self._patiently(
            lambda: self._run(argv), lambda answer: answer[0] != 0 and bool(_AWAY.search(answer[1] + answer[2]))
        )


def connect() -> Any:
    """A client of the machine's own Docker.

    Raises:
        SovereignError: the SDK is missing, or Docker does not answer.
    """
    if docker is None:
        raise SovereignError("library docker", f"it is missing ({IMPORT_ERROR})", "Install the docker SDK for Python.")
    try:
        client = docker.DockerClient(base_url="unix:///var/run/docker.sock", timeout=120)
        client.ping()
    except Exception as error:  # noqa: BLE001 - the SDK raises its own and those of requests
        raise DockerTenants._silent(error) from None
    return client
