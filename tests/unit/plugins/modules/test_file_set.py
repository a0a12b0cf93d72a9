# SPDX-License-Identifier: MIT
"""file_set: many files in one step, each whole or not at all, none touched that is right."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils import _files
from ansible_collections.mushishi.sovereign.plugins.modules import file_set

OWNER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def entry(tmp_path: Path) -> Make:
    """Makes an entry of the user who runs the tests: ``entry("name", **options)``."""

    def make(name: str, **options: Any) -> dict[str, Any]:
        access = {} if options.get("state") in ("link", "absent") else {"owner": OWNER, "group": GROUP}
        return {"path": str(tmp_path / name), **access, **options}

    return make


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Inode, change time and mode of everything below ``folder``."""
    return {
        str(path): (status.st_ino, status.st_ctime_ns, status.st_mode)
        for path in sorted(folder.rglob("*"))
        for status in [path.lstat()]
    }


def test_makes_folders_files_and_links_once(run: Any, entry: Make, tmp_path: Path) -> None:
    entries = [
        entry("a", state="directory", mode="0750"),
        entry("deep/er", state="directory", mode="0755"),
        entry("a/one", content="first\n", mode="0644"),
        entry("a/two", content="", mode="0600"),
        entry("link", state="link", target="/dev/null"),
        entry("gone", state="absent"),
    ]
    (tmp_path / "gone").write_text("x")
    predicted = run(file_set, check=True, entries=entries)
    assert os.listdir(tmp_path) == ["gone"]
    first = run(file_set, entries=entries)
    assert first["changed_paths"] == [item["path"] for item in entries]
    assert predicted["diff"] == first["diff"] and predicted["changed_paths"] == first["changed_paths"]
    assert (tmp_path / "a/one").read_text() == "first\n" and (tmp_path / "a/two").read_bytes() == b""
    assert os.readlink(tmp_path / "link") == "/dev/null" and not (tmp_path / "gone").exists()
    modes = [(tmp_path / name).stat().st_mode & 0o7777 for name in ("a", "deep", "deep/er", "a/one", "a/two")]
    assert modes == [0o750, 0o755, 0o755, 0o644, 0o600]
    before = snapshot(tmp_path)
    second = run(file_set, entries=entries)
    assert (second["changed"], second["diff"], second["changed_paths"]) == (False, [], [])
    assert snapshot(tmp_path) == before, "what is right is not touched, not even its times"


def test_only_what_differs_is_touched(run: Any, entry: Make, tmp_path: Path) -> None:
    entries = [entry("one", content="1\n", mode="0644"), entry("two", content="2\n", mode="0644")]
    run(file_set, entries=entries)
    before = snapshot(tmp_path)
    (tmp_path / "two").write_text("edited by hand\n")
    result = run(file_set, entries=entries)
    assert result["changed_paths"] == [str(tmp_path / "two")]
    assert result["diff"][0]["before"] == "edited by hand\n" and result["diff"][0]["after"] == "2\n"
    assert (tmp_path / "two").read_text() == "2\n"
    after = snapshot(tmp_path)
    assert after[str(tmp_path / "one")] == before[str(tmp_path / "one")]
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_mode_alone_is_put_right_in_place(run: Any, entry: Make, tmp_path: Path) -> None:
    entries = [entry("d", state="directory", mode="0700"), entry("d/f", content="x", mode="0600")]
    run(file_set, entries=entries)
    inode = (tmp_path / "d/f").stat().st_ino
    (tmp_path / "d").chmod(0o755)
    (tmp_path / "d/f").chmod(0o666)
    result = run(file_set, entries=entries)
    assert [part["before"] for part in result["diff"]] == [{"mode": "0755"}, {"mode": "0666"}]
    assert [part["after"] for part in result["diff"]] == [{"mode": "0700"}, {"mode": "0600"}]
    assert (tmp_path / "d/f").stat().st_ino == inode and (tmp_path / "d/f").stat().st_mode & 0o777 == 0o600


