# SPDX-License-Identifier: MIT
"""The model_file module: verify once, remember, fetch with resume, refuse what was not meant."""

from __future__ import annotations

import hashlib
import http.server
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils import model_file as core
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.modules import model_file as module

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """A web server that can break off, ignore ranges, or refuse."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.break_after: list[int] = []
        self.ranges = True
        self.refuse: int | None = None
        self.tag = ""
        self.shift = 0
        self.stall_after = 0
        self.stalled = threading.Event()
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/model.gguf"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one file."""

    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        condition = self.headers.get("If-Range")
        if condition and condition != server.tag:
            wanted = None
        if server.refuse is not None:
            self.send_error(server.refuse)
            return
        begin = 0
        if wanted and server.ranges:
            match = re.fullmatch(r"bytes=(\d+)-", wanted)
            assert match
            begin = int(match.group(1))
            if begin >= len(server.content):
                self.send_error(416)
                return
            begin += server.shift
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        body = server.content[begin:]
        self.send_header("Content-Length", str(len(body)))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        if server.stall_after:
            self.wfile.write(body[: server.stall_after])
            self.wfile.flush()
            server.stalled.wait(60)
            return
        if server.break_after:
            body = body[: server.break_after.pop(0)]
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(core, "FIRST_PAUSE_SECONDS", 0.0)


@pytest.fixture
def params(tmp_path: Path) -> dict[str, Any]:
    return {
        "path": str(tmp_path / "models" / "model.gguf"),
        "url": None,
        "src": None,
        "sha256": SHA256,
        "size_bytes": len(CONTENT),
        "reserve_bytes": 0,
        "record_dir": str(tmp_path / "records"),
        "status_file": None,
        "timeout": 5,
        "attempts": 2,
    }


def place(params: dict[str, Any], content: bytes = CONTENT) -> Path:
    path = Path(params["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_missing_file_is_fetched_verified_and_then_left_alone(params: dict[str, Any], server: Server) -> None:
    params["url"] = server.url
    first = module.ensure(params, check_mode=False)
    assert first["changed"] and first["transferred_bytes"] == len(CONTENT)
    assert Path(params["path"]).read_bytes() == CONTENT
    assert sorted(os.listdir(os.path.dirname(params["path"]))) == ["model.gguf"]
    second = module.ensure(params, check_mode=False)
    assert not second["changed"] and second["verified"] == "remembered"
    assert len(server.asked) == 1


def test_check_mode_predicts_the_same_diff_and_changes_nothing(params: dict[str, Any], server: Server) -> None:
    params["url"] = server.url
    params["status_file"] = os.path.join(os.path.dirname(params["record_dir"]), "status.json")
    predicted = module.ensure(params, check_mode=True)
    assert predicted["changed"] and not server.asked
    assert not os.path.exists(params["record_dir"]) and not os.path.exists(params["status_file"])
    real = module.ensure(params, check_mode=False)
    assert predicted["diff"] == real["diff"]


def test_a_broken_transfer_is_resumed_in_the_same_run(params: dict[str, Any], server: Server) -> None:
    params["url"] = server.url
    server.break_after = [300_000, 300_000]
    assert module.ensure(params, check_mode=False)["transferred_bytes"] == len(CONTENT)
    assert server.asked == [None, "bytes=300000-", "bytes=600000-"]


def test_a_broken_transfer_is_resumed_in_the_next_run(params: dict[str, Any], server: Server) -> None:
    params["url"] = server.url
    params["attempts"] = 1
    server.break_after = [400_000]
    with pytest.raises(SovereignError, match="goes on where it ended"):
        module.ensure(params, check_mode=False)
    assert module.ensure(params, check_mode=False)["transferred_bytes"] == len(CONTENT) - 400_000
    assert server.asked == [None, "bytes=400000-"]


def test_a_server_without_ranges_is_read_from_its_beginning(params: dict[str, Any], server: Server) -> None:
    params["url"] = server.url
    server.ranges = False
    server.break_after = [400_000]
    module.ensure(params, check_mode=False)
    assert Path(params["path"]).read_bytes() == CONTENT


def test_a_part_of_another_source_is_not_gone_on_with(params: dict[str, Any], server: Server) -> None:
    path = Path(params["path"])
    path.parent.mkdir(parents=True)
    path.with_name("model.gguf.part").write_bytes(b"x" * 1000)
    path.with_name("model.gguf.part.json").write_text(json.dumps({"source": "https://elsewhere", "sha256": SHA256}))
    params["url"] = server.url
    module.ensure(params, check_mode=False)
    assert server.asked == [None]


def killed_in_the_middle(params: dict[str, Any], server: Server, kept: int) -> None:
    """A transfer whose process gets SIGKILL when ``kept`` bytes have arrived."""
    server.stall_after = kept
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=module.ensure, args=(params,), kwargs={"check_mode": False})
    child.start()
    part = Path(params["path"] + ".part")
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size == kept):
        assert time.monotonic() < deadline
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    server.stall_after = 0
    server.stalled.set()


