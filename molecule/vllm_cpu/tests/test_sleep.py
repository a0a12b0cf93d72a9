# SPDX-License-Identifier: MIT
"""Sleep on a real vLLM that cannot: it says 200, it says that it sleeps, it frees nothing. We must not believe it.

A processor has no memory of a card to give back, which makes it the planted fault of warm.py for real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import probes, sleeper, warm
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Memory, Process, Tenant
from conftest import tenant
from vllm_cpu import server


class Machine:
    """The world of a switch, as far as a proof asks it: one engine, for real, and its resident memory."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start, self._stack = start, ExitStack()
        self.running: server.Server = self._stack.enter_context(start())
        self.starts = 1

    def processes(self) -> Sequence[Process]:
        pids = server.members(self.running.process.pid)
        return [Process(pid, server.resident_mib(pid), "vllm", "root", "vllm-agent") for pid in pids]

    def memory(self) -> Memory:
        return Memory(1 << 20, sum(process.mib for process in self.processes()))

    def alive(self, _tenant: Tenant) -> bool:
        return self.running.process.poll() is None

    def ready(self, each: Tenant) -> str:
        return probes.Probes("").ready(each)

    def logs(self, _tenant: Tenant) -> str:
        return self.running.tail()

    def stop(self, _tenant: Tenant) -> None:
        self.running.stop(60)

    def start(self, _tenant: Tenant) -> None:
        self.starts += 1
        self.running = self._stack.enter_context(self._start())

    def now(self) -> float:
        return server.time.monotonic()

    def sleep(self, seconds: float) -> None:
        server.time.sleep(seconds)

    def end(self) -> None:
        self._stack.close()


@pytest.fixture
def machine(run_mode: Callable[..., Any]) -> Iterator[tuple[Machine, Tenant]]:
    """With the development routes, which sleep needs and which no role switches on.

    The dense model: a prompt of more than a block ends the engine of the hybrid one on a processor (README.md).
    """
    port = server.free_port()
    made = Machine(lambda: run_mode("coding", {"VLLM_SERVER_DEV_MODE": "1"}, port))
    try:
        yield made, tenant(port, "coder")
    finally:
        made.end()


def test_an_engine_that_only_says_so_is_stopped_and_started(
    machine: tuple[Machine, Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, engine = machine
    monkeypatch.setattr(warm, "SLEEP_SECONDS", 5.0)
    updates: list[Sequence[str]] = []
    ours = sleeper.VllmSleeper("", lambda argv: (updates.append(argv), (0, "", ""))[1])
    # What the proof compares is there, and repeats.
    assert ours.says(engine) == ours.says(engine) and ours.asleep(engine) is False
    proof = warm.prove(world, ours, engine, 1, "x")  # type: ignore[arg-type]  # a world of its own
    assert proof.doubt.startswith("it says that it sleeps and holds "), proof.doubt
    assert updates[0][:3] == ["docker", "update", "--restart=no"]
    # Made anew, and it serves: no worse than without the option.
    assert world.starts == 2 and world.ready(engine) == ""
    assert ours.asleep(engine) is False


def test_without_the_development_routes_there_is_no_sleep(agent: server.Server) -> None:
    """As the role runs it: none of the routes that would let anybody on the LAN steer the engine is there."""
    for path in ("/sleep", "/wake_up", "/collective_rpc", "/reset_prefix_cache", "/pause", "/update_weights"):
        assert server.ask(agent.port, path, {}).status == 404, path
    for path in ("/is_sleeping", "/server_info"):
        assert server.ask(agent.port, path).status == 404, path
    ours = sleeper.VllmSleeper("", lambda argv: (0, "", ""))
    with pytest.raises(warm.Doubt, match="VLLM_SERVER_DEV_MODE"):
        ours.asleep(tenant(agent.port, "nemotron"))
