# SPDX-License-Identifier: MIT
"""``ansible-test sanity`` without a host outside: on what is shipped, and on a planted collection full of faults.

It judges the collection as it is shipped. The programs beside it (the tests, the tools, the lab) are no Ansible
content; ruff and mypy judge them.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from . import source
from .paths import ROOT, STATE, VENV

HOME = STATE / "sanity-home"
PLANTED = STATE / "planted/ansible_collections/planted/planted"
#: Fewer tests than this means that ansible-test looked at nothing, which it counts as success.
FEWEST_TESTS = 25
#: Silence that is no success.
SKIPPED = re.compile(r"All targets skipped|Skipping sanity test \"(?!(compile|import)\").*|no tests applicable")
FAULTY = """\
#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import annotations

DOCUMENTATION = "module: faulty\\nshort_description: Faulty\\ndescription: Faulty.\\nauthor: Nobody (!UNKNOWN)\\n"
EXAMPLES = "- name: Faulty\\n  planted.planted.faulty:\\n"
RETURN = ""

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(argument_spec={"password": {"type": "str"}})
    module.exit_json(changed = False)


if __name__ == "__main__":
    main()
"""
#: A module that does not document its option and breaks a rule of style, and one that imports what may be missing.
FAULTS = {
    "plugins/modules/faulty.py": FAULTY,
    "plugins/module_utils/unguarded.py": "import a_library_that_is_not_there\n",
    "galaxy.yml": "namespace: planted\nname: planted\nversion: 1.0.0\nreadme: README.md\nauthors: [nobody]\n",
    "meta/runtime.yml": "requires_ansible: '>=2.19.0'\n",
}
#: Sanity tests that must find something in :data:`FAULTS`, each with words of its complaint.
MUST_FIND = {
    "import": "a_library_that_is_not_there",
    "pep8": "E251",
    "validate-modules": "undocumented-parameter",
}


def prepare_home() -> None:
    """Put the stand-in for the pip bootstrap where every supported ``ansible-test`` looks for it."""
    folder = HOME / ".ansible/test/cache"
    folder.mkdir(parents=True, exist_ok=True)
    package = next(VENV.glob("lib/python3*/site-packages/ansible_test"))
    text = (package / "_internal/python_requirements.py").read_text()
    versions = set(re.findall(r"\bpip='([0-9.]+)'", text))
    if not versions:
        sys.exit("This ansible-test does not say which pip it wants; tools/labkit/sanity.py looks for pip='…'.")
    for version in versions:
        shutil.copy(ROOT / "tools/ansible-test-bootstrap", folder / f"get_pip_{version.replace('.', '_')}.py")


def environment() -> dict[str, str]:
    """A home of its own; pip's settings of this machine stay in force, so that it finds the same package index."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHON"))}
    # Real interpreters only: a version manager's stand-ins answer to names that they cannot start.
    env["PATH"] = f"{STATE / 'checks/bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    for path in (Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"):
        if path.is_file():
            env.setdefault("PIP_CONFIG_FILE", str(path))
    return {**env, "HOME": str(HOME), "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``ansible-test sanity`` in a collection. It gets a repository of its own, or ansible-test finds one around it."""
    prepare_home()
    # One at a time: two would make the same environment in the same place.
    lock = (HOME / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (root / ".git").is_dir():
        subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    (root / ".gitignore").write_text("/tests/output/\n")
    argv = [str(VENV / "bin/ansible-test"), "sanity", "--color", "no", "--local", *words]
    return subprocess.run(
        argv, cwd=root, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def judge(status: int, output: str) -> str:
    """A pass is status 0, as many tests as there are, and none of them skipped for a reason that could be mended."""
    if status != 0:
        return _shorter(output)
    count = len(re.findall(r"^Running sanity test", output, re.MULTILINE))
    if count < FEWEST_TESTS:
        return f"only {count} sanity tests ran, {FEWEST_TESTS} are the least\n{_shorter(output)}"
    return "\n".join(match.group() for match in SKIPPED.finditer(output))


def _shorter(output: str) -> str:
    """Without the lines of pip and the announcements of the tests."""
    noise = re.compile(r"^(Collecting |  |Install|Successfully|Using cached|Running sanity test)")
    return "\n".join(line for line in output.splitlines() if not noise.match(line))


def planted() -> list[str]:
    """Tests of :data:`MUST_FIND` that did not find what was planted for them."""
    shutil.rmtree(PLANTED, ignore_errors=True)  # there may be none yet
    for name, text in FAULTS.items():
        (PLANTED / name).parent.mkdir(parents=True, exist_ok=True)
        (PLANTED / name).write_text(text)
    tests = [word for name in MUST_FIND for word in ("--test", name)]
    done = run(PLANTED, *tests)
    missed = [f"{name}: did not say {words!r}" for name, words in MUST_FIND.items() if words not in done.stdout]
    if done.returncode == 0:
        missed.append("ansible-test sanity ended with 0")
    return [*missed, _shorter(done.stdout)] if missed else []


def main(words: list[str]) -> int:
    """Print what ``ansible-test`` says; with ``planted``, what it misses of the planted faults."""
    if words == ["planted"]:
        missed = planted()
        print("\n".join(missed))
        return bool(missed)
    done = run(source.SHIPPED / source.NAME)
    print(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
