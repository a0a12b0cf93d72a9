# SPDX-License-Identifier: MIT
"""The generated reference equals what the code says, and the check that says so can fail."""

from __future__ import annotations

import shutil
import types
from pathlib import Path

import pytest

PAGES = ("variables", "modules", "chains")


@pytest.mark.parametrize("page", PAGES)
def test_page_has_not_drifted(page: str, checkout: Path, docs_tool: types.ModuleType) -> None:
    wanted = docs_tool.PAGES[page](checkout)
    assert docs_tool.drift(checkout / "docs" / "reference" / f"{page}.md", wanted) == "", "run tools/docs and commit"


def test_every_page_is_checked(docs_tool: types.ModuleType) -> None:
    assert sorted(docs_tool.PAGES) == sorted(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_generation_is_deterministic(page: str, checkout: Path, docs_tool: types.ModuleType) -> None:
    assert docs_tool.PAGES[page](checkout) == docs_tool.PAGES[page](checkout)


def test_every_filter_is_documented(checkout: Path, docs_tool: types.ModuleType) -> None:
    files = [path for path in (checkout / "plugins" / "filter").glob("*.py") if path.stem != "__init__"]
    modules = [docs_tool.import_from_collection(checkout, f"filter.{path.stem}") for path in files]
    names = {name for module in modules for name in module.FilterModule().filters()}
    assert names == set(docs_tool.documented_plugins(checkout, "filter"))


def test_every_module_is_documented(checkout: Path, docs_tool: types.ModuleType) -> None:
    files = {path.stem for path in (checkout / "plugins" / "modules").glob("*.py")} - {"__init__"}
    assert files == set(docs_tool.documented_plugins(checkout, "modules"))


@pytest.fixture
def small_repository(tmp_path: Path) -> Path:
    """A repository with one role, enough for the variables page."""
    meta = tmp_path / "roles" / "lamp" / "meta"
    meta.mkdir(parents=True)
    (meta / "argument_specs.yml").write_text(
        "argument_specs:\n"
        "  main:\n"
        "    short_description: Light\n"
        "    options:\n"
        "      lamp_colour: {type: str, default: warm, choices: [warm, cold], description: The colour.}\n"
        "      lamp_key: {type: str, required: true, no_log: true, description: 'Needs V(16) characters | or more.'}\n"
        "      lamp_rows:\n"
        "        type: list\n"
        "        elements: dict\n"
        "        description: Rows.\n"
        "        options:\n"
        "          name: {type: str, required: true, description: Its name.}\n",
        encoding="utf-8",
    )
    return tmp_path


def test_variables_are_described_whole(small_repository: Path, docs_tool: types.ModuleType) -> None:
    lines = docs_tool.variables_page(small_repository).splitlines()
    assert "| `lamp_colour` | str | `warm` | `warm`, `cold` | The colour. |" in lines
    assert "| `lamp_key` | str, secret | **required** |  | Needs `16` characters \\| or more. |" in lines
    assert "| `lamp_rows[].name` | str | **required** |  | Its name. |" in lines


def test_check_ends_with_0_then_1_with_a_diff_and_writes_nothing(
    small_repository: Path, docs_tool: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--root", str(small_repository), "variables"]
    assert docs_tool.main(arguments) == 0
    assert docs_tool.main(["--check", *arguments]) == 0
    written = small_repository / "docs" / "reference" / "variables.md"
    before = written.read_text(encoding="utf-8")
    specs = small_repository / "roles" / "lamp" / "meta" / "argument_specs.yml"
    specs.write_text(specs.read_text(encoding="utf-8").replace("default: warm", "default: cold"), encoding="utf-8")
    capsys.readouterr()
    assert docs_tool.main(["--check", *arguments]) == 1
    assert "+| `lamp_colour` | str | `cold` |" in capsys.readouterr().out
    assert written.read_text(encoding="utf-8") == before


def test_a_role_without_specs_is_named(
    small_repository: Path, docs_tool: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(small_repository / "roles" / "lamp" / "meta")
    assert docs_tool.main(["--root", str(small_repository), "variables"]) == 2
    assert "roles/lamp/meta/argument_specs.yml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Use V(a) or O(b=c).", "Use `a` or `b=c`."),
        ("V(name(1\\)) and I(this) and B(that)", "`name(1)` and *this* and **that**"),
        (
            "L(text, https://example.test/x) U(https://example.test)",
            "[text](https://example.test/x) <https://example.test>",
        ),
        ("See M(ansible.builtin.copy) and P(a.b.c#filter).", "See `ansible.builtin.copy` and `a.b.c`."),
        (["One.", "Two\n  lines."], "One. Two lines."),
        ("GPU(x) stays", "GPU(x) stays"),
    ],
)
def test_markup(text: object, wanted: str, docs_tool: types.ModuleType) -> None:
    assert docs_tool.markup(text) == wanted


@pytest.mark.parametrize(("text", "wanted"), [("a`b", "``a`b``"), ("`a`", "`` `a` ``"), ("", "")])
def test_inline_code_survives_backticks(text: str, wanted: str, docs_tool: types.ModuleType) -> None:
    assert docs_tool.code(text) == wanted
