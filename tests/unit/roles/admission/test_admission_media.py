# SPDX-License-Identifier: MIT
"""Files below a profile's media folder: which are given, in which fields, and that every way out is shut."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from admission.app import Admission
from admission.config import Config, ConfigError, load_config
from admission.log import Log
from admission.media import TYPES, MediaError, Shelf, read_below, steps_of
from admission.schema import AUDIO_TYPES, FILE_TYPES, IMAGE_TYPES, VIDEO_TYPES
from admission.upstream import Gateway
from admission_standin import GATEWAY_KEY, RULES, Service, StandInGateway, config_for, ring

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
SECRET = b"\x89PNG\r\n\x1a\ncanary-of-another-tree"
Document = dict[str, Any]


def data(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64," + base64.b64encode(content).decode()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two profiles' folders and something beside them."""
    for name in ("private", "client", "beside"):
        (tmp_path / name / "deep").mkdir(parents=True)
    (tmp_path / "private/a b.png").write_bytes(PNG)
    (tmp_path / "private/deep/ä.png").write_bytes(PNG)
    for place in ("client", "beside"):
        (tmp_path / place / "secret.png").write_bytes(SECRET)
    return tmp_path


@pytest.fixture
def shelved(tree: Path) -> Service:
    """Admission that gives two profiles a folder."""
    gateway, lines = StandInGateway(), list[str]()
    plain = config_for("http://127.0.0.1:1", max_body_bytes=100_000).model_dump(mode="json")
    media = {name: str(tree / name) for name in ("private", "client")}
    config = Config.model_validate({**plain, "media": media})
    upstream = Gateway(config.upstream.url, GATEWAY_KEY, transport=httpx.ASGITransport(gateway))
    gateway.model_id = None
    return Service(gateway, lines, Admission(config, ring(), GATEWAY_KEY, upstream, Log(lines.append)))


def chat(url: str, kind: str = "image_url") -> Document:
    return {"messages": [{"role": "user", "content": [{"type": kind, kind: {"url": url}}]}]}


# --- what is given ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("url", ["file:///a b.png", "file:///deep/ä.png"])
def test_a_file_becomes_a_data_url_on_every_route(shelved: Service, url: str) -> None:
    image = {"type": "input_image", "image_url": url}
    source = {"type": "image", "source": {"type": "url", "url": url}}
    asked: dict[str, Document] = {
        "/v1/chat/completions": chat(url),
        "/v1/responses": {"input": [{"role": "user", "content": [image]}]},
        "/v1/messages": {"max_tokens": 1, "messages": [{"role": "user", "content": [source]}]},
    }
    for path, document in asked.items():
        answer = shelved.chat(document, path=path)
        assert answer.status_code == 200, answer.text
        sent = shelved.gateway.seen[-1]
        assert sent.json["messages"][0]["content"] == [{"type": "image_url", "image_url": {"url": data(PNG)}}]
        assert b"file:" not in sent.body
    log = "".join(shelved.lines)
    assert "png" not in log and "deep" not in log


def test_documents(shelved: Service, tree: Path) -> None:
    (tree / "private/a.pdf").write_bytes(b"%PDF-1.7")
    (tree / "private/n.md").write_bytes("# ä".encode())

    def sent(name: str) -> object:
        block = {"type": "document", "source": {"type": "url", "url": f"file:///{name}"}}
        answer = shelved.chat(
            {"max_tokens": 1, "messages": [{"role": "user", "content": [block]}]}, path="/v1/messages"
        )
        assert answer.status_code == 200, answer.text
        return shelved.gateway.seen[-1].json["messages"][0]["content"][0]

    assert sent("a.pdf") == {"type": "file", "file": {"file_data": data(b"%PDF-1.7", "application/pdf")}}
    assert sent("n.md") == {"type": "text", "text": "# ä"}


HEADS = {
    ".png": PNG, ".jpg": b"\xff\xd8\xff\xe0", ".jpeg": b"\xff\xd8\xff\xe1", ".gif": b"GIF89a", ".bmp": b"BM..",
    ".webp": b"RIFF....WEBP", ".wav": b"RIFF....WAVE", ".mp3": b"ID3", ".flac": b"fLaC", ".ogg": b"OggS",
    ".webm": b"\x1a\x45\xdf\xa3", ".mp4": b"\0\0\0\x18ftypisom", ".pdf": b"%PDF-1.7", ".txt": b"x", ".md": b"x",
    ".csv": b"a,b", ".json": b"{}",
}  # fmt: skip


