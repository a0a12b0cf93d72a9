# SPDX-License-Identifier: MIT
"""Every template renders under every setting of its role, with nothing undefined, into what its kind of file may be."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import rendering
import yaml
from ansible.errors import AnsibleUndefinedVariable
from rendering import EDGES, ROLES, ROOT, ROWS, Rendered, Row

CASES = [(row, name) for row in ROWS for name in rendering.settings(row.role)]
#: What is left of Jinja, or of a value that was none, in a file that should hold neither.
LEFT_OVER = re.compile(r"\{\{|\{%|%\}|\bNone\b|\bUndefined\b|<ansible")


def ids(case: tuple[Row, str]) -> str:
    row, name = case
    return f"{row.role}/{row.template} - {name}"


def shellcheck() -> str:
    """The program, as tools/test names it, as its environment has it, or from the PATH."""
    near = ROOT / ".lab/checks/bin/shellcheck"
    found = os.environ.get("MUSHISHI_SHELLCHECK") or (str(near) if near.exists() else shutil.which("shellcheck"))
    assert found, "shellcheck is missing: run tools/test --static once, or install shellcheck"
    return found


def complaints_of_shellcheck(text: str) -> str:
    done = subprocess.run([shellcheck(), "--shell=sh", "-"], input=text, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def faults(path: str, text: str) -> list[str]:
    """What is wrong with a rendered file of its kind."""
    found = [f"holds {word!r}" for word in LEFT_OVER.findall(text)]
    if not text.strip() or not text.endswith("\n"):
        found.append("is empty, or its last line has no end")
    if path.endswith(".json"):
        json.loads(text)
    elif path.endswith((".yml", ".yaml")):
        assert isinstance(yaml.safe_load(text), dict)
    elif path.endswith(".sh"):
        found += complaints_of_shellcheck(text).splitlines()
    elif path.endswith((".nft", "Caddyfile", ".cfg")):
        depth = sum(line.count("{") - line.count("}") for line in re.sub(r'"[^"]*"|\'[^\']*\'', "", text).splitlines())
        found += [f"{depth} braces are not closed"] if depth else []
    return found


def test_every_template_has_a_row() -> None:
    assert {(row.role, row.template) for row in ROWS} == rendering.templates_on_disk()


def test_every_role_has_settings() -> None:
    assert set(EDGES) == {path.name for path in ROLES.iterdir() if path.is_dir()}


def test_a_template_that_nobody_lists_is_found(tmp_path: Path) -> None:
    for name in ("a/templates/deep/x.conf", "a/files/y.sh.j2", "b/tasks/main.yml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert rendering.templates_on_disk(tmp_path) == {("a", "deep/x.conf"), ("a", "files/y.sh.j2")}


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_renders(case: tuple[Row, str], rendered: Rendered) -> None:
    row, name = case
    made = rendered[row.role, row.template, name]
    assert not isinstance(made, str), made
    assert made, "rendered for nothing"
    assert len({path for path, _text in made}) == len(made), "two uses write the same file"
    assert {path: found for path, text in made if (found := faults(path, text))} == {}


@pytest.mark.parametrize("text", ["{{ nobody_defined_this }}", "{% if item.no_such_key %}x{% endif %}"])
def test_an_undefined_variable_is_an_error(text: str) -> None:
    values: dict[str, Any] = rendering.values_of("base", rendering.settings("base")["example"]) | {"item": {}}
    with pytest.raises(AnsibleUndefinedVariable):
        rendering.evaluate(text, values)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("x.conf", "User={{ name }}\n"),
        ("x.conf", "User=None\n"),
        ("x.conf", "User=a"),
        ("x.nft", "table inet x {\n"),
        ("x.sh", "cd $1\n"),
    ],
)
def test_a_faulty_file_is_found(path: str, text: str) -> None:
    assert faults(path, text)


@pytest.mark.parametrize("setting", sorted({(role, name) for role, edges in EDGES.items() for name in edges}))
def test_an_edge_changes_something(setting: tuple[str, str]) -> None:
    """An edge whose variable was renamed would quietly test the example again."""
    role, name = setting
    known = rendering.values_of(role, {})
    assert set(EDGES[role][name]) <= set(known), "a variable that the role does not have"
