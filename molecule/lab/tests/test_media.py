# SPDX-License-Identifier: MIT
"""A profile's media folder on the real unit: its own key's requests name files in it, and nobody else gets at them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from conftest import Answer, Lab, marker, site

FOLDER = "/srv/lab-media/private"
GROUP = "mushishi-sovereign-admission"
TAGS = ("--tags", "admission")
#: A picture of one dot that says in a text chunk what is looked for; the signature and the parts are those of PNG.
PICTURE = """
import pathlib, struct, sys, zlib
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
text = b"Comment\\0" + sys.argv[2].encode()
parts = [(b"IHDR", head), (b"tEXt", text), (b"IDAT", zlib.compress(b"\\0\\0")), (b"IEND", b"")]
pathlib.Path(sys.argv[1]).write_bytes(b"\\x89PNG\\r\\n\\x1a\\n" + b"".join(chunk(*part) for part in parts))
"""


@pytest.fixture(scope="module")
def word() -> str:
    """What the picture says."""
    return marker("media")


@pytest.fixture(scope="module")
def folder(raw_lab: Lab, word: str) -> Iterator[Lab]:
    """The machine with a media folder for ``private``, and without it afterwards."""
    hub = raw_lab.hub
    raw_lab.everything_up()
    hub.run("install", "-d", "-m", "2750", "-g", GROUP, FOLDER, f"{FOLDER}/job")
    hub.run("python3", "-c", PICTURE, f"{FOLDER}/job/seen.png", word)
    hub.run("sh", "-c", f"echo '{word}' > {FOLDER}/text.png; ln -s /etc/hostname {FOLDER}/link.txt")
    try:
        site(*TAGS, "--extra-vars", json.dumps({"admission_media_dirs": {"private": FOLDER}}))
        yield raw_lab
    finally:
        site(*TAGS)
        hub.run("rm", "-rf", "/srv/lab-media")
        raw_lab.everything_up()


def ask(lab: Lab, profile: str, name: str) -> Answer:
    """A request that names a file."""
    picture = {"type": "image_url", "image_url": {"url": f"file:///{name}"}}
    parts = [{"type": "text", "text": "What is in it?"}, picture]
    return lab.ask(profile, "", messages=[{"role": "user", "content": parts}])


def heard_by_the_engine(lab: Lab, word: str) -> int:
    """Times the engine was sent a word, whatever it was wrapped in."""
    told = lab.hub.run(
        *("docker", "exec", lab.engine_container("agent"), "python3", "-m", "standins.ctl"),
        *("--control", "127.0.0.1:9098", "find", word),
    )
    return int(json.loads(told)["count"])


@pytest.mark.nightly
def test_the_engine_gets_the_file_itself(folder: Lab, word: str) -> None:
    assert heard_by_the_engine(folder, word) == 0, "control: nobody has sent it before"
    answer = ask(folder, "private", "job/seen.png")
    assert (answer.status, answer.backend) == (200, "gpu"), answer.text
    assert heard_by_the_engine(folder, word) > 0
    assert folder.seen_outside(word) == 0 and folder.unreadable_outside() == 0


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name", ["absent.png", "link.txt", "text.png", "../private/job/seen.png", "job", "%2e%2e/x.png"]
)
def test_what_is_no_file_of_the_folder_is_refused(folder: Lab, name: str) -> None:
    answer = ask(folder, "private", name)
    assert answer.status == 400, answer.text
    assert FOLDER not in answer.text, "where the folder lies is nobody's business"


@pytest.mark.nightly
def test_it_is_one_profiles_folder(folder: Lab) -> None:
    for profile in ("coding", "client"):
        assert ask(folder, profile, "job/seen.png").status == 400


@pytest.mark.nightly
def test_nobody_but_admission_reads_it(folder: Lab) -> None:
    path = f"{FOLDER}/job/seen.png"

    def reads(user: str) -> bool:
        return folder.hub.ok("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "head", "-c1", path)

    assert reads(GROUP), "control: admission does"
    users = ("sovereign-gateway", "sovereign-llama", "hybrid-gateway", "ingress-sovereign", "ingress-hybrid")
    assert [user for user in users if reads(f"mushishi-{user}")] == []
    # The unit itself cannot write there, whatever its group may.
    pid = folder.hub.run("systemctl", "show", "-P", "MainPID", "mushishi-sovereign-admission.service").strip()
    mounts = folder.hub.run("cat", f"/proc/{pid}/mountinfo")
    line = next(line for line in mounts.splitlines() if line.split()[4] == FOLDER)
    assert "ro" in line.split()[5].split(",")