@pytest.mark.parametrize("ending", TYPES)
def test_types(tree: Path, ending: str) -> None:
    """A name's ending and the content must agree, and the field must allow the type."""
    kind, _is = TYPES[ending]
    allowed = next(one for one in (IMAGE_TYPES, AUDIO_TYPES, VIDEO_TYPES, FILE_TYPES) if kind in one)
    for name in (f"f{ending}", f"F{ending.upper()}"):
        (tree / "private" / name).write_bytes(HEADS[ending])
        assert Shelf(tree / "private", 1000).take(f"file:///{name}", allowed) == data(HEADS[ending], kind)
    for content in (b"", b"\0 something else \xff"):
        (tree / "private" / name).write_bytes(content)
        with pytest.raises(MediaError, match="not what its ending says"):
            Shelf(tree / "private", 1000).take(f"file:///{name}", allowed)
    with pytest.raises(MediaError, match="one of these endings"):
        Shelf(tree / "private", 1000).take(f"file:///{name}", frozenset({"image/none"}))


def test_a_webm_may_be_heard_too(tree: Path) -> None:
    (tree / "private/a.webm").write_bytes(HEADS[".webm"])
    assert Shelf(tree / "private", 1000).take("file:///a.webm", AUDIO_TYPES).startswith("data:audio/webm;")
    assert Shelf(tree / "private", 1000).take("file:///a.webm", VIDEO_TYPES).startswith("data:video/webm;")


# --- what is not -----------------------------------------------------------------------------------------------------
NAMES = [
    "file:", "file:/", "file://", "file:///", "file:/a b.png", "file:a b.png", "FILE:///a b.png", "file:////etc/passwd",
    "file://localhost/a b.png", "file://203.0.113.9/a.png", "file:///../client/secret.png", "file:///deep/../a b.png",
    "file:///./a b.png", "file:///deep//ä.png", "file:///deep/ä.png/", "file:///.hidden.png", "file:///a%20b.png",
    "file:///%2e%2e/client/secret.png", "file:///a b.png?x", "file:///a b.png#x", "file:///a\\b.png",
    "file:///a\u0000.png", "file:///a\n.png", "file:///" + "d/" * 8 + "a.png", "file:///" + "a" * 256 + ".png",
    " file:///a b.png", "file:///etc/passwd", "file:///missing.png", "file:///deep", "file:///proc/self/environ",
]  # fmt: skip


@pytest.mark.parametrize("url", NAMES)
def test_names_that_are_none(shelved: Service, url: str) -> None:
    answer = shelved.chat(chat(url))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == "messages[0].content[0].image_url.url"
    assert shelved.gateway.seen == []


@pytest.mark.parametrize("url", ["file:///secret.png", "file:///client/secret.png"])
def test_anothers_file_reads_like_a_missing_one(shelved: Service, url: str) -> None:
    """Nobody learns what another profile has. Control: its own key gets it."""
    answer, missing = shelved.chat(chat(url)), shelved.chat(chat("file:///missing.png"))
    assert answer.json() == missing.json()
    assert shelved.gateway.seen == []
    assert shelved.chat(chat("file:///secret.png"), "client").status_code == 200
    assert data(SECRET).encode() in shelved.gateway.seen[-1].body


@pytest.mark.parametrize("url", ["file:///a b.png", "file:///etc/passwd"])
def test_a_profile_without_a_folder_has_no_files(shelved: Service, url: str) -> None:
    answer = shelved.chat(chat(url), "coding")
    assert answer.status_code == 400
    assert "admission_media_dirs" in answer.json()["error"]["message"]
    assert shelved.gateway.seen == []


