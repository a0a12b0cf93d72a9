# SPDX-License-Identifier: MIT
"""Every role has a README, and its argument specs say the same as its defaults, for every entry point."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES_FOLDER = Path(__file__).resolve().parents[3] / "roles"
ROLES = sorted(path.name for path in ROLES_FOLDER.iterdir() if path.is_dir())

TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "path": (str,),
    "raw": (object,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
}
#: Names that sound like a secret must say whether they hold one. Names of files, folders and users are no secrets.
SECRET_NAME = re.compile(r"(^|_)(key|keys|secret|secrets|password|token|tokens)$")
KNOWN_KEYS = {"type", "elements", "required", "default", "choices", "description", "no_log", "options", "version_added"}
#: The one public variable that belongs to no role: the routing policy lives in the inventory.
SHARED_VARIABLES = {"sovereign_policy", "gpu_tenants", "gpu_modes"}


def read(path: Path) -> Any:
    """Return the content of a YAML file, an empty one as {}."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def specs_of(role: str) -> dict[str, dict[str, Any]]:
    specs: dict[str, dict[str, Any]] = read(ROLES_FOLDER / role / "meta" / "argument_specs.yml")["argument_specs"]
    return specs


def defaults_of(role: str) -> dict[str, Any]:
    path = ROLES_FOLDER / role / "defaults" / "main.yml"
    assert path.exists(), f"{role}: defaults/main.yml is missing"
    defaults: dict[str, Any] = read(path)
    return defaults


