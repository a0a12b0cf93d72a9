# SPDX-License-Identifier: MIT
"""Manifests of models: what is refused, each with its name and what to do; what role bring is given."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import manifest
from hypothesis import given
from hypothesis import strategies as st

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GOOD: dict[str, Any] = {
    "name": "nemotron-nvfp4",
    "licence": "Example Licence",
    "licence_url": "https://example.org/licence",
    "source": f"https://huggingface.co/example/model/resolve/{COMMIT}",
    "files": [
        {"path": "config.json", "size_bytes": 3, "sha256": "a" * 64},
        {"path": "sub/weights-00001-of-2.safetensors", "size_bytes": 4, "sha256": "B" * 64, "url": "file:///srv/w"},
    ],
}


def read(*models: Any, accepted: tuple[str, ...] = ("Example Licence",)) -> manifest.Manifest:
    return manifest.read(list(models), "/data/models/", accepted, "x_accepted_licences")


def test_the_files_are_what_bring_takes() -> None:
    found = read(GOOD)
    assert found.problems == [] and found.bytes == 7
    assert found.files[0] == {
        "path": "/data/models/nemotron-nvfp4/config.json",
        "url": f"https://huggingface.co/example/model/resolve/{COMMIT}/config.json",
        "sha256": "a" * 64,
        "size_bytes": 3,
        "name": "config.json of nemotron-nvfp4",
    }
    assert (found.files[1]["url"], found.files[1]["sha256"]) == ("file:///srv/w", "b" * 64)


def test_no_model_is_no_problem() -> None:
    assert (read().problems, read().files) == ([], [])


def changed(path: str, value: Any) -> dict[str, Any]:
    model = copy.deepcopy(GOOD)
    *keys, last = path.split("/")
    where: Any = model
    for key in keys:
        where = where[int(key) if isinstance(where, list) else key]
    where[int(last) if isinstance(where, list) else last] = value
    return model


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("name", "", "has no name"),
        ("name", "../x", "has no name"),
        ("licence", "", "says no licence"),
        (
            "licence",
            "Other",
            "'Other' is not accepted. Read it at https://example.org/licence; if you accept it, add it to x_",
        ),
        ("colour", "red", "it has colour"),
        ("files", [], "has no files"),
        ("files", "config.json", "has no files"),
        ("files/0", "config.json", "is no dictionary"),
        ("files/0/path", "/etc/passwd", "must be relative"),
        ("files/0/path", "a/../../b", "must be relative"),
        ("files/0/path", "a//b", "must be relative"),
        ("files/0/path", "x.part", "must be relative"),
        ("files/0/path", "sub/weights-00001-of-2.safetensors", "named twice"),
        ("files/0/colour", "red", "it has colour"),
        ("files/0/sha256", "", "sha256 is missing or malformed. On a Hugging Face"),
        ("files/0/sha256", "a" * 63, "sha256 is missing"),
        ("files/0/size_bytes", 0, "size_bytes is missing"),
        ("files/0/size_bytes", True, "size_bytes is missing"),
        ("files/0/size_bytes", "3", "size_bytes is missing"),
        ("files/0/url", "ftp://x/y", "is no https:// or file:// address"),
        ("source", "", "is no https:// or file:// address"),
        ("source", "https://huggingface.co/example/model/resolve/main", "main is a branch or a tag"),
    ],
)
def test_refused_by_name(path: str, value: Any, words: str) -> None:
    problems = read(changed(path, value)).problems
    assert len(problems) == 1 and words in problems[0], problems


def test_both_are_told_at_once() -> None:
    model = changed("files/0", {"path": "config.json"})
    assert (
        read(model).problems[0].startswith("model nemotron-nvfp4, file config.json: size_bytes and sha256 is missing")
    )


def test_a_model_twice_is_refused() -> None:
    assert read(GOOD, GOOD).problems == ["model nemotron-nvfp4: it is named twice."]


def test_no_licence_is_accepted_by_default() -> None:
    assert len(read(GOOD, accepted=()).problems) == 1


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b.c", "~", "$x", "a b"]), min_size=1, max_size=5))
def test_no_path_leaves_its_folder(parts: list[str]) -> None:
    found = read(changed("files/0/path", "/".join(parts)))
    good = [entry for entry in found.files if entry["name"].startswith("/".join(parts))]
    if not found.problems:
        assert good and not {"..", ".", ""} & set(parts)
    elif {"..", ".", "", "~", "$x"} & set(parts):
        assert any("must be relative" in problem for problem in found.problems)


@pytest.mark.parametrize("raw", [None, "x", 3, [None], {"name": "x"}])
def test_what_is_no_manifest_is_a_problem(raw: Any) -> None:
    assert manifest.read(raw, "/x", [], "x").problems