# The module writes what it has read at once: up to this much is read before it writes.
CHUNK = 65536


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "CHUNK_BYTES", CHUNK)
    real = open

    def unbuffered(*words: Any, **more: Any) -> Any:
        return real(*words, **(more if "encoding" in more else {"buffering": 0}))

    monkeypatch.setattr(core, "open", unbuffered, raising=False)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("tag", ['"v1"', ""], ids=["with a tag", "without"])
def test_a_killed_transfer_goes_on(params: dict[str, Any], server: Server, tag: str) -> None:
    params["url"] = server.url
    server.tag = tag
    killed_in_the_middle(params, server, 4 * CHUNK)
    done = module.ensure(params, check_mode=False)
    assert server.asked == [None, f"bytes={4 * CHUNK}-"]
    assert done["transferred_bytes"] == len(CONTENT) - 4 * CHUNK and done["notes"] == []
    assert Path(params["path"]).read_bytes() == CONTENT
    assert sorted(os.listdir(os.path.dirname(params["path"]))) == ["model.gguf"]


@pytest.mark.usefixtures("small_chunks")
def test_a_killed_transfer_of_a_changed_file_begins_anew_and_says_so(params: dict[str, Any], server: Server) -> None:
    params["url"] = server.url
    server.tag = '"v1"'
    server.content = b"x" * len(CONTENT)
    killed_in_the_middle(params, server, 4 * CHUNK)
    server.tag, server.content = '"v2"', CONTENT
    done = module.ensure(params, check_mode=False)
    assert done["transferred_bytes"] == len(CONTENT) and Path(params["path"]).read_bytes() == CONTENT
    assert len(done["notes"]) == 1 and "begins anew" in done["notes"][0] and "262.1 kB" in done["notes"][0]


@pytest.mark.usefixtures("small_chunks")
def test_a_file_that_changed_unseen_is_fetched_anew_and_says_so(params: dict[str, Any], server: Server) -> None:
    """A server without tags: only the hash tells."""
    params["url"] = server.url
    server.content = b"x" * len(CONTENT)
    killed_in_the_middle(params, server, 4 * CHUNK)
    server.content = CONTENT
    done = module.ensure(params, check_mode=False)
    assert Path(params["path"]).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={4 * CHUNK}-", None]
    assert "fetched anew" in done["notes"][0]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("fault", ["no ranges", "wrong range"])
def test_a_server_that_cannot_go_on_is_read_anew(params: dict[str, Any], server: Server, fault: str) -> None:
    params["url"] = server.url
    killed_in_the_middle(params, server, 4 * CHUNK)
    server.ranges, server.shift = fault != "no ranges", 7 if fault == "wrong range" else 0
    done = module.ensure(params, check_mode=False)
    assert Path(params["path"]).read_bytes() == CONTENT
    assert len(done["notes"]) == 1 and "begins anew" in done["notes"][0]


