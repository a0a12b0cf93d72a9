# SPDX-License-Identifier: MIT
"""The report of the SDK client; the SDK itself is used for real in the lab."""

from __future__ import annotations

import json
from types import SimpleNamespace as Box
from typing import Any

import pytest
from standins import openai_client


class Refused(Exception):
    """Looks like an error of the SDK."""

    status_code = 503
    code = "no_local_engine"
    response = Box(headers={"retry-after": "30"})


class FakeClient:
    """Answers like the SDK's client."""

    def __init__(self, **given: Any) -> None:
        self.given = given
        self.models = Box(list=lambda: [Box(id="private")])
        self.chat = Box(
            completions=Box(
                with_raw_response=Box(create=self._refuse), create=self._stream
            ),
        )

    def _refuse(self, **_: Any) -> None:
        raise Refused("nothing local can answer")

    def _stream(self, **request: Any) -> list[Any]:
        assert request["stream"] and request["stream_options"] == {
            "include_usage": True
        }
        words = [
            Box(usage=None, choices=[Box(finish_reason=None, delta=Box(content=w))])
            for w in ("", "a", " b")
        ]
        end = Box(
            usage=None, choices=[Box(finish_reason="stop", delta=Box(content=None))]
        )
        return [
            *words,
            end,
            Box(usage=Box(model_dump=lambda: {"total_tokens": 3}), choices=[]),
        ]


def test_the_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://192.0.2.1:4001/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    assert openai_client.main(["--model", "private"], FakeClient) == 1
    said = json.loads(capsys.readouterr().out)
    assert not said["ok"] and said["results"]["models"]["ids"] == ["private"]
    chat = said["results"]["chat"]
    assert {k: chat[k] for k in ("ok", "error", "status", "code", "retry_after")} == {
        "ok": False,
        "error": "Refused",
        "status": 503,
        "code": "no_local_engine",
        "retry_after": "30",
    }
    stream = said["results"]["stream"]
    assert (stream["content"], stream["chunks"], stream["finish_reason"]) == (
        "a b",
        5,
        "stop",
    )
    assert stream["usage"] == {"total_tokens": 3} and stream["ttft_ms"] is not None
    assert openai_client.main(["models"], FakeClient) == 0


def test_an_unknown_call_is_refused() -> None:
    with pytest.raises(SystemExit):
        openai_client.main(["sing"], FakeClient)