def walk(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (path, spec) of every option, nested ones included."""
    for name, spec in options.items():
        yield prefix + name, spec
        yield from walk(spec.get("options") or {}, f"{prefix}{name}.")


def is_template(value: object) -> bool:
    """Say whether a default is computed by Jinja, so that its type is known only at run time."""
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def same(left: Any, right: Any) -> bool:
    """Compare two YAML values with their types, so that 1, 1.0 and true differ."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


def differences(defaults: Mapping[str, Any], options: Mapping[str, Any], whole: bool) -> list[str]:
    """Return what differs between a role's defaults and one entry point's options, one sentence each.

    ``whole``: the entry point must know every default (true for ``main``).
    """
    found = []
    for name, spec in options.items():
        if spec.get("required"):
            if "default" in spec or name in defaults:
                found.append(f"{name}: is required, so neither the specs nor the defaults may give it a value")
        elif spec.get("default") is None:
            if defaults.get(name) is not None:
                found.append(f"{name}: has a value in the defaults and none in the specs")
        elif name not in defaults:
            found.append(f"{name}: has a default in the specs and none in the defaults")
        elif not same(defaults[name], spec["default"]):
            found.append(f"{name}: defaults say {defaults[name]!r}, specs say {spec['default']!r}")
    if whole:
        found += [
            f"{name}: stands in the defaults and not in the specs" for name in sorted(set(defaults) - set(options))
        ]
    return found


def test_there_are_roles() -> None:
    assert "base" in ROLES
    assert len(ROLES) >= 9


@pytest.mark.parametrize("role", ROLES)
def test_readme(role: str) -> None:
    text = (ROLES_FOLDER / role / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {role}\n"), "the title is the role's name"
    assert f"docs/reference/variables.md#{role})" in text, "a link to the role's variables"
    assert "```yaml" in text, "a minimal playbook"
    assert f"mushishi.sovereign.{role}" in text, "the role by its full name"


@pytest.mark.parametrize("role", ROLES)
def test_specs_equal_defaults(role: str) -> None:
    defaults = defaults_of(role)
    found = {
        entry: differences(defaults, spec.get("options") or {}, whole=entry == "main")
        for entry, spec in specs_of(role).items()
    }
    assert {entry: lines for entry, lines in found.items() if lines} == {}


@pytest.mark.parametrize("role", ROLES)
def test_every_tasks_file_that_others_include_has_specs(role: str) -> None:
    specs = specs_of(role)
    assert "main" in specs
    if (ROLES_FOLDER / role / "tasks" / "preflight.yml").exists():
        assert "preflight" in specs, "site.yml includes preflight by itself"
    missing = [entry for entry in specs if not (ROLES_FOLDER / role / "tasks" / f"{entry}.yml").exists()]
    assert missing == [], "an entry point is a tasks file"


def entries_used(document: object, roles: Sequence[str] = ROLES) -> set[tuple[str, str]]:
    """(role, entry point) of every import_role, include_role and ``roles:`` in a parsed playbook or tasks file.

    A role whose name is computed counts as each of the roles.
    """
    found: set[tuple[str, str]] = set()
    if isinstance(document, list):
        for part in document:
            found |= entries_used(part, roles)
    elif isinstance(document, dict):
        for key, value in document.items():
            if key.rpartition(".")[2] in ("import_role", "include_role") and isinstance(value, dict):
                name, entry = str(value["name"]).rpartition(".")[2], str(value.get("tasks_from", "main"))
                found |= {(each, entry) for each in (roles if "{{" in str(value["name"]) else [name])}
            elif key == "roles" and isinstance(value, list):
                named = [each.get("role", each.get("name")) if isinstance(each, dict) else each for each in value]
                found |= {(str(each).rpartition(".")[2], "main") for each in named}
            else:
                found |= entries_used(value, roles)
    return found


def test_every_entry_point_that_a_playbook_uses_has_specs() -> None:
    files = [*ROLES_FOLDER.parent.glob("playbooks/*.yml"), *ROLES_FOLDER.glob("*/tasks/*.yml")]
    used = {(role, entry) for path in files for role, entry in entries_used(read(path))}
    assert ("sovereign_plane", "network") in used, "the playbooks are read"
    exist = {(path.parent.parent.name, path.stem) for path in ROLES_FOLDER.glob("*/tasks/*.yml")}
    named = {pair for pair in used if pair not in {(role, "preflight") for role in ROLES} - exist}
    assert named - {(role, entry) for role in ROLES for entry in specs_of(role)} == set()


@pytest.mark.parametrize(
    ("text", "used"),
    [
        ("- hosts: x\n  roles: [a.b.guard, {role: base}]", {("guard", "main"), ("base", "main")}),
        ("- block:\n  - import_role: {name: a.b.guard, tasks_from: x}", {("guard", "x")}),
        ("- ansible.builtin.include_role: {name: 'a.b.{{ item }}', tasks_from: y}", {("r1", "y"), ("r2", "y")}),
        ("- ansible.builtin.debug: {msg: import_role}", set()),
    ],
)
def test_entry_points_are_found(text: str, used: set[tuple[str, str]]) -> None:
    assert entries_used(yaml.safe_load(text), ["r1", "r2"]) == used


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_named_after_the_role(role: str) -> None:
    strangers = [name for name in defaults_of(role) if not name.startswith(f"{role}_")]
    assert strangers == []


@pytest.mark.parametrize("role", ROLES)
def test_options_are_described(role: str) -> None:
    found = []
    for entry, entry_spec in specs_of(role).items():
        if not entry_spec.get("short_description"):
            found.append(f"{entry}: no short_description")
        for path, spec in walk(entry_spec.get("options") or {}):
            text = spec.get("description") or ""
            text = " ".join(text) if isinstance(text, list) else text
            if not text.strip().endswith((".", ")")):
                found.append(f"{entry}/{path}: the description is not a sentence: {text!r}")
            if spec.get("type") not in TYPES:
                found.append(f"{entry}/{path}: type {spec.get('type')!r} is none of {sorted(TYPES)}")
            if spec.get("type") == "list" and "elements" not in spec:
                found.append(f"{entry}/{path}: a list without elements")
            if set(spec) - KNOWN_KEYS:
                found.append(f"{entry}/{path}: unknown keys {sorted(set(spec) - KNOWN_KEYS)}")
            if SECRET_NAME.search(path) and spec.get("type") in ("str", "dict", "list") and "no_log" not in spec:
                found.append(f"{entry}/{path}: sounds like a secret, so it must say no_log: true or false")
    assert found == []


@pytest.mark.parametrize("role", ROLES)
def test_defaults_have_the_type_and_the_choices_of_their_option(role: str) -> None:
    found = []
    for entry, entry_spec in specs_of(role).items():
        for path, spec in walk(entry_spec.get("options") or {}):
            value = spec.get("default")
            if value is None or is_template(value):
                continue
            wanted = TYPES[spec["type"]]
            if not isinstance(value, wanted) or (isinstance(value, bool) and spec["type"] in ("int", "float")):
                found.append(f"{entry}/{path}: default {value!r} is no {spec['type']}")
            each = value if isinstance(value, list) else [value]
            if "choices" in spec and not set(each) <= set(spec["choices"]):
                found.append(f"{entry}/{path}: default {value!r} is none of {spec['choices']}")
    assert found == []


@pytest.mark.parametrize("role", ROLES)
def test_each_default_has_its_sentence(role: str) -> None:
    """Each paragraph of the defaults that sets a variable begins with a comment that says what it does."""
    text = (ROLES_FOLDER / role / "defaults" / "main.yml").read_text(encoding="utf-8")
    bare = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line for line in paragraph.splitlines() if line not in ("---", "# SPDX-License-Identifier: MIT")]
        keys = [number for number, line in enumerate(lines) if re.match(r"[a-z_][a-z0-9_]*:", line)]
        if keys and not any(line.startswith("# ") for line in lines[: keys[0]]):
            bare.append(lines[keys[0]].split(":")[0])
    assert bare == []


@pytest.mark.parametrize("role", ROLES)
def test_specs_name_only_variables_of_the_role_or_of_another_role(role: str) -> None:
    prefixes = tuple(f"{other}_" for other in ROLES)
    strangers = [
        name
        for spec in specs_of(role).values()
        for name in spec.get("options") or {}
        if not name.startswith(prefixes) and name not in SHARED_VARIABLES
    ]
    assert strangers == []


@pytest.mark.parametrize(
    ("defaults", "options", "count"),
    [
        ({"a": 1}, {"a": {"default": 1}}, 0),
        ({"a": 1}, {"a": {"default": 2}}, 1),
        ({"a": 1}, {"a": {"default": True}}, 1),
        ({"a": [1]}, {"a": {"default": [1.0]}}, 1),
        ({"a": 1}, {}, 1),
        ({}, {"a": {"default": 1}}, 1),
        ({"a": 1}, {"a": {"required": True}}, 1),
        ({}, {"a": {"required": True}}, 0),
        ({"a": 1}, {"a": {}}, 1),
        ({}, {"a": {}}, 0),
        ({"a": None}, {"a": {}}, 0),
    ],
)
def test_the_comparison_itself(defaults: dict[str, Any], options: dict[str, Any], count: int) -> None:
    assert len(differences(defaults, options, whole=True)) == count
