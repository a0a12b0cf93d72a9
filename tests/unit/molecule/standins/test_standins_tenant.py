# SPDX-License-Identifier: MIT
"""The stand-ins of the card's other tenants: they answer what a switch asks, and end when a promise is broken."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import probes
from standins import tenant


@pytest.fixture
def served() -> Iterator[list[tenant.socketserver.BaseServer]]:
    """Servers that a test began."""
    begun: list[tenant.socketserver.BaseServer] = []
    yield begun
    for server in begun:
        server.shutdown()
        server.server_close()


def run(server: tenant.socketserver.BaseServer, begun: list[tenant.socketserver.BaseServer]) -> int:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    begun.append(server)
    return int(server.server_address[1])


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--port=8188", "--listen=0.0.0.0"], {"port": "8188", "listen": "0.0.0.0"}),
        (["redis-server", "--bind", "0.0.0.0", "--port", "6379"], {"bind": "0.0.0.0", "port": "6379"}),
        (["--disable-api-nodes", "--port=1", "stt"], {"disable-api-nodes": "", "port": "1"}),
    ],
)
def test_command_lines(words: list[str], found: dict[str, str]) -> None:
    assert tenant.options(words) == found


def test_prompts_run_for_as_long_as_they_ask(served: list[tenant.socketserver.BaseServer]) -> None:
    prompts = tenant.Prompts()
    def queue() -> dict[str, list[int]]:
        return {"queue_running": prompts.running(), "queue_pending": []}

    routes = {"/system_stats": {"system": {}}, "/queue": queue}
    port = run(tenant.web(0, routes, prompts), served)
    ready = {"kind": "answer", "url": f"http://127.0.0.1:{port}/system_stats", "key": "system"}
    busy = {"kind": "comfyui", "url": f"http://127.0.0.1:{port}/queue"}
    assert probes.READY["answer"](ready) == "" and probes.BUSY["comfyui"](busy) == []
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/prompt", json.dumps({"seconds": 60}).encode()):
        assert probes.BUSY["comfyui"](busy) == ["1 prompts running"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/prompt", json.dumps({"seconds": 0}).encode()):
        assert probes.BUSY["comfyui"](busy) == ["1 prompts running"]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health")


def test_jobs_are_counted(served: list[tenant.socketserver.BaseServer]) -> None:
    lists = tenant.Lists(0)
    port = run(lists, served)
    busy = {"kind": "rq", "url": f"redis://127.0.0.1:{port}", "queues": ["stt", "voice"]}
    assert probes.BUSY["rq"](busy) == []
    assert lists.answer(["RPUSH", "rq:queue:voice", "job"]) == ":1\r\n"
    assert lists.answer(["rpush", "rq:wip:stt", "job"]) == ":1\r\n"
    assert probes.BUSY["rq"](busy) == ["1 jobs running in stt", "1 jobs waiting in voice"]
    assert [lists.answer(["LPOP", "rq:queue:voice"]) for _time in range(2)] == ["+job\r\n", "$-1\r\n"]
    assert lists.answer(["FLUSHALL"]).startswith("-ERR") and lists.answer([]).startswith("-ERR")


def test_a_folder_that_is_missing_ends_it(tmp_path: Path) -> None:
    tenant.writable(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(tenant.Missing, match="cannot be written"):
        tenant.writable(str(tmp_path / "none"))
    with pytest.raises(tenant.Missing, match="cannot be read"):
        tenant.readable(str(tmp_path / "none"))
    with pytest.raises(tenant.Missing, match="could be changed"):
        tenant.readable(str(tmp_path))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["python", "main.py", "--listen=127.0.0.1", "--disable-api-nodes"], "would listen elsewhere"),
        (["python", "main.py", "--listen=0.0.0.0"], "nodes that call a cloud"),
        (["python", "other.py"], "no tenant begins with python other.py"),
        ([], "no tenant begins with"),
    ],
)
def test_no_tenant(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant, "writable", lambda _folder: None)
    assert tenant.main(words) == 1
    assert said in capsys.readouterr().err
