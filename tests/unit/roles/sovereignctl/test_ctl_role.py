# SPDX-License-Identifier: MIT
"""What the role puts on a machine: whole by itself, off where it should be off, and no more than it says."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from ctl_world import Desk
from sovereignctl import card, cli, desktop

ROOT = Path(__file__).resolve().parents[4]
ROLE = ROOT / "roles/sovereignctl"
#: A process of its own: Ansible finds the filters of a collection through an import hook.
PROGRAM = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import rendering
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader(os.environ["ANSIBLE_COLLECTIONS_PATH"].split(":"))
values = rendering.values_of("sovereignctl", json.load(sys.stdin))
print(json.dumps(rendering.evaluate("{{ __sovereignctl_program_files + __sovereignctl_command_files + "
                                    "__sovereignctl_desktop_files }}", values)))
"""
AUTOSTART = "/etc/xdg/autostart/mushishi-gpu-mode.desktop"
MENU = "/usr/share/applications/mushishi-gpu-mode.desktop"
POLICY = "/usr/share/polkit-1/actions/mushishi.sovereign.switch.policy"


def entries(**values: Any) -> dict[str, dict[str, Any]]:
    """Path → what file_set is told of it."""
    argv = [sys.executable, "-c", PROGRAM, str(ROOT / "tests/unit/roles")]
    done = subprocess.run(argv, input=json.dumps(values), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {str(entry["path"]): entry for entry in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def plain() -> dict[str, dict[str, Any]]:
    """Without a desktop."""
    return entries()


@pytest.fixture(scope="module")
def placed(plain: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root folder with the role's files in it."""
    root = tmp_path_factory.mktemp("root")
    for path, entry in plain.items():
        target = root / path.lstrip("/")
        if entry.get("state") == "directory":
            target.mkdir(parents=True, exist_ok=True)
        elif entry.get("state") != "absent":
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(entry["content"], encoding="utf-8")
            target.chmod(int(entry["mode"], 8))
    return root


def run_placed(placed: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run a line with nothing but the placed files and the environment's libraries."""
    lib = placed / "opt/mushishi/sovereignctl/lib"
    line = f"import sys; sys.path.insert(0, {str(lib)!r}); {code}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ANSIBLE"))}
    return subprocess.run(
        [sys.executable, "-IB", "-c", line], capture_output=True, text=True, check=False, env=environment, cwd="/"
    )


def test_what_is_placed_is_whole(placed: Path) -> None:
    """Everything that the command imports is among the files, and of the collection nothing else is found."""
    code = (
        "import sovereignctl.cli, sovereignctl.desktop, sovereignctl.picker; "
        "from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import machine; "
        "print(machine.__file__); print('pydantic' in sys.modules, 'ansible' in sys.modules)"
    )
    done = run_placed(placed, code)
    assert done.returncode == 0, done.stderr
    where, others = done.stdout.splitlines()
    assert where.startswith(str(placed)) and others == "False False"


def test_a_part_that_is_missing_would_be_seen(placed: Path, tmp_path: Path) -> None:
    """Control."""
    shutil.copytree(placed, tmp_path / "root")
    name = "opt/mushishi/sovereignctl/lib/ansible_collections/mushishi/sovereign/plugins/module_utils/_files.py"
    (tmp_path / "root" / name).unlink()
    assert "ModuleNotFoundError" in run_placed(tmp_path / "root", "import sovereignctl.cli").stderr or (
        "ImportError" in run_placed(tmp_path / "root", "import sovereignctl.cli").stderr
    )


def test_the_placed_command_answers(placed: Path) -> None:
    done = run_placed(placed, "from sovereignctl.cli import main; sys.exit(main(['complete', '--', 'mode', '']))")
    assert done.stdout.split() == ["history", "names", "status", "switch"], done.stderr


def test_the_tab_key_waits_for_no_library(placed: Path) -> None:
    done = run_placed(
        placed,
        "from sovereignctl.cli import main; main(['complete', '--', 'mode', 'switch', '']); "
        "print([name for name in ('docker', 'pynvml', 'textual', 'requests') if name in sys.modules])",
    )
    assert done.stdout == "[]\n", done


def test_the_registry_is_where_the_core_looks_for_it() -> None:
    from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import machine

    assert card.REGISTRY == machine.REGISTRY


def test_the_command_is_where_the_program_says(plain: dict[str, dict[str, Any]]) -> None:
    command, switch = plain[cli.COMMAND], plain[cli.SWITCH]
    assert command["mode"] == switch["mode"] == "0755"
    assert "/opt/mushishi/sovereignctl/venv/bin/python -IB" in command["content"]
    assert '"/opt/mushishi/sovereignctl/lib"' in command["content"]
    assert f'exec {cli.COMMAND} mode switch "$@"' in switch["content"]


def test_the_switch_can_do_nothing_else(tmp_path: Path, plain: dict[str, dict[str, Any]]) -> None:
    """What polkit is told about is a switch, whatever stands behind it."""
    command, switch = tmp_path / "sovereignctl", tmp_path / "switch"
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    switch.write_text(plain[cli.SWITCH]["content"].replace(cli.COMMAND, str(command)))
    for path in (command, switch):
        path.chmod(0o755)
    done = subprocess.run([str(switch), "queue", "list"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mode", "switch", "queue", "list"]


# ---- the desktop
def test_without_a_desktop_its_files_are_taken_away(plain: dict[str, dict[str, Any]]) -> None:
    assert [plain[path]["state"] for path in (AUTOSTART, MENU, POLICY)] == ["absent"] * 3


def test_the_autostart_is_off_until_it_is_asked_for() -> None:
    found = entries(sovereignctl_desktop=True)
    assert "content" in found[MENU] and "content" in found[POLICY] and found[AUTOSTART]["state"] == "absent"
    found = entries(sovereignctl_desktop=True, sovereignctl_desktop_autostart=True)
    assert found[AUTOSTART]["content"] == found[MENU]["content"]


def test_the_menu_entry_starts_the_picker() -> None:
    entry = configparser.ConfigParser(interpolation=None)
    entry.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their letters
    entry.read_string((ROLE / "files/desktop/mushishi-gpu-mode.desktop").read_text(encoding="utf-8"))
    told = entry["Desktop Entry"]
    assert told["Exec"] == f"{cli.COMMAND} desktop" and told["Type"] == "Application" and told["Terminal"] == "false"
    assert told["Categories"].endswith(";")


def test_polkit_asks_an_administrator_for_the_switch_alone() -> None:
    tree = ElementTree.parse(ROLE / "files/desktop/mushishi.sovereign.switch.policy")  # noqa: S314 - our own file
    (action,) = tree.findall("action")
    assert action.get("id") == "mushishi.sovereign.switch"
    (path,) = [note.text for note in action.findall("annotate") if "exec.path" in str(note.get("key"))]
    assert path == cli.SWITCH
    defaults = action.find("defaults")
    assert defaults is not None and {rule.text for rule in defaults} == {"auth_admin", "auth_admin_keep"}


def test_polkit_is_asked_with_the_path_that_its_rule_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desktop.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert desktop.asking_for_root(cli.Outside.switch) == ["/usr/bin/pkexec", cli.SWITCH]


# ---- the tab key
def test_bash_completes(desk: Desk, tmp_path: Path, collections_root: Path) -> None:
    """bash itself, with the placed completion and the real answers."""
    command = tmp_path / "bin/sovereignctl"
    command.parent.mkdir()
    here = Path(__file__).resolve().parent
    paths = [collections_root, here, ROLE / "files", ROOT / "tests/unit/plugins/module_utils/gpu"]
    code = (
        f"import sys; sys.path[:0] = {[str(path) for path in paths]!r}\n"
        "from pathlib import Path; from sovereignctl.cli import Outside, main; from sovereignctl.card import Look\n"
        f"sys.exit(main(sys.argv[1:], Outside(look=lambda: Look(Path({str(desk.path)!r})))))\n"
    )
    command.write_text(f"#!{sys.executable}\n{code}")
    command.chmod(0o755)
    script = (
        f"source {ROLE}/files/completion.bash\n"
        'offer() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sovereignctl; echo "${COMPREPLY[*]}"; }\n'
        "offer sovereignctl mode switch f; offer sovereignctl ''; offer sovereignctl mode switch --on-busy ''\n"
        "complete -p sovereignctl\n"
    )
    environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.splitlines() == [
        "forensic",
        "desktop gpu mode pick queue",
        "fail force wait",
        "complete -F _sovereignctl sovereignctl",
    ], done.stderr


# ---- the lock
def test_the_lock_pins_every_direct_dependency_by_hash() -> None:
    wanted = [line for line in (ROLE / "files/requirements.in").read_text().splitlines() if line and line[0] != "#"]
    lock = (ROLE / "files/requirements.txt").read_text()
    for name in wanted:
        assert f"\n{name}==" in f"\n{lock}"
    for block in re.split(r"\n(?=\S)", lock):
        assert block.startswith("#") or "--hash=sha256:" in block, block
