# SPDX-License-Identifier: MIT
"""What the ingress passes on, seen from behind it: the machine's own Caddy and settings in front of a recorder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from ingress_probe import EVENTS, PAUSE, SECRET


@pytest.fixture(scope="module", params=["sovereign", "hybrid"])
def seen(request: pytest.FixtureRequest, raw_lab: Lab) -> dict[str, Any]:
    """What the probe saw with the settings of one plane."""
    program = Path(__file__).with_name("ingress_probe.py").read_text()
    settings = f"/etc/mushishi/ingress-{request.param}/Caddyfile"
    return {"plane": request.param, **json.loads(raw_lab.hub.run("python3", "-", settings, stdin=program))}


def test_a_request_is_built_anew(seen: dict[str, Any]) -> None:
    chat, models = seen["got"]
    assert (chat["method"], chat["path"], chat["body"]) == ("POST", "/v1/chat/completions", '{"a": 1}')
    assert (models["method"], models["path"]) == ("GET", "/v1/models")
    assert SECRET not in json.dumps(seen["got"])
    names = {name for name, _value in chat["headers"]}
    # Admission's messages route takes its key by x-api-key, and its queue has two words of its own.
    more = {"x-api-key", "prefer", "idempotency-key"} if seen["plane"] == "sovereign" else set()
    assert names == {"host", "authorization", "content-type", "content-length", "connection"} | more
    assert dict(chat["headers"])["authorization"] == "Bearer a-key"


def test_an_answer_tells_who_answered_and_no_more(seen: dict[str, Any]) -> None:
    headers = seen["chat"]["headers"]
    assert seen["chat"]["status"] == 200 and SECRET not in json.dumps(headers)
    assert headers["x-litellm-model-id"] == "personal/gpu" and headers["x-sovereign-backend"] == "gpu"
    assert "server" not in headers


def test_events_arrive_one_by_one(seen: dict[str, Any]) -> None:
    times = [when for when, line in seen["stream"]["lines"] if line.startswith("data:")]
    assert len(times) == EVENTS
    assert times[-1] - times[0] > (EVENTS - 1) * PAUSE * 0.5


def test_a_client_that_leaves_is_noticed(seen: dict[str, Any]) -> None:
    assert 0 < seen["noticed after"] < EVENTS


def test_everything_else_is_refused_here(seen: dict[str, Any]) -> None:
    assert {name: answer["status"] for name, answer in seen["refused"].items()} == dict.fromkeys(seen["refused"], 404)
    assert seen["passed although refused"] == []
    assert not any(
        name.startswith("access-control") for answer in seen["refused"].values() for name in answer["headers"]
    )


def test_a_plane_that_is_down_is_said_to_be_down(seen: dict[str, Any]) -> None:
    assert seen["nobody behind"]["status"] == 502
    assert json.loads(seen["nobody behind"]["body"])["error"]["code"] == "plane_unreachable"


def test_the_log_holds_no_request(seen: dict[str, Any]) -> None:
    assert SECRET not in seen["log"] and "chat/completions" not in seen["log"]
