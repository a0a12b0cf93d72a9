# SPDX-License-Identifier: MIT
"""Two runs at once, a killed run, a disk that is too small: each is named, and none does harm."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ROOT, Lab, ansible_environment, play, recap
from test_refusals import refused

LOCK = "/run/mushishi/converge.lock"


def begin(*arguments: str) -> subprocess.Popen[str]:
    """site.yml in the background."""
    return subprocess.Popen(
        ["ansible-playbook", "--inventory", str(ROOT / "inventory/lab"), str(ROOT / "playbooks/site.yml"), *arguments],
        env=ansible_environment(),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until_locked(lab: Lab, process: subprocess.Popen[str]) -> None:
    """Wait until that run has the lock."""

    def held() -> bool:
        assert process.poll() is None, process.communicate()[0][-2000:]
        text = lab.hub.run("cat", LOCK, check=False)
        return bool(text) and json.loads(text)["owner"]["pid"] == process.pid

    lab.until(held, "the run has the lock", 120)


#: A mode switch and a dry run meet the same lock.
OTHERS = (("site",), ("mode", "--extra-vars", "mode=agent"), ("site", "--check"))


@pytest.mark.nightly
@pytest.mark.parametrize("other", OTHERS)
def test_a_second_run_is_refused_and_the_first_goes_on(raw_lab: Lab, other: tuple[str, ...]) -> None:
    first = begin()
    until_locked(raw_lab, first)
    second = play(*other)
    assert second.returncode != 0
    text = " ".join((second.stdout + second.stderr).split())
    assert "another run changes this machine: ansible-playbook site.yml of" in text, text[-2000:]
    assert f"process {first.pid}" in text and "since 20" in text
    assert recap(second.stdout)["changed"] == 0
    out = first.communicate(timeout=900)[0]
    assert first.returncode == 0, out[-2000:]
    assert not raw_lab.hub.ok("test", "-e", LOCK), "the lock was given back"


@pytest.mark.nightly
def test_a_killed_run_blocks_nobody(raw_lab: Lab) -> None:
    first = begin()
    until_locked(raw_lab, first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert raw_lab.hub.ok("test", "-e", LOCK), "control: it was killed before it could give the lock back"
    done = play("site")
    text = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 0, text[-2000:]
    assert "The lock was taken over, which is dead: ansible-playbook site.yml" in text
    assert f"process {first.pid}" in text


def test_a_lock_of_another_controller_is_respected_until_it_is_taken(raw_lab: Lab) -> None:
    owner = {"controller": "elsewhere", "machine": "m", "kernel": "b pid:[1]", "pid": 1, "started": "1", "user": "anna"}
    now = time.time()
    record = {"shape": 1, "token": "t", "owner": {**owner, "playbook": "site.yml"}, "since": now, "refreshed": now}
    raw_lab.hub.run("sh", "-c", f"mkdir -p /run/mushishi; umask 077; cat > {LOCK}", stdin=json.dumps(record))
    try:
        second = play("mode", "--extra-vars", "mode=agent")
        text = " ".join((second.stdout + second.stderr).split())
        assert second.returncode != 0 and "anna on elsewhere" in text and "converge_lock_takeover=true" in text
        taken = play("mode", "--extra-vars", "mode=agent", "--extra-vars", "converge_lock_takeover=true")
        assert taken.returncode == 0, taken.stdout[-2000:]
    finally:
        raw_lab.hub.run("rm", "-f", LOCK)


def test_a_full_disk_is_named_before_it_happens(raw_lab: Lab, tmp_path: Path) -> None:
    """A file system of 64 MiB where a binary is to be built that needs 300; what is already there counts nothing."""
    small = "/mnt/small"
    raw_lab.hub.run("sh", "-c", f"mkdir -p {small} && mount -t tmpfs -o size=64m tmpfs {small}")
    try:
        words = [small, "MiB free", "MiB are needed", "Free at least", "the build of llama-server"]
        refused(raw_lab, tmp_path, {"llama_cpp_cache_dir": f"{small}/llama.cpp"}, words)
    finally:
        raw_lab.hub.run("sh", "-c", f"umount {small} && rmdir {small}")
