# SPDX-License-Identifier: MIT
"""Tenants as Docker has them: what counts as running, stale and alive; what compose is told."""

from __future__ import annotations

import json
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


def test_one_that_came_back_before_this_run_is_alive(world: DockerTenants, docker: Docker, tenant: Tenant) -> None:
    """Docker once started it again, days ago; a mode that keeps it is not refused for that. One more time is."""
    docker.has("one")
    docker.has("two", restarts=3)
    assert not world.running()["engine"].stale
    assert world.alive(tenant)
    docker.listed[1].attrs["RestartCount"] = 4
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


def test_whence_a_tenant_is_asked(world: DockerTenants, docker: Docker, tenant: Tenant) -> None:
    docker.has("one", Pid=41)
    docker.has("two", Pid=42)
    docker.has("somebody-else", Pid=43)
    for each, address in zip(docker.listed, ("10.88.0.22", "10.88.0.23", "10.88.0.24"), strict=True):
        each.attrs["NetworkSettings"] = {"Networks": {"sovereign": {"IPAddress": address}}}
    assert world.namespace_of(tenant, "10.88.0.22") == "/proc/41/ns/net"
    assert world.namespace_of(tenant, "10.88.0.23") == "/proc/42/ns/net"
    assert world.namespace_of(tenant, "10.88.0.24") is None, "somebody else's"
    docker.listed[0].attrs["State"]["Pid"] = 0
    assert world.namespace_of(tenant, "10.88.0.22") is None, "it does not run"


class ImageNotFound(Exception):
    """As the SDK calls it."""


def test_what_a_project_needs_is_asked_before_it_is_started(
    world: DockerTenants, docker: Docker, compose: Compose, tenant: Tenant, tmp_path: Path
) -> None:
    here = tmp_path / "models"
    volumes = [{"type": "bind", "source": str(here)}, {"type": "volume", "source": "cache"}, {"type": "tmpfs"}]
    services = {"one": {"image": "a:1", "volumes": volumes}, "two": {"image": "b:2"}}
    compose.answer = (0, json.dumps({"services": services}), "")
    images = {"a:1"}

    def get(tag: str) -> None:
        if tag not in images:
            raise ImageNotFound(tag)

    docker.images = SimpleNamespace(get=get)  # type: ignore[attr-defined]  # the double grows
    assert world.startable(tenant) == f"{here} is not there; there is no image b:2"
    assert compose.told == [["docker", "compose", "--file", tenant.project, "config", "--format=json"]]
    here.mkdir()
    images.add("b:2")
    assert world.startable(tenant) == ""
    compose.answer = (15, "", "no such file\n")
    assert world.startable(tenant) == "no such file"
    for odd in ("", "[]", '{"services": {"one": {}}}'):
        compose.answer = (0, odd, "")
        assert "nothing that can be read" in world.startable(tenant)
    compose.answer = (0, json.dumps({"services": services}), "")

    def broken(tag: str) -> None:
        raise ConnectionError(tag)

    docker.images = SimpleNamespace(get=broken)  # type: ignore[attr-defined]  # the double grows
    with pytest.raises(SovereignError, match="it does not answer"):
        world.startable(tenant)


def test_a_docker_that_is_away_is_asked_again(docker: Docker, tenant: Tenant) -> None:
    paused: list[float] = []
    answers = [
        (1, "", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."),
        (1, "", "error during connect: EOF"),
        (0, "", ""),
    ]
    world = DockerTenants(
        Registry({"engine": tenant}, {}),
        docker,
        lambda _argv: answers.pop(0),
        lambda: NOW,
        patience=9,
        pause=paused.append,
    )
    world.stop(tenant)
    assert answers == [] and len(paused) == 2
    answers.append((1, "", "no such service"))
    with pytest.raises(SovereignError, match="no such service"):
        world.stop(tenant)
    assert len(paused) == 2, "a word against the project is said at once"
    docker.fails = ConnectionError("refused")
    with pytest.raises(SovereignError, match="it does not answer: refused"):
        world.running()
    assert len(paused) == 2 + 18, "nine seconds, by halves"