def escapes(tree: Path) -> dict[str, str]:
    """Ways out of the folder, planted by somebody who may write in it."""
    own, other = tree / "private", tree / "beside"
    (own / "link.png").symlink_to(other / "secret.png")
    (own / "inner.png").symlink_to(own / "a b.png")
    (own / "relative.png").symlink_to("../client/secret.png")
    (own / "folder").symlink_to(other)
    (own / "twice").symlink_to(own / "folder")
    (own / "root").symlink_to("/")
    (own / "fd.png").symlink_to("/proc/self/fd/0")
    (own / "dangling.png").symlink_to(other / "missing.png")
    os.link(other / "secret.png", own / "hard.png")
    os.mkfifo(own / "pipe.png")
    (own / "folder.png").mkdir()
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(own / "sock.png"))
    unix.close()
    return {
        "link.png": "no file", "inner.png": "no file", "relative.png": "no file", "folder/secret.png": "no file",
        "twice/secret.png": "no file", "fd.png": "no file", "dangling.png": "no file", "root/etc/x.png": "no file",
        "hard.png": "second name", "pipe.png": "regular file", "folder.png": "regular file", "sock.png": "no file",
        "a b.png/x.png": "no file",
    }  # fmt: skip


def test_ways_out_of_the_folder(shelved: Service, tree: Path) -> None:
    for name, why in escapes(tree).items():
        answer = shelved.chat(chat(f"file:///{name}"))
        assert (answer.status_code, why in answer.json()["error"]["message"]) == (400, True), (name, answer.text)
    assert shelved.gateway.seen == []


def test_a_folder_that_is_a_link_is_no_folder(tree: Path) -> None:
    (tree / "alias").symlink_to(tree / "client")
    with pytest.raises(MediaError):
        read_below(tree / "alias", "file:///secret.png", 1000)
    assert read_below(tree / "client", "file:///secret.png", 1000) == SECRET


def test_a_file_changed_for_a_link_while_asked_is_never_followed(tree: Path) -> None:
    """Steps are swapped as fast as they can be, and what is read is the own file or nothing."""
    own, ended = tree / "private", threading.Event()
    (own / "swap").mkdir()
    (own / "swap/secret.png").write_bytes(PNG)
    (tree / "lure").symlink_to(tree / "beside")

    def swap() -> None:
        while not ended.is_set():
            os.rename(own / "swap", tree / "kept")
            os.rename(tree / "lure", own / "swap")
            os.rename(own / "swap", tree / "lure")
            os.rename(tree / "kept", own / "swap")

    other = threading.Thread(target=swap)
    other.start()
    seen: set[bytes] = set()
    try:
        for _ in range(3000):
            try:
                seen.add(read_below(own, "file:///swap/secret.png", 1000))
            except MediaError:
                seen.add(b"refused")
    finally:
        ended.set()
        other.join()
    assert SECRET not in seen
    assert PNG in seen, "control: the file can be read"


def test_sizes(shelved: Service, tree: Path) -> None:
    """All files of a request together are held to the bound of a request."""
    (tree / "private/big.png").write_bytes(PNG + b"x" * 80_000)
    (tree / "private/half.png").write_bytes(PNG + b"x" * 40_000)
    assert shelved.chat(chat("file:///half.png")).status_code == 200
    for names in (["big"], ["half", "half"]):
        parts = [{"type": "image_url", "image_url": {"url": f"file:///{name}.png"}} for name in names]
        answer = shelved.chat({"messages": [{"role": "user", "content": parts}]})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == f"messages[0].content[{len(names) - 1}].image_url.url"
        assert "larger" in answer.json()["error"]["message"]


def test_a_file_that_may_not_be_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(MediaError, match="may not read"):
        read_below(tree / "private", "file:///a b.png", 1000)


def test_no_descriptor_is_left_open(tree: Path) -> None:
    names = [*escapes(tree), "a b.png", "deep/ä.png", "missing/x.png"]
    before = len(os.listdir("/proc/self/fd"))
    for name in names:
        try:
            read_below(tree / "private", f"file:///{name}", 1000)
        except MediaError:
            continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_steps() -> None:
    assert steps_of("file:///a/b c.png") == ["a", "b c.png"]


# --- the setting -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("media", "word"),
    [({"personal": "/srv/x"}, "personal"), ({"private": "srv/x"}, "media"), ({"private": 1}, "media")],
)
def test_settings(tmp_path: Path, media: object, word: str) -> None:
    document = {
        "listen": {"host": "127.0.0.1", "port": 1}, "upstream": {"url": "http://127.0.0.1:1"}, "rules": RULES,
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**document, "media": {"private": "/srv/x"}}))
    assert load_config(path).media == {"private": "/srv/x"}
    path.write_text(json.dumps({**document, "media": media}))
    with pytest.raises(ConfigError, match=word):
        load_config(path)