def test_a_part_longer_than_the_file_is_given_up(params: dict[str, Any], server: Server) -> None:
    params["url"] = server.url
    path = Path(params["path"])
    path.parent.mkdir(parents=True)
    path.with_name("model.gguf.part").write_bytes(CONTENT + b"!")
    path.with_name("model.gguf.part.json").write_text(json.dumps({"source": server.url, "sha256": SHA256}))
    assert "fetched anew" in module.ensure(params, check_mode=False)["notes"][0]
    assert path.read_bytes() == CONTENT


@pytest.mark.usefixtures("small_chunks")
def test_two_transfers_of_one_file_do_not_mix(params: dict[str, Any], server: Server) -> None:
    """The second waits, says so, and takes what the first has brought."""
    params["url"] = server.url
    params["status_file"] = os.path.join(os.path.dirname(params["record_dir"]), "status.json")
    server.stall_after = 4 * CHUNK
    fork = multiprocessing.get_context("fork")
    first = fork.Process(target=module.ensure, args=({**params, "status_file": None},), kwargs={"check_mode": False})
    first.start()
    part = Path(params["path"] + ".part")
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size == 4 * CHUNK):
        assert time.monotonic() < deadline
    results: list[dict[str, Any]] = []
    second = threading.Thread(target=lambda: results.append(module.ensure(params, check_mode=False)))
    second.start()
    while not (os.path.exists(params["status_file"]) and "another transfer" in Path(params["status_file"]).read_text()):
        assert time.monotonic() < deadline
    server.stall_after = 0
    server.stalled.set()
    first.join(30)
    second.join(30)
    assert first.exitcode == 0
    assert results[0]["transferred_bytes"] == 0 and results[0]["verified"] == "to be fetched"
    assert Path(params["path"]).read_bytes() == CONTENT
    assert json.loads(Path(params["status_file"]).read_text())["state"] == "done"


def test_what_is_still_to_come_is_said(params: dict[str, Any], server: Server) -> None:
    params["url"] = server.url
    assert module.ensure(params, check_mode=True)["missing_bytes"] == len(CONTENT)
    server.break_after = [400_000]
    params["attempts"] = 1
    with pytest.raises(SovereignError):
        module.ensure(params, check_mode=False)
    assert module.ensure(params, check_mode=True)["missing_bytes"] == len(CONTENT) - 400_000
    module.ensure(params, check_mode=False)
    assert module.ensure(params, check_mode=True)["missing_bytes"] == 0


def test_what_arrives_but_was_not_meant_is_not_kept(params: dict[str, Any], server: Server) -> None:
    params["url"] = server.url
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(SovereignError, match=r"sha256 .* expected"):
        module.ensure(params, check_mode=False)
    assert os.listdir(os.path.dirname(params["path"])) == []


def test_a_longer_file_than_meant_is_cut_off(params: dict[str, Any], server: Server) -> None:
    params["url"] = server.url
    server.content = CONTENT * 20
    with pytest.raises(SovereignError, match=r"gave .* bytes, expected"):
        module.ensure(params, check_mode=False)
    assert os.listdir(os.path.dirname(params["path"])) == []


def test_a_refusal_is_not_tried_again(params: dict[str, Any], server: Server) -> None:
    params["url"] = server.url
    server.refuse = 404
    with pytest.raises(SovereignError, match="HTTP 404"):
        module.ensure(params, check_mode=False)
    assert len(server.asked) == 1


def test_a_failing_server_is_tried_again_and_then_named(params: dict[str, Any], server: Server) -> None:
    params["url"] = server.url
    server.refuse = 503
    with pytest.raises(SovereignError, match="broke off 2 times"):
        module.ensure(params, check_mode=False)
    assert len(server.asked) == 2