def test_content_from_a_file_on_the_target(run: Any, entry: Make, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"\0binary" * 300_000)
    entries = [entry("copy", src=str(source), mode="0755")]
    assert run(file_set, check=True, entries=[entry("copy", src=str(tmp_path / "later"), mode="0755")])["changed"]
    first = run(file_set, entries=entries)
    assert first["changed"] and (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert first["diff"][-1]["after"].startswith("2100000 bytes, sha256 ")
    assert not run(file_set, entries=entries)["changed"]
    with source.open("r+b") as stream:
        stream.write(b"\1")
    assert run(file_set, entries=entries)["changed"] and (tmp_path / "copy").read_bytes()[:1] == b"\1"
    missing = run(file_set, entries=[entry("copy", src=str(tmp_path / "later"), mode="0755")])
    assert missing["failed"] and "later does not exist" in missing["msg"]


def test_a_validation_sees_the_new_file_and_can_keep_the_old(run: Any, entry: Make, tmp_path: Path) -> None:
    def wanted(text: str) -> list[dict[str, Any]]:
        return [
            entry(
                "conf",
                content=text,
                mode="0644",
                validate=["/bin/sh", "-c", 'echo seen >&2; grep -q good "$1"', "sh", "%s"],
            ),
            entry("later", content=text, mode="0644"),
        ]

    assert run(file_set, entries=wanted("good\n"))["changed"]
    inode = (tmp_path / "conf").stat().st_ino
    refused = run(file_set, entries=wanted("bad\n"))
    assert refused["failed"] and f"file {tmp_path / 'conf'}: sh refuses the new content" in refused["msg"]
    assert "seen" in refused["msg"]
    assert (tmp_path / "conf").read_text() == "good\n" and (tmp_path / "conf").stat().st_ino == inode
    assert (tmp_path / "later").read_text() == "good\n", "the work ends at the entry that is refused"
    assert sorted(os.listdir(tmp_path)) == ["conf", "later"]
    assert run(file_set, check=True, entries=wanted("bad\n"))["changed"], "a dry run does not run programs"


def test_what_a_killed_run_left_is_taken_away(run: Any, entry: Make, tmp_path: Path) -> None:
    left, other = tmp_path / ".conf.0123456789abcdef", tmp_path / ".conf.d"
    left.write_text("half a sec")
    other.write_text("somebody's")
    run(file_set, entries=[entry("conf", content="whole\n", mode="0600")])
    assert sorted(os.listdir(tmp_path)) == [".conf.d", "conf"]


def test_a_link_is_never_followed(run: Any, entry: Make, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep\n")
    (tmp_path / "conf").symlink_to(victim)
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    for options in (
        entry("conf", content="new\n", mode="0644"),
        entry("folder", state="directory", mode="0755"),
    ):
        result = run(file_set, entries=[options])
        assert result["failed"] and "a link is in its place" in result["msg"], options
    assert victim.read_text() == "keep\n"
    assert run(file_set, entries=[entry("conf", state="absent")])["changed"]
    assert victim.exists() and not (tmp_path / "conf").is_symlink()


def test_a_link_is_led_elsewhere(run: Any, entry: Make, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("old")
    result = run(file_set, entries=[entry("link", state="link", target="new")])
    assert result["diff"][0]["before"] == {"target": "old"} and os.readlink(tmp_path / "link") == "new"
    (tmp_path / "file").write_text("somebody's")
    refused = run(file_set, entries=[entry("file", state="link", target="/dev/null")])
    assert refused["failed"] and "a file is in its place" in refused["msg"]


def test_absent_takes_no_folder_with_something_in_it(run: Any, entry: Make, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x").write_text("x")
    refused = run(file_set, entries=[entry("d", state="absent")])
    assert refused["failed"] and "something in it" in refused["msg"]
    both = [entry("d/x", state="absent"), entry("d", state="absent")]
    dry = run(file_set, entries=both, check=True)
    assert not dry["failed"] and dry["changed_paths"] == [str(tmp_path / "d/x"), str(tmp_path / "d")]
    (tmp_path / "d/y").write_text("y")
    assert run(file_set, entries=both, check=True)["failed"], "the other file stays"
    (tmp_path / "d/y").unlink()
    assert run(file_set, entries=both)["changed"] and not (tmp_path / "d").exists()
    assert not run(file_set, entries=[entry("d", state="absent")])["changed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "relative", "content": "", "mode": "0644"}, "not a plain absolute path"),
        ({"path": "/tmp/../etc/x", "content": "", "mode": "0644"}, "not a plain absolute path"),
        ({"content": "x"}, "mode is missing"),
        ({"mode": "0644"}, "content or src"),
        ({"content": "x", "src": "/etc/hostname", "mode": "0644"}, "content or src"),
        ({"content": "x", "mode": "rw"}, "not an octal number"),
        ({"content": "x", "mode": "0666"}, "lets everybody write"),
        ({"state": "directory", "mode": "0777"}, "lets everybody write"),
        ({"state": "directory"}, "mode is missing"),
        ({"state": "link"}, "target is missing"),
        ({"state": "link", "target": "x", "content": "y"}, "content is given"),
        ({"state": "absent", "mode": "0644"}, "mode is given"),
        ({"content": "x", "mode": "0644", "validate": ["true"]}, "names no file"),
        ({"content": "x", "mode": "0644", "owner": "mushishi-not-there"}, "user 'mushishi-not-there' does not exist"),
    ],
)
def test_refuses(run: Any, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    access = {} if options.get("state") in ("link", "absent") else {"owner": OWNER, "group": GROUP}
    result = run(file_set, entries=[{"path": str(tmp_path / "x"), **access, **options}])
    assert result["failed"] and message in result["msg"]
    assert os.listdir(tmp_path) == []


def test_refuses_a_path_named_twice_before_anything_is_written(run: Any, entry: Make, tmp_path: Path) -> None:
    result = run(file_set, entries=[entry("x", content="1", mode="0644"), entry("x", content="2", mode="0644")])
    assert result["failed"] and "named twice" in result["msg"] and os.listdir(tmp_path) == []


def test_a_missing_folder_or_owner_is_accepted_by_a_dry_run_alone(run: Any, entry: Make, tmp_path: Path) -> None:
    entries = [entry("no/x", content="1", mode="0644")]
    assert run(file_set, check=True, entries=entries)["changed"]
    result = run(file_set, entries=entries)
    assert result["failed"] and f"folder {tmp_path / 'no'} does not exist" in result["msg"]
    unknown = [{**entry("x", content="1", mode="0644"), "owner": "mushishi-not-there"}]
    assert run(file_set, check=True, entries=unknown)["changed"]


def test_a_power_cut_before_the_name_leaves_the_old_file(
    run: Any, entry: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything before the rename happens to another file."""
    run(file_set, entries=[entry("conf", content="old\n", mode="0644")])

    def cut(_source: str, _target: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_files.os, "rename", cut)
        with pytest.raises(KeyboardInterrupt):
            run(file_set, entries=[entry("conf", content="new\n", mode="0644")])
    assert (tmp_path / "conf").read_text() == "old\n"


def test_a_source_that_cannot_be_read_is_named(
    run: Any, entry: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc/self/mem opens, and fails at its first byte."""
    result = run(file_set, entries=[entry("a", src="/proc/self/mem", mode="0644")])
    assert result["failed"] and "src /proc/self/mem cannot be read" in result["msg"]
    source = tmp_path / "source"
    source.write_text("x")
    opens = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path) == str(source):
            raise PermissionError(13, "Permission denied")
        return opens(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    result = run(file_set, entries=[entry("a", src=str(source), mode="0644")])
    assert result["failed"] and f"src {source} cannot be read (Permission denied)" in result["msg"]
    assert os.listdir(tmp_path) == ["source"]
