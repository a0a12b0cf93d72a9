# SPDX-License-Identifier: MIT
"""Tenants as Docker has them: what counts as running, stale and alive; what compose is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import docker_tenants
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.docker_tenants import DockerTenants
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Registry, Tenant

HASH, OTHER = "a" * 64, "b" * 64
NOW = 1_790_000_100.0
SINCE = "2026-09-21T14:13:20.123456789Z"


class Docker:
    """The SDK's client, as far as it is asked."""

    def __init__(self) -> None:
        self.listed: list[Any] = []
        self.fails: Exception | None = None
        self.containers = SimpleNamespace(list=self.list, get=self.get)

    def has(self, name: str, *, label: str | None = HASH, restarts: int = 0, **state: Any) -> None:
        attributes = {
            "Id": f"{len(self.listed):064d}",
            "RestartCount": restarts,
            "State": {"Running": True, "Restarting": False, "Paused": False, "StartedAt": SINCE, **state},
            "Config": {"Labels": {"mushishi.project": label} if label else None},
        }
        said = lambda tail: f"last {tail} lines".encode()  # noqa: E731 - one word of the SDK
        self.listed.append(SimpleNamespace(name=name, attrs=attributes, logs=said))

    def list(self, **words: Any) -> list[Any]:
        assert words == {"all": True, "ignore_removed": True}
        if self.fails:
            raise self.fails
        return self.listed

    def get(self, name: str) -> Any:
        return next(each for each in self.listed if each.name == name)


class Compose:
    """Runs programs; remembers them."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.answer = (0, "", "")

    def __call__(self, argv: Sequence[str]) -> tuple[int, str, str]:
        self.told.append(list(argv))
        return self.answer


@pytest.fixture
def tenant(tmp_path: Path) -> Tenant:
    (tmp_path / "compose.yml").write_text(f'services:\n  engine:\n    labels:\n      mushishi.project: "{HASH}"\n')
    ready = {"kind": "completion", "url": "http://10.88.0.10:8000", "model": "x"}
    return Tenant("engine", str(tmp_path / "compose.yml"), ("one", "two"), 100, ready, stop_seconds=7)


@pytest.fixture
def docker() -> Docker:
    return Docker()


@pytest.fixture
def compose() -> Compose:
    return Compose()


@pytest.fixture
def world(tenant: Tenant, docker: Docker, compose: Compose) -> DockerTenants:
    return DockerTenants(Registry({"engine": tenant}, {}), docker, compose, lambda: NOW)


def test_nothing_of_ours(world: DockerTenants, docker: Docker) -> None:
    docker.has("somebody-else")
    assert world.running() == {} and world.owners() == {}


def test_whole(world: DockerTenants, docker: Docker, tenant: Tenant) -> None:
    docker.has("one")
    docker.has("two", StartedAt="2026-09-21T16:13:50+02:00")
    assert world.running() == {"engine": docker_tenants.Running(70.0)}, "the younger one counts"
    assert world.alive(tenant)
    assert world.owners() == {each.attrs["Id"]: "engine" for each in docker.listed}


@pytest.mark.parametrize(
    "fault",
    [
        {"Running": False},
        {"Restarting": True},
        {"Paused": True},
        {"label": OTHER},
        {"label": None},
        None,
    ],
)
def test_stale(world: DockerTenants, docker: Docker, fault: dict[str, Any] | None) -> None:
    """Dead, coming back, stopped, of another text, of none, or missing."""
    docker.has("one")
    if fault is not None:
        docker.has("two", **fault)
    assert world.running()["engine"].stale


def test_one_that_dies_and_comes_back_is_dead(world: DockerTenants, docker: Docker, tenant: Tenant) -> None:
    docker.has("one")
    docker.has("two", restarts=1)
    assert not world.alive(tenant)


def test_a_project_without_a_hash(world: DockerTenants, docker: Docker, tenant: Tenant) -> None:
    Path(tenant.project).write_text("services: {}\n")
    docker.has("one", label=None)
    docker.has("two", label=None)
    assert not world.running()["engine"].stale
    Path(tenant.project).unlink()
    with pytest.raises(SovereignError, match="cannot be read"):
        world.running()


def test_what_compose_is_told(world: DockerTenants, compose: Compose, tenant: Tenant) -> None:
    world.start(tenant)
    world.stop(tenant)
    begin = ["docker", "compose", "--file", tenant.project]
    assert compose.told == [
        [*begin, "up", "--detach", "--pull=never", "--remove-orphans", "--force-recreate"],
        [*begin, "down", "--remove-orphans", "--timeout=7"],
    ]
    compose.answer = (1, "", "no such image: x\n")
    with pytest.raises(SovereignError, match=r"compose up ended with 1: no such image: x"):
        world.start(tenant)


def test_logs(world: DockerTenants, docker: Docker, tenant: Tenant) -> None:
    docker.has("one")
    assert world.logs(tenant).startswith("one: last 20 lines; two: (no log: ")


def test_docker_is_away(world: DockerTenants, docker: Docker, tenant: Tenant) -> None:
    docker.fails = ConnectionError("no such socket")
    for ask in (world.running, lambda: world.alive(tenant), world.owners):
        with pytest.raises(SovereignError, match="it does not answer: no such socket"):
            ask()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (SINCE, 1_790_000_000.0),
        ("2026-09-21T16:13:20+02:00", 1_790_000_000.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("", 0.0),
    ],
)
def test_when_it_started(text: str, seconds: float) -> None:
    assert docker_tenants.started(text) == seconds


def test_the_sdk_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_tenants, "docker", None)
    with pytest.raises(SovereignError, match="library docker"):
        docker_tenants.connect()