@pytest.mark.parametrize("scheme", ["src", "file"])
def test_a_local_source_is_copied(params: dict[str, Any], tmp_path: Path, scheme: str) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(CONTENT)
    params["src" if scheme == "src" else "url"] = str(source) if scheme == "src" else f"file://{source}"
    assert module.ensure(params, check_mode=False)["changed"]
    assert Path(params["path"]).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "size", "message"),
    [(None, None, "its source .* is missing"), (b"short", 10**6, "its source .* has 5 bytes, expected 1000000")],
)
def test_a_local_source_is_looked_at_in_check_mode(
    params: dict[str, Any], tmp_path: Path, content: bytes | None, size: int | None, message: str
) -> None:
    source = tmp_path / "source.gguf"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(SovereignError, match=message):
        module.ensure(params | {"src": str(source), "size_bytes": size}, check_mode=True)


def test_a_local_source_tells_its_size(params: dict[str, Any], tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(CONTENT)
    planned = module.ensure(params | {"src": str(source), "size_bytes": None}, check_mode=True)
    assert planned["size_bytes"] == len(CONTENT)


def test_a_file_that_is_there_is_verified_once(params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    place(params)
    first = module.ensure(params, check_mode=False)
    assert (first["changed"], first["verified"]) == (False, "now")
    monkeypatch.setattr(core, "sha256_of", lambda *_: pytest.fail("the file was read again"))
    assert module.ensure(params, check_mode=False)["verified"] == "remembered"


def test_a_file_that_changed_is_verified_again(params: dict[str, Any]) -> None:
    path = place(params)
    module.ensure(params, check_mode=False)
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(SovereignError, match="expected"):
        module.ensure(params, check_mode=False)
    assert path.exists()


def test_changing_the_hash_forgets(params: dict[str, Any]) -> None:
    place(params)
    module.ensure(params, check_mode=False)
    params["sha256"] = "0" * 64
    with pytest.raises(SovereignError, match="move the file away"):
        module.ensure(params, check_mode=True)


def test_a_file_without_a_hash_need_only_be_there(params: dict[str, Any]) -> None:
    place(params)
    params["sha256"] = None
    assert module.ensure(params, check_mode=False)["verified"] == "not asked"
    assert not os.path.exists(params["record_dir"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "it is missing and no source is given"),
        ({"sha256": "abc"}, "is not 64 hex digits"),
        ({"url": "https://x", "sha256": None}, "it has a source but no sha256"),
        ({"url": "ftp://x"}, "is no web or file address"),
        ({"url": "https://x", "size_bytes": 10**18}, "are free on its disk"),
        ({"url": "https://x", "size_bytes": 0}, "size_bytes is 0"),
        ({"path": "models/x.gguf"}, "not a plain absolute path"),
    ],
)
def test_refusals_are_the_same_in_check_mode(params: dict[str, Any], change: dict[str, Any], message: str) -> None:
    for check_mode in (True, False):
        with pytest.raises(SovereignError, match=message):
            module.ensure(params | change, check_mode=check_mode)
    assert not os.path.exists(os.path.dirname(params["record_dir"]) + "/models")


def test_a_refusal_before_the_transfer_is_in_the_status_file_too(params: dict[str, Any], tmp_path: Path) -> None:
    """Who watches that file would wait for a transfer that never began."""
    params |= {"url": "https://x", "size_bytes": 10**18, "status_file": str(tmp_path / "status.json")}
    with pytest.raises(SovereignError):
        module.ensure(params, check_mode=True)
    assert not Path(params["status_file"]).exists(), "not in check mode"
    with pytest.raises(SovereignError):
        module.ensure(params, check_mode=False)
    told = json.loads(Path(params["status_file"]).read_text())
    assert told["state"] == "failed" and "are free on its disk" in told["message"]


def test_a_wrong_size_is_named_without_reading_the_file(params: dict[str, Any]) -> None:
    place(params, CONTENT + b"!")
    with pytest.raises(SovereignError, match=rf"it has {len(CONTENT) + 1} bytes, expected {len(CONTENT)}"):
        module.ensure(params, check_mode=True)


def test_a_folder_in_its_place_is_refused(params: dict[str, Any]) -> None:
    Path(params["path"]).mkdir(parents=True)
    with pytest.raises(SovereignError, match="not a regular file"):
        module.ensure(params, check_mode=True)


def test_the_status_file_says_how_far_it_is(params: dict[str, Any], server: Server, tmp_path: Path) -> None:
    params["url"] = server.url
    params["status_file"] = str(tmp_path / "status.json")
    module.ensure(params, check_mode=False)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["bytes"], status["total"]) == ("done", len(CONTENT), len(CONTENT))
    params["sha256"] = "0" * 64
    Path(params["path"]).unlink()
    with pytest.raises(SovereignError):
        module.ensure(params, check_mode=False)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "failed" and "expected" in status["message"]


