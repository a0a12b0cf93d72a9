# SPDX-License-Identifier: MIT
"""secret_file: made once, whole, private, and never shown."""

from __future__ import annotations

import grp
import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.modules import secret_file

OWNER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name
SECRET = "sk-given-by-a-test-0123456789"


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Options for a file of the user who runs the tests."""
    return {"path": str(tmp_path / "some.key"), "owner": OWNER, "group": GROUP}


def mode_of(path: str) -> int:
    """Permission bits of the file at ``path``."""
    return os.stat(path).st_mode & 0o7777


def test_makes_a_secret_once(run: Any, options: dict[str, Any]) -> None:
    predicted = run(secret_file, check=True, **options)
    assert not os.path.exists(options["path"])
    first = run(secret_file, **options)
    secret = Path(options["path"]).read_text()
    second = run(secret_file, **options)
    assert predicted["changed"] and first["changed"] and not second["changed"]
    assert predicted["diff"] == first["diff"]
    assert first["created"] and not second["created"]
    assert second["diff"]["after"] == {}
    assert Path(options["path"]).read_text() == secret
    # 32 bytes are 43 characters of base64 without padding.
    assert len(secret) == 43 and secret.isascii() and secret[0].isalnum()
    assert mode_of(options["path"]) == 0o600
    assert os.listdir(os.path.dirname(options["path"])) == ["some.key"]
    assert secret not in json.dumps([first, second])


def test_two_secrets_differ_and_carry_the_prefix(run: Any, options: dict[str, Any], tmp_path: Path) -> None:
    run(secret_file, prefix="sk-", **options)
    run(secret_file, prefix="sk-", **{**options, "path": str(tmp_path / "other.key")})
    first, second = (tmp_path / "some.key").read_text(), (tmp_path / "other.key").read_text()
    assert first.startswith("sk-") and second.startswith("sk-") and first != second


def test_an_empty_file_holds_no_secret(run: Any, options: dict[str, Any]) -> None:
    Path(options["path"]).write_text("\n")
    result = run(secret_file, **options)
    assert result["changed"] and len(Path(options["path"]).read_text()) == 43


def test_places_a_given_secret(run: Any, options: dict[str, Any]) -> None:
    predicted = run(secret_file, check=True, content=SECRET + "\n", **options)
    first = run(secret_file, content=SECRET + "\n", **options)
    second = run(secret_file, content=SECRET, **options)
    assert (predicted["changed"], first["changed"], second["changed"]) == (True, True, False)
    assert Path(options["path"]).read_text() == SECRET
    replaced = run(secret_file, content=SECRET + "9", **options)
    assert replaced["diff"]["before"] == {"secret": "another one"} and not replaced["created"]
    assert Path(options["path"]).read_text() == SECRET + "9"
    assert SECRET not in json.dumps([predicted, first, second, replaced])


def test_content_is_kept_out_of_logs() -> None:
    """The option that carries a secret is marked, so that Ansible hides it."""
    source = Path(secret_file.__file__).read_text()
    assert '"content": {"type": "str", "no_log": True}' in source


def test_puts_the_mode_right_and_keeps_the_secret(run: Any, options: dict[str, Any]) -> None:
    run(secret_file, **options)
    secret = Path(options["path"]).read_text()
    os.chmod(options["path"], 0o644)
    predicted = run(secret_file, check=True, **options)
    assert mode_of(options["path"]) == 0o644
    result = run(secret_file, **options)
    assert predicted["diff"] == result["diff"]
    assert result["diff"]["before"] == {"mode": "0644"} and result["diff"]["after"] == {"mode": "0600"}
    assert mode_of(options["path"]) == 0o600 and Path(options["path"]).read_text() == secret


def test_absent(run: Any, options: dict[str, Any]) -> None:
    assert not run(secret_file, state="absent", **options)["changed"]
    run(secret_file, **options)
    assert run(secret_file, check=True, state="absent", **options)["changed"]
    assert os.path.exists(options["path"])
    assert run(secret_file, state="absent", **options)["changed"]
    assert not os.path.exists(options["path"])


def test_a_missing_folder_is_named_but_not_in_check_mode(run: Any, options: dict[str, Any], tmp_path: Path) -> None:
    options["path"] = str(tmp_path / "no" / "some.key")
    assert run(secret_file, check=True, **options)["changed"]
    result = run(secret_file, **options)
    assert result["failed"] and f"folder {tmp_path / 'no'} does not exist" in result["msg"]


def test_an_unknown_owner_is_named_but_not_in_check_mode(run: Any, options: dict[str, Any]) -> None:
    options["owner"] = "mushishi-not-there"
    assert run(secret_file, check=True, **options)["changed"]
    result = run(secret_file, **options)
    assert result["failed"] and "user 'mushishi-not-there' does not exist" in result["msg"]
    assert not os.path.exists(options["path"])


def test_a_link_is_not_followed(run: Any, options: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    os.symlink(target, options["path"])
    result = run(secret_file, content=SECRET, **options)
    assert result["failed"] and "symbolic link" in result["msg"]
    assert target.read_text() == "precious"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "0644"}, "gives away a secret"),
        ({"mode": "0620"}, "gives away a secret"),
        ({"mode": "0700"}, "gives away a secret"),
        ({"mode": "rw"}, "not an octal number"),
        ({"content": "two\nlines"}, "one line of visible ASCII"),
        ({"content": "käy"}, "one line of visible ASCII"),
        ({"content": "  \n"}, "it is empty"),
        ({"bytes": 8}, "8 is out of range"),
        ({"path": "relative.key"}, "plain absolute path"),
        ({"path": "/tmp/../etc/x.key"}, "plain absolute path"),
        ({"path": "/dev/null"}, "not a regular file"),
        ({"path": "/"}, "not a regular file"),
    ],
)
def test_refuses(run: Any, options: dict[str, Any], change: dict[str, Any], message: str) -> None:
    result = run(secret_file, **{**options, **change})
    assert result["failed"] and message in result["msg"]


def test_a_bad_secret_on_disk_is_refused_without_showing_it(run: Any, options: dict[str, Any]) -> None:
    Path(options["path"]).write_text("first-line-secret\nsecond-line-secret")
    result = run(secret_file, **options)
    assert result["failed"] and "line-secret" not in json.dumps(result)
