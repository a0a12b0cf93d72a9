# SPDX-License-Identifier: MIT
"""Each mode's own flags start a real vLLM, and it ends in the time that its container has, also while it works."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import probes
from conftest import MODES, on_the_card, tenant
from vllm_cpu import server

RunMode = Callable[[str], Any]
#: Seconds that the role gives to a container that is told to stop, from the project it renders.
GRACE = 20
#: Until its engine is gone, whose processes are those on the card.
ENGINE_SECONDS = 10


def test_the_grace_is_the_roles(services: Any) -> None:
    assert {each.grace for each in services.values()} == {f"{GRACE}s"}


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "agent"])
def test_the_other_modes_serve(run_mode: RunMode, services: Any, mode: str) -> None:
    """Each with its own flags, its own memory, its own name."""
    name = services["example", mode].name
    with run_mode(mode) as running:
        assert probes.Probes("").ready(tenant(running.port, name)) == ""
        reply = server.ask(running.port, "/v1/chat/completions", server.question(name, 8)).body
        assert reply["usage"]["completion_tokens"] == 8 and reply["model"] == name
        ended = running.stop(GRACE)
        assert not ended.killed and ended.whole < GRACE, ended


def test_it_ends_in_its_time_while_it_works(run_mode: RunMode) -> None:
    """As a switch with on_busy=force ends it: its engine at once, nothing left after the container's grace.

    vLLM's web server may wait for its callers after its engine is gone, without an end; then Docker ends it.
    """
    with run_mode("agent") as running:
        engine, asks = tenant(running.port, "nemotron"), probes.Probes("")
        assert asks.ready(engine) == ""
        body = server.question("nemotron", 30000)
        worker = threading.Thread(target=_ask_in_vain, args=(running.port, body), daemon=True)
        worker.start()
        until = time.monotonic() + 60
        while not asks.busy(engine, on_the_card(engine)) and time.monotonic() < until:
            time.sleep(0.05)
        assert asks.busy(engine, on_the_card(engine)) == ["1 requests running"]
        ended = running.stop(GRACE)
        assert ended.engine < ENGINE_SECONDS, ended
        assert ended.whole < GRACE + ENGINE_SECONDS and server.members(running.process.pid) == []
        assert "refused" in asks.ready(engine)
        worker.join(30)
        assert not worker.is_alive(), "whoever waited for an answer is told that there is none"


def _ask_in_vain(port: int, body: Any) -> None:
    """The engine ends meanwhile: no answer, or one that was cut."""
    try:
        server.ask(port, "/v1/chat/completions", body)
    except (OSError, http.client.HTTPException):
        return