def test_the_status_is_not_written_too_often(tmp_path: Path) -> None:
    now = 0.0
    status = core.Status(str(tmp_path / "s"), clock=lambda: now)
    status.report("fetching", 0, 100)
    now = 0.5
    status.report("fetching", 50, 100)
    assert json.loads((tmp_path / "s").read_text())["bytes"] == 0
    now = 2.0
    status.report("fetching", 80, 100)
    assert json.loads((tmp_path / "s").read_text())["message"] == "80 B of 100 B (80 %), 40 B/s, 0 s left"


@pytest.mark.parametrize(
    ("done", "total", "rate", "line"),
    [
        (3_100_000_000, 19_000_000_000, 112e6, "3.1 GB of 19.0 GB (16 %), 112.0 MB/s, 142 s left"),
        (512, None, 0.0, "512 B"),
        (5_000, 5_000, 1e3, "5.0 kB of 5.0 kB (100 %), 1.0 kB/s"),
    ],
)
def test_progress_line(done: int, total: int | None, rate: float, line: str) -> None:
    assert core.progress_line(done, total, rate) == line


def test_the_stamp_is_part_of_what_is_remembered(tmp_path: Path) -> None:
    wanted = core.Wanted("/models/x", None, SHA256, None, str(tmp_path), 0, 1)
    stamp = core.Stamp(1, 2, 3, 4)
    core.remember(wanted, stamp)
    assert core.remembered(wanted, stamp)
    assert not core.remembered(wanted, replace(stamp, ctime_ns=5))
    assert not core.remembered(replace(wanted, sha256="0" * 64), stamp)


def test_a_token_in_the_source_is_not_shown(params: dict[str, Any], server: Server, tmp_path: Path) -> None:
    """Neither in a message nor to another user of the machine."""
    params["url"] = f"{server.url}?token=s3cret"
    params["status_file"] = str(tmp_path / "status.json")
    params["attempts"] = 1
    server.break_after = [400_000]
    with pytest.raises(SovereignError) as broken:
        module.ensure(params, check_mode=False)
    record = Path(params["path"] + ".part.json")
    assert "s3cret" in record.read_text() and record.stat().st_mode & 0o777 == 0o600
    server.refuse = 403
    with pytest.raises(SovereignError) as refused:
        module.ensure(params, check_mode=False)
    for error in (broken, refused):
        assert server.url in str(error.value) and "s3cret" not in str(error.value)
    assert "s3cret" not in (tmp_path / "status.json").read_text()


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("https://anna:pw@h:8443/a/b.gguf?X-Sig=1#f", "https://h:8443/a/b.gguf"),
        ("https://h/a", "https://h/a"),
        ("/srv/a?b", "/srv/a?b"),
        ("https://[x", "(no address)"),
    ],
)
def test_a_source_as_people_read_it(source: str, wanted: str) -> None:
    assert core.shown_source(source) == wanted
