# SPDX-License-Identifier: MIT
"""profile_keys: one key per profile, and an index that opens nothing."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.modules import profile_keys

OWNER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Options for two profiles in a fresh folder."""
    (tmp_path / "profiles").mkdir()
    return {
        "profiles": ["private", "client"],
        "directory": str(tmp_path / "profiles"),
        "index": str(tmp_path / "index.json"),
        "owner": OWNER,
        "group": GROUP,
    }


def keys_in(directory: str) -> dict[str, str]:
    """Profile to key, as the key files say."""
    return {path.stem: path.read_text() for path in Path(directory).glob("*.key")}


def index_of(options: dict[str, Any]) -> dict[str, str]:
    """The index as it is on disk."""
    data: dict[str, str] = json.loads(Path(options["index"]).read_text())
    return data


def expected_index(options: dict[str, Any]) -> dict[str, str]:
    """The index that the key files of the listed profiles give."""
    keys = keys_in(options["directory"])
    return {hashlib.sha256(keys[name].encode()).hexdigest(): name for name in options["profiles"]}


def test_makes_keys_and_index_once(run: Any, options: dict[str, Any]) -> None:
    predicted = run(profile_keys, check=True, **options)
    assert keys_in(options["directory"]) == {} and not os.path.exists(options["index"])
    first = run(profile_keys, **options)
    keys = keys_in(options["directory"])
    second = run(profile_keys, **options)
    assert (predicted["changed"], first["changed"], second["changed"]) == (True, True, False)
    assert predicted["diff"] == first["diff"]
    assert predicted["created"] == first["created"] == ["client", "private"] and second["created"] == []
    assert keys_in(options["directory"]) == keys
    assert keys["private"].startswith("sk-private-") and len(keys["private"]) == len("sk-private-") + 43
    assert index_of(options) == expected_index(options)
    for path in [options["index"], *(str(path) for path in Path(options["directory"]).iterdir())]:
        assert os.stat(path).st_mode & 0o777 == 0o600
    said = json.dumps([predicted, first, second])
    assert not any(key in said or hashlib.sha256(key.encode()).hexdigest() in said for key in keys.values())


def test_a_profile_no_longer_listed_loses_its_entry_but_not_its_key(run: Any, options: dict[str, Any]) -> None:
    run(profile_keys, **options)
    options["profiles"] = ["private"]
    predicted = run(profile_keys, check=True, **options)
    result = run(profile_keys, **options)
    assert predicted["diff"] == result["diff"]
    assert result["removed"] == ["client"] and result["diff"]["before"] == {"index entry client": "listed"}
    assert set(index_of(options).values()) == {"private"}
    assert set(keys_in(options["directory"])) == {"private", "client"}
    assert not run(profile_keys, **options)["changed"]


def test_a_replaced_key_reaches_the_index(run: Any, options: dict[str, Any]) -> None:
    run(profile_keys, **options)
    Path(options["directory"], "private.key").write_text("a-key-from-another-machine-1234\n")
    result = run(profile_keys, **options)
    assert result["diff"]["before"] == {"index entry private": "another key"}
    wanted = hashlib.sha256(b"a-key-from-another-machine-1234").hexdigest()
    assert index_of(options)[wanted] == "private" and len(index_of(options)) == 2
    assert not run(profile_keys, **options)["changed"]


def test_a_removed_key_is_made_anew(run: Any, options: dict[str, Any]) -> None:
    run(profile_keys, **options)
    before = keys_in(options["directory"])
    os.unlink(Path(options["directory"], "client.key"))
    result = run(profile_keys, **options)
    after = keys_in(options["directory"])
    assert result["created"] == ["client"] and after["client"] != before["client"]
    assert after["private"] == before["private"] and index_of(options) == expected_index(options)


@pytest.mark.parametrize("content", ["no json", "[1]", '{"a": 1}'])
def test_a_broken_index_is_written_anew(run: Any, options: dict[str, Any], content: str) -> None:
    run(profile_keys, **options)
    Path(options["index"]).write_text(content)
    assert run(profile_keys, **options)["diff"]["before"]["index"] == "not an index"
    assert index_of(options) == expected_index(options)


def test_puts_modes_right(run: Any, options: dict[str, Any]) -> None:
    run(profile_keys, **options)
    os.chmod(options["index"], 0o640)
    os.chmod(Path(options["directory"], "client.key"), 0o644)
    result = run(profile_keys, **options)
    assert result["diff"]["before"] == {"key client mode": "0644", "index mode": "0640"}
    assert not run(profile_keys, **options)["changed"]


def test_two_profiles_with_one_key_are_refused(run: Any, options: dict[str, Any]) -> None:
    """Even when the other profile is of the other plane: its key would open this one."""
    run(profile_keys, **options)
    key = Path(options["directory"], "private.key").read_text()
    Path(options["directory"], "personal.key").write_text(key)
    result = run(profile_keys, **options)
    assert result["failed"] and "'personal' and 'private' have the same key" in result["msg"]
    assert key not in json.dumps(result)


@pytest.mark.parametrize("name", ["../etc", "Private", "a.b", "", "-x", "a/b", "x" * 65])
def test_names_that_are_no_profile(run: Any, options: dict[str, Any], name: str) -> None:
    options["profiles"] = [name]
    result = run(profile_keys, **options)
    assert result["failed"] and "is no profile name" in result["msg"]


def test_a_name_listed_twice(run: Any, options: dict[str, Any]) -> None:
    options["profiles"] = ["private", "private"]
    assert "listed twice" in run(profile_keys, **options)["msg"]


def test_a_short_key_is_refused(run: Any, options: dict[str, Any]) -> None:
    Path(options["directory"], "private.key").write_text("guess-me")
    result = run(profile_keys, **options)
    assert result["failed"] and "only 8 characters" in result["msg"] and "guess-me" not in json.dumps(result)


def test_a_missing_folder(run: Any, options: dict[str, Any], tmp_path: Path) -> None:
    options["directory"] = str(tmp_path / "none")
    assert run(profile_keys, check=True, **options)["changed"]
    assert "does not exist" in run(profile_keys, **options)["msg"]
