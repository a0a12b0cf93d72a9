# SPDX-License-Identifier: MIT
"""The static checks: that each finds what is planted for it, and that silence is not taken for success."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

from labkit import checks, galaxy, gate, sanity, source
from labkit.say import Failed

TOOLS = ROOT / ".lab/checks/bin"
PLANTED = {
    "ruff": ("x.py", "import os\n", ["check", "--no-cache", "--config", str(ROOT / "ruff.toml"), "x.py"]),
    "ruff, a secret's risk": (
        "x.py",
        'import subprocess\nsubprocess.run("ls", shell=True, check=True)\n',
        ["check", "--no-cache", "--config", str(ROOT / "ruff.toml"), "x.py"],
    ),
    "yamllint": ("x.yml", "a: 1\na: 2\n", ["--strict", "--config-file", str(ROOT / ".yamllint"), "x.yml"]),
    "shellcheck": ("x.sh", "#!/bin/sh\ncd $1\n", ["x.sh"]),
    "mypy": (
        "x.py",
        "def f(x):\n    return x\n",
        ["--config-file", str(ROOT / "mypy.ini"), "--cache-dir", os.devnull, "x.py"],
    ),
    "ansible-lint": (
        "tasks/main.yml",
        "- shell: ls\n",
        ["--offline", "--profile", "production", "--config-file", str(ROOT / ".ansible-lint"), "tasks/main.yml"],
    ),
    "antsibull-changelog": ("changelogs/fragments/x.yml", "no_such_section:\n  - A change.\n", ["lint"]),
}


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    if not TOOLS.is_dir():
        pytest.fail("the tools are missing: tools/test makes them (.lab/checks)")
    return {**os.environ, **checks.environment(TOOLS.parent)}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(tmp_path: Path, environment: dict[str, str], name: str) -> None:
    """Each tool with its settings of this repository; the same file without the fault is every day's run."""
    file, text, words = PLANTED[name]
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if name == "antsibull-changelog":
        (tmp_path / "changelogs/config.yaml").write_text((ROOT / "changelogs/config.yaml").read_text())
        (tmp_path / "galaxy.yml").write_text((ROOT / "galaxy.yml").read_text())
    program = name.partition(",")[0]
    done = subprocess.run(
        [str(TOOLS / program), *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0, done.stdout + done.stderr
    assert Path(file).name in done.stdout + done.stderr, "it is the planted file that is named"


def check(tmp_path: Path, script: str, slow: bool = False) -> checks.Check:
    return checks.Check("a check", [sys.executable, "-c", script], cwd=tmp_path, slow=slow)


@pytest.mark.parametrize(("script", "fault"), [("", ""), ("print('no'); exit(1)", "no\n"), ("exit(2)", "status 2")])
def test_a_check_fails_by_its_status(tmp_path: Path, script: str, fault: str) -> None:
    result = checks.one(check(tmp_path, script), {}, "digest")
    assert fault in result.fault and bool(fault) == bool(result.fault)


def test_a_pass_is_remembered_for_the_same_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CACHE", tmp_path / "cache")
    count = check(tmp_path, "open('runs', 'a').write('x')", slow=True)
    seen = [checks.one(count, {}, digest).remembered for digest in ("one", "one", "two", "one")]
    assert seen == [False, True, False, False]
    assert (tmp_path / "runs").read_text() == "xxx"


def test_a_failure_is_never_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CACHE", tmp_path / "cache")
    failing = check(tmp_path, "exit(1)", slow=True)
    assert [checks.one(failing, {}, "one").remembered for _again in range(2)] == [False, False]


def test_only_a_failure_shows_its_output() -> None:
    some = check(Path(), "")
    assert checks.say(checks.Result(some, "", 75.0)) == "ok      a check (1:15)"
    shown = checks.say(checks.Result(some, "\n".join(map(str, range(100))), 1.0)).splitlines()
    assert shown[0] == "FAILED  a check (0:01)" and shown[-1] == "99" and shown[1] == "… 40 lines before"


def repository(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_copy_follows_the_checkout(tmp_path: Path) -> None:
    root = repository(tmp_path / "root", {".gitignore": "*.log\n", "a.py": "1", "b/c.sh": "2", "x.log": "3"})
    first = source.copy(root, tmp_path / "copy")
    assert first.files == (".gitignore", "a.py", "b/c.sh")
    assert source.copy(root, tmp_path / "copy") == first, "the same files, the same digest"
    (root / "a.py").unlink()
    (root / "b/c.sh").write_text("4")
    (first.path / "left-behind").touch()
    second = source.copy(root, tmp_path / "copy")
    assert second.files == (".gitignore", "b/c.sh") and second.digest != first.digest
    there = sorted(str(path.relative_to(second.path)) for path in second.path.rglob("*") if ".git/" not in f"{path}/")
    assert there == [".gitignore", "b", "b/c.sh"]
    assert (second.path / "b/c.sh").read_text() == "4"


def test_the_copy_notices_a_changed_mode(tmp_path: Path) -> None:
    root = repository(tmp_path / "root", {"a": "1"})
    before = source.copy(root, tmp_path / "copy").digest
    (root / "a").chmod(0o755)
    assert source.copy(root, tmp_path / "copy").digest != before


def test_a_copy_of_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(Failed, match="would judge nothing"):
        source.copy(tmp_path / "root", tmp_path / "copy")


def test_shell_programs_are_known_by_name_or_first_line(tmp_path: Path) -> None:
    files = {
        "a.sh": "true\n",
        "b": "#!/bin/sh\n",
        "c": "#!/usr/bin/env bash\n",
        "d": "#!/usr/bin/env python3\n",
        "e.sh.j2": "#!/bin/sh\n",
        "f": "text",
    }
    tree = source.copy(repository(tmp_path / "root", files), tmp_path / "copy")
    assert source.shell_files(tree) == ["a.sh", "b", "c"]


RAN = "".join(f'Running sanity test "{number}"\n' for number in range(30))


@pytest.mark.parametrize(
    ("status", "output", "passes"),
    [
        (0, RAN, True),
        (1, RAN + "ERROR: x.py:1:1: bad\n", False),
        (0, "WARNING: All targets skipped.\n", False),
        (0, RAN + 'WARNING: Skipping sanity test "shellcheck" because shellcheck could not be found.\n', False),
        (0, RAN + 'WARNING: Skipping sanity test "import" on Python 3.13 because it could not be found.\n', True),
    ],
)
def test_silence_of_ansible_test_is_no_success(status: int, output: str, passes: bool) -> None:
    assert (sanity.judge(status, output) == "") is passes


IMPORTED = "Importer processing completed successfully\n"


@pytest.mark.parametrize(
    ("status", "output", "passes"),
    [(0, IMPORTED, True), (0, "WARNING: no changelog\n" + IMPORTED, False), (1, IMPORTED, False), (0, "", False)],
)
def test_a_warning_of_galaxy_importer_counts(status: int, output: str, passes: bool) -> None:
    assert (galaxy.judge_import(status, output) == "") is passes


COMPUTED = """\
roles/x/meta/argument_specs.yml:0:0: 1 validation error for RoleSchema
                                     entry_points -> main -> options -> x_port
                                       Value error, Invalid value '{{ y_port | default(1) }}' for "default": <class
roles/x/meta/argument_specs.yml:0:0: Did not return correct DOCUMENTATION
"""
MISSING = """\
roles/x/meta/argument_specs.yml:0:0: 1 validation error for RoleSchema
                                     entry_points -> main -> description
                                       Field required (type=missing)
"""


@pytest.mark.parametrize(
    ("status", "output", "passes"),
    [
        (0, "", True),
        (3, COMPUTED, True),
        (3, MISSING, False),
        (3, COMPUTED + MISSING, False),
        (3, "plugins/modules/x.py:0:0: RV(a): does not exist\n", False),
        (1, "Traceback\n", False),
    ],
)
def test_only_computed_defaults_are_excused(status: int, output: str, passes: bool) -> None:
    assert (galaxy.judge_docs(status, output) == "") is passes


@pytest.mark.parametrize("words", [[], ["--nightly"]])
def test_all_parts_run_unless_some_are_named(words: list[str]) -> None:
    chosen = gate.chosen_parts(gate.parser().parse_args(words))
    # A real vLLM is asked for by name: it is gigabytes.
    assert [name for name, wanted in chosen.items() if not wanted] == ["vllm"]


def test_named_parts_run_alone() -> None:
    given: argparse.Namespace = gate.parser().parse_args(["--static", "--unit"])
    assert gate.chosen_parts(given) == {"static": True, "unit": True, "vllm": False, "lab": False}


def test_no_ignores() -> None:
    """ansible-test's lists of excuses exist for every version, and hold none."""
    files = sorted((ROOT / "tests/sanity").glob("ignore-*.txt"))
    assert [path.name for path in files] == ["ignore-2.19.txt", "ignore-2.20.txt", "ignore-2.21.txt"]
    assert [path.name for path in files if path.read_text()] == []
