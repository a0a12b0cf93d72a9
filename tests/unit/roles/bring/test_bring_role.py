# SPDX-License-Identifier: MIT
"""The programs of role bring, run with a stand-in for docker; and every role that brings something uses them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

ROLES = Path(__file__).parents[4] / "roles"
FILES = ROLES / "bring" / "files"


def bring(folder: Path, docker: str, *words: str) -> tuple[int, list[str]]:
    """The program's end, and each call of docker that it made; ``docker``: the stand-in's words after the record."""
    calls = folder / "calls"
    program = folder / "docker"
    program.write_text(f'#!/bin/sh\necho "$*" >> "{calls}"\n{docker}\n')
    program.chmod(0o755)
    quick = folder / "sleep"
    quick.write_text("#!/bin/sh\n")
    quick.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(FILES / "bring_image.sh"), *words],
        env={"PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        check=False,
    )
    return done.returncode, calls.read_text().splitlines() if calls.exists() else []


def test_an_image_is_loaded(tmp_path: Path) -> None:
    assert bring(tmp_path, "exit 0", "load", "/srv/a b.tar") == (0, ["image load --input /srv/a b.tar"])


def test_a_pull_that_breaks_off_is_tried_again(tmp_path: Path) -> None:
    thrice = f'test "$(wc -l < "{tmp_path}/calls")" -ge 3'
    status, calls = bring(tmp_path, thrice, "pull", "x@sha256:1")
    assert (status, calls) == (0, ["image pull x@sha256:1"] * 3)


def test_a_pull_that_never_comes_ends(tmp_path: Path) -> None:
    status, calls = bring(tmp_path, "exit 1", "pull", "x@sha256:1")
    assert status == 1 and len(calls) == 8


def test_a_build_has_no_network_and_says_what_it_is_from(tmp_path: Path) -> None:
    status, (call,) = bring(tmp_path, "exit 0", "build", "/folder", "name:tag", "base@sha256:1", "f00")
    assert status == 0 and call.endswith("--tag name:tag /folder")
    for word in ("--network=none", "--pull=false", "--build-arg BASE=base@sha256:1", "--label mushishi.inputs=f00"):
        assert word in call


@pytest.mark.parametrize("docker", ["exit 1", "exit 3"])
def test_a_build_that_fails_fails(docker: str, tmp_path: Path) -> None:
    assert bring(tmp_path, docker, "build", "/f", "t", "b", "i")[0] == int(docker[-1])


def test_another_word_is_no_way_to_bring(tmp_path: Path) -> None:
    assert bring(tmp_path, "exit 0", "steal", "x") == (2, [])


RUNS = '{"started": true, "finished": false, "ansible_job_id": "j1.2"}'
#: What a module leaves that could not even be begun, as async_wrapper of ansible-core writes it.
ENDED = '{"failed": true, "msg": "disk \\"/data\\": 3 GiB are free", "invocation": {"module_args": {"url": "x"}}}'


@pytest.mark.parametrize(
    ("job", "status", "state", "message"),
    [
        (RUNS, None, "starting", "starting"),
        (None, None, "starting", "starting"),
        (ENDED, None, "failed", 'disk "/data": 3 GiB are free'),
        ('{"changed": true}', None, "failed", "the transfer ended without a word"),
        ('{"changed": true}', {"state": "done", "pid": 0, "message": "100 %"}, "done", "100 %"),
        (ENDED, {"state": "verifying", "pid": os.getpid(), "message": "3 %"}, "failed", 'disk "/data": 3 GiB are free'),
        (RUNS, {"state": "transferring", "pid": os.getpid(), "message": "3 %"}, "transferring", "3 %"),
        (RUNS, {"state": "transferring", "pid": 4194305, "message": ""}, "failed", "the transfer ended without a word"),
    ],
)
def test_a_transfer_is_watched_to_its_end(
    job: str | None, status: dict[str, object] | None, state: str, message: str, tmp_path: Path
) -> None:
    """Also one that ended before it had begun: nobody waits two days for it."""
    quick = tmp_path / "sleep"
    quick.write_text("#!/bin/sh\n")
    quick.chmod(0o755)
    if job is not None:
        (tmp_path / "job").write_text(job)
    if status is not None:
        (tmp_path / "status").write_text(json.dumps(status))
    done = subprocess.run(
        ["/bin/sh", "-s", str(tmp_path / "status"), "", str(tmp_path / "job")],
        input=(FILES / "watch_fetch.sh").read_text(),
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert (told["state"], told["message"]) == (state, message)


@pytest.mark.parametrize("role", ["llama_cpp", "vllm", "gpu_tenants"])
def test_what_is_missing_is_brought_by_this_role(role: str) -> None:
    tasks = yaml.safe_load((ROLES / role / "tasks/install.yml").read_text())
    flat = [*tasks, *(inner for task in tasks for inner in task.get("block", []))]
    included = [
        task for task in flat if task.get("ansible.builtin.include_role", {}).get("name") == "mushishi.sovereign.bring"
    ]
    assert included and all({"bring_images", "bring_files"} & set(task["vars"]) for task in included)


def test_no_other_role_has_a_copy() -> None:
    copies = [
        path
        for path in ROLES.glob("*/tasks/*.yml")
        if path.parents[1].name != "bring" and ("image, pull" in path.read_text() or "status_file" in path.read_text())
    ]
    assert copies == []
