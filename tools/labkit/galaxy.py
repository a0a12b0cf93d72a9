# SPDX-License-Identifier: MIT
"""What Galaxy would get and show: the built archive, and the documentation of every plugin and role."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import yaml

from . import source
from .paths import CACHE, STATE
from .say import Run

WORKSHOP = CACHE / "galaxy"
COLLECTION = "mushishi.sovereign"
#: A field that galaxy-importer demands. The collection has no public address yet, so only the checked archive has one.
REPOSITORY = "\nrepository: https://example.invalid/mushishi/sovereign\n"
#: antsibull-docs wants a default of the option's own type. A default that is computed from another role's variable is a
#: Jinja expression, which is text; that defaults and specs are the same is checked by a unit test.
COMPUTED = re.compile(r"Invalid value ['\"]\{\{ .* \}\}['\"] for \"default")


def no_settings() -> Path:
    """An empty file of settings for Ansible, so that nobody's own are read."""
    path = CACHE / "ansible.cfg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def archive(tree: source.Copy) -> Path:
    """Where the built archive lies."""
    about = yaml.safe_load((tree.path / "galaxy.yml").read_text())
    return WORKSHOP / f"{about['namespace']}-{about['name']}-{about['version']}.tar.gz"


def build(run: Run, tree: source.Copy) -> None:
    """Build the archive for Galaxy, and unpack it where ``ansible-test`` can look at what is shipped."""
    galaxy = tree.path / "galaxy.yml"
    plain = galaxy.read_text()
    if "\nrepository:" not in plain:
        galaxy.write_text(plain.rstrip("\n") + REPOSITORY)
    tool = STATE / "checks/bin/ansible-galaxy"
    try:
        run.command(
            [tool, "collection", "build", tree.path, "--output-path", WORKSHOP, "--force"],
            why="Building the collection",
            env={"ANSIBLE_HOME": str(STATE / "ansible"), "ANSIBLE_CONFIG": str(no_settings())},
        )
    finally:
        galaxy.write_text(plain)
    unpack(archive(tree))


def unpack(built: Path) -> None:
    """Unpack the archive under :data:`source.SHIPPED`, with what ``ansible-test`` reads beside it."""
    with tarfile.open(built) as opened:
        names = {member.name for member in opened.getmembers() if member.isfile()}
    settings = {"tests/config.yml", *(f"tests/sanity/{name}" for name in ignores())}
    target = source.SHIPPED / source.NAME
    source.empty_of_others(target, names | settings)
    shutil.unpack_archive(built, target)
    for name in settings:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((source.SOURCE / source.NAME / name).read_bytes())


def ignores() -> list[str]:
    """Names of the ignore files of ``ansible-test``."""
    return sorted(path.name for path in (source.SOURCE / source.NAME / "tests/sanity").glob("ignore-*.txt"))


def judge_import(status: int, output: str) -> str:
    """galaxy-importer ends with 0 when it only warns; a warning counts here."""
    warned = [line for line in output.splitlines() if line.startswith(("WARNING", "ERROR"))]
    if status != 0 or "Importer processing completed successfully" not in output:
        return output or f"ended with status {status}, without a word"
    return "\n".join(warned)


def judge_docs(status: int, output: str) -> str:
    """antsibull-docs' complaints without those about computed defaults (:data:`COMPUTED`)."""
    if status not in (0, 3):
        return output or f"ended with status {status}, without a word"
    kept: list[str] = []
    for block in re.split(r"\n(?=\S)", output.strip()):
        lines = block.splitlines()
        if not lines or lines[0].endswith("Did not return correct DOCUMENTATION"):
            continue  # always after the reasons, which are judged
        if "validation error" not in lines[0]:
            kept.append(block)
            continue
        pairs = zip(lines[1::2], lines[2::2], strict=False)
        real = [f"{where}\n{what}" for where, what in pairs if not COMPUTED.search(what)]
        if real or len(lines) % 2 == 0:
            kept.append("\n".join([lines[0], *real]))
    return "\n".join(kept)


def documented() -> list[str]:
    """What ``ansible-doc`` cannot show of the copy's modules, filters and roles: one sentence each."""
    here = source.SOURCE / source.NAME
    modules = {path.stem for path in (here / "plugins/modules").glob("*.py")}
    roles = {path.name for path in (here / "roles").iterdir() if path.is_dir()}
    listed = {name.rpartition(".")[2] for name in _ansible_doc("filter", ["--list", COLLECTION])}
    sidecars = {path.stem for path in (here / "plugins/filter").glob("*.yml")}
    faults = [f"filter {name}: is documented and does not exist" for name in sorted(sidecars - listed)]
    for kind, names in (("module", modules), ("filter", listed), ("role", roles)):
        if not names:
            faults.append(f"no {kind} was found")
            continue
        shown = _ansible_doc(kind, [f"{COLLECTION}.{name}" for name in sorted(names)])
        faults += [f"{kind} {name}: ansible-doc shows nothing" for name in sorted(names) if not _shows(shown, name)]
    return faults


def _shows(shown: dict[str, object], name: str) -> bool:
    return bool(shown.get(f"{COLLECTION}.{name}"))


def _ansible_doc(kind: str, words: list[str]) -> dict[str, object]:
    tool = STATE / "checks/bin/ansible-doc"
    done = subprocess.run([str(tool), "--json", "--type", kind, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0 or "[ERROR]" in done.stderr:
        sys.exit(f"ansible-doc --type {kind}: {done.stderr}")
    return dict(yaml.safe_load(done.stdout)) if not done.stdout.startswith("{") else dict(json.loads(done.stdout))


if __name__ == "__main__":
    found = documented()
    print("\n".join(found))
    sys.exit(bool(found))
