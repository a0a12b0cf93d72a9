# SPDX-License-Identifier: MIT
"""The parts by themselves: strict JSON, event splitting, configuration, and the command line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from admission import schema, strictjson
from admission.__main__ import main
from admission.config import (
    ConfigError,
    Listen,
    load_config,
    load_gateway_key,
    load_keys,
)
from admission.errors import Refusal
from admission.probe import probe
from admission.sse import EventTooLargeError, Splitter
from admission_standin import GATEWAY_KEY, KEYS, RULES, Live
from hypothesis import given, settings
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
DIGEST = "a" * 64
BOUNDS = {"max_depth": 64, "max_tokens": 10_000}


@given(st.dictionaries(st.text(), JSON))
def test_every_json_object_is_read_as_it_was_written(document: dict[str, Any]) -> None:
    assert strictjson.parse(json.dumps(document, ensure_ascii=False).encode(), **BOUNDS) == document
    assert strictjson.parse(json.dumps(document, indent=1).encode(), **BOUNDS) == document


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u019 eE+-.ntf', max_size=60).map(str.encode))
def test_bytes_never_mean_two_things(raw: bytes) -> None:
    try:
        parsed = strictjson.parse(raw, **BOUNDS)
    except strictjson.StrictJSONError as error:
        assert str(error)  # noqa: PT017 - both ends are right
    else:
        assert parsed == json.loads(raw)


@given(st.integers(1, 70))
def test_depth_is_counted_exactly(depth: int) -> None:
    raw = b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}" if depth > 1 else b"{}"
    if depth <= 64:
        strictjson.parse(raw, **BOUNDS)
    else:
        with pytest.raises(strictjson.StrictJSONError, match="nested deeper"):
            strictjson.parse(raw, **BOUNDS)


def test_brackets_inside_strings_do_not_count() -> None:
    text = '[{\\"' * 1000
    assert strictjson.parse(json.dumps({"a": text}).encode(), **BOUNDS) == {"a": text}


@pytest.mark.parametrize("unit", [b'"', b'\\"', b'"\\', b"\\\\", b"[", b"{", b'"a"'])
def test_hostile_repetition_is_fast(unit: bytes) -> None:
    """Linear work: each of these would take minutes if the scanner went back."""
    with pytest.raises(strictjson.StrictJSONError):
        strictjson.parse(b'{"a":"' + unit * (5_000_000 // len(unit)), **BOUNDS)


@given(JSON)
@settings(max_examples=200)
def test_any_document_is_refused_or_built_from_known_keys(value: object) -> None:
    documents: list[dict[str, object]] = [
        {"messages": value},
        {"messages": [{"role": "user", "content": value}]},
        {"tools": value},
    ]
    for document in documents:
        try:
            request = schema.validate(document, "private")
        except Refusal as refusal:
            assert refusal.status == 400  # noqa: PT017 - both ends are right
        else:
            assert set(json.loads(schema.build(request, "g", None))) <= {"model", "messages"}


def test_every_object_of_the_schema_is_closed() -> None:
    pending: list[type] = [schema.Strict]
    seen = []
    while pending:
        kind = pending.pop()
        pending.extend(kind.__subclasses__())
        seen.append(kind)
        assert issubclass(kind, schema.Strict)
        assert kind.model_config.get("extra") == "forbid"
        assert kind.model_config.get("strict") is True
    assert len(seen) > 25


@given(
    st.lists(st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b"")), max_size=5), st.data()
)
def test_events_do_not_depend_on_where_bytes_are_split(payloads: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(b"data: " + one + b"\n\n" for one in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    splitter = Splitter(10_000)
    events: list[bytes | None] = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        events += splitter.feed(whole[start:end])
    assert events == payloads


def test_event_size_is_bounded() -> None:
    splitter = Splitter(100)
    with pytest.raises(EventTooLargeError):
        splitter.feed(b"data: " + b"x" * 200)


# --- configuration ---------------------------------------------------------------------------------------------------
Write = Callable[[str, object], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(name: str, content: object) -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return put


def config(**changes: Any) -> dict[str, Any]:
    listen = {"host": "127.0.0.1", "port": 4001}
    return {"listen": listen, "upstream": {"url": "http://127.0.0.1:4011"}, "rules": RULES, "limits": {}, **changes}


def test_config_and_credentials_load(write: Write, tmp_path: Path) -> None:
    loaded = load_config(write("config.json", config()))
    assert loaded.limits.max_body_bytes == 20 * 1024 * 1024
    write("gateway.key", GATEWAY_KEY + "\n")
    write("profiles.json", {hashlib.sha256(key.encode()).hexdigest(): name for name, key in KEYS.items()})
    assert load_gateway_key(tmp_path) == GATEWAY_KEY
    ring = load_keys(tmp_path, frozenset(RULES["profiles"]))
    assert ring.profile_of(KEYS["client"].encode()) == "client"
    assert ring.profile_of(b"x") is None


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "not valid JSON"),
        (config(extra=1), "extra"),
        (config(listen={"host": "::1", "port": 1}), "listen.host"),
        (config(listen={"host": "localhost", "port": 1}), "listen.host"),
        (config(upstream={"url": "https://example.org"}), "upstream.url"),
        (config(upstream={"url": "http://127.0.0.1:4011/v1"}), "upstream.url"),
        (config(limits={"max_depth": 10**6}), "limits.max_depth"),
        (config(rules={"version": 2, "profiles": {}}), "rules.version"),
        (config(rules={"version": 1, "profiles": {}}), "rules.profiles"),
        (
            config(rules={"version": 1, "profiles": {"personal": {**RULES["profiles"]["private"], "tier": "T2"}}}),
            "rules.profiles.personal.tier",
        ),
    ],
)
def test_wrong_config_names_the_key(write: Write, document: object, words: str, capsys: Any) -> None:
    path = write("config.json", document)
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        load_config(path)
    assert main(["check", "--config", str(path)]) == 78
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"xyz": "private"}, "sha256"),
        ({"a" * 64: "personal"}, "rules do not have"),
        ({"a" * 64: 1}, "rules do not have"),
        ({"a" * 64: "private"}, "no key for client, coding"),
        ("[]", "must be a JSON object"),
        (f'{{"{DIGEST}":"private","{DIGEST}":"client"}}', "twice"),
    ],
)
def test_wrong_key_index_stops_the_start(write: Write, tmp_path: Path, entries: object, words: str) -> None:
    write("profiles.json", entries)
    with pytest.raises(ConfigError, match=words):
        load_keys(tmp_path, frozenset(RULES["profiles"]))


@pytest.mark.parametrize("key", ["", "short", "two words of some length", "ü" * 30])
def test_wrong_gateway_key_stops_the_start(write: Write, tmp_path: Path, key: str) -> None:
    write("gateway.key", key)
    with pytest.raises(ConfigError):
        load_gateway_key(tmp_path)


def test_start_without_credentials_says_so(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert main(["--config", str(write("config.json", config()))]) == 78
    assert "LoadCredential" in capsys.readouterr().err
    assert main(["check", "--config", str(write("config.json", config()))]) == 0


def test_probe(live: Live) -> None:
    port = int(live().url.rsplit(":", 1)[1])
    assert probe(Listen(host="127.0.0.1", port=port)) is None
    assert probe(Listen(host="127.0.0.1", port=1), 0.5) == "127.0.0.1:1/healthz: ConnectionRefusedError"
