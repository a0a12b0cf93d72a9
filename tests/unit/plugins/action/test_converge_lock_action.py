# SPDX-License-Identifier: MIT
"""The converge lock between real runs of ansible-playbook on this machine: refused, waited out, taken over."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PLAY = """\
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: One run at a time
      mushishi.sovereign.converge_lock:
        path: {folder}/run/lock
        takeover: "{{{{ converge_lock_takeover | default(false) }}}}"
      register: lock
    - ansible.builtin.debug:
        msg: "verdict {{{{ lock.verdict }}}}. {{{{ lock.msg }}}}"
    - ansible.builtin.command:
        argv: [cat, {folder}/fifo]
      changed_when: false  # only waits
      when: hold | default(false) | bool
    - name: The next run may come
      mushishi.sovereign.converge_lock:
        path: {folder}/run/lock
        state: free
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, collections_root: Path) -> Iterator[Start]:
    """Starts a run of the playbook; with ``hold=true`` it keeps the lock until the fifo is opened for writing."""
    os.mkfifo(tmp_path / "fifo")
    playbook = tmp_path / "site.yml"
    playbook.write_text(PLAY.format(folder=tmp_path))
    begun: list[subprocess.Popen[str]] = []
    env = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(collections_root),
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_NOCOLOR": "1",
    }

    def call(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "ansible-playbook"),
                "--inventory=localhost,",
                f"--extra-vars=ansible_python_interpreter={sys.executable}",
                str(playbook),
                *arguments,
            ],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        begun.append(process)
        return process

    yield call
    # The reader of a killed run is nobody's child any more; a writer lets it end.
    with contextlib.suppress(OSError):
        os.close(os.open(tmp_path / "fifo", os.O_WRONLY | os.O_NONBLOCK))
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for_lock(tmp_path: Path) -> None:
    deadline = time.monotonic() + 60
    while not (tmp_path / "run/lock").exists():
        assert time.monotonic() < deadline, "no run took the lock"
        time.sleep(0.1)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output with the line breaks of the display taken out."""
    out = process.communicate(timeout=120)[0]
    return process.returncode, " ".join(out.split())


def test_a_second_run_is_refused_and_the_first_goes_on(start: Start, tmp_path: Path) -> None:
    first = start("-e", "hold=true")
    wait_for_lock(tmp_path)
    status, out = ended(start())
    assert status == 2
    assert "another run changes this machine: ansible-playbook site.yml of " in out
    assert f"(process {first.pid})" in out and f"Wait until it ends, or end process {first.pid}" in out
    # The operator's word does not rob a run that is seen alive; a dry run is told the same.
    assert f"(process {first.pid})" in ended(start("-e", "converge_lock_takeover=true"))[1]
    assert ended(start("--check"))[0] == 2
    os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
    assert ended(first)[0] == 0
    assert not (tmp_path / "run/lock").exists()
    status, out = ended(start())
    assert status == 0 and "verdict taken" in out and "changed=0" in out


def test_a_killed_run_blocks_nobody(start: Start, tmp_path: Path) -> None:
    first = start("-e", "hold=true")
    wait_for_lock(tmp_path)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert (tmp_path / "run/lock").exists()
    status, out = ended(start())
    assert status == 0
    assert "verdict dead. The lock was taken over, which is dead: ansible-playbook site.yml" in out
    assert f"(process {first.pid})" in out
    assert not (tmp_path / "run/lock").exists()
