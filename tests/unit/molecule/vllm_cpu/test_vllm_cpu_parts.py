# SPDX-License-Identifier: MIT
"""What the opt-in tests of a real vLLM are made of, as far as it needs no vLLM: the tiny model, the command line."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "molecule"))

from vllm_cpu import flags, server, tiny_model

KINDS = sorted(tiny_model.CONFIGS)
LISTED = flags.Flags(
    "2",
    "1",
    {
        "--host": flags.Known("value", frozenset({"cpu"})),
        "--port": flags.Known("value", frozenset({"cpu"})),
        "--x": flags.Known("value", frozenset({"cpu"})),
        "--on": flags.Known("switch", frozenset({"cpu"})),
        "--card": flags.Known("value"),
    },
)


def header(kind: str) -> tuple[dict[str, dict[str, list[int]]], int]:
    """The header of the weights, and how many bytes of numbers follow."""
    data = tiny_model.weights(kind)
    size = int(struct.unpack("<Q", data[:8])[0])
    return json.loads(data[8 : 8 + size]), len(data) - 8 - size


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_fill_their_file(kind: str) -> None:
    """Each tensor as large as its shape, one behind the other, nothing between and nothing after."""
    tensors, size = header(kind)
    at = 0
    for _name, entry in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        count = 1
        for length in entry["shape"]:
            count *= length
        assert entry["data_offsets"] == [at, at + 4 * count]
        at += 4 * count
    assert at == size
    assert len(tensors) == {"dense": 21, "hybrid": 53}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_the_same_on_every_machine(kind: str) -> None:
    """Made again it has the same bytes; other bytes would be another model with other answers."""
    wanted = {
        "dense": "03ec195e5a2736863a32c314cccea25171a060f4ca91d5408a97e1fb49520e0d",
        "hybrid": "42364bbf77bdf00943adb8e263372c797d1ae05d7e28a848d1dc1ffdeb7b5cf0",
    }
    assert hashlib.sha256(tiny_model.weights(kind)).hexdigest() == wanted[kind]


def test_the_tokenizer_has_every_byte_once() -> None:
    letters = tiny_model.byte_letters()
    assert len(set(letters)) == 256 and all(len(letter) == 1 for letter in letters)
    assert letters[ord("a")] == "a" and letters[ord(" ")] == "\u0120" and letters[0xAD] != "\xad"
    ids = sorted(tiny_model.tokenizer()["model"]["vocab"].values())
    assert ids == list(range(len(tiny_model.SPECIAL) + 256))
    assert ids[-1] + len(tiny_model.MARKS) < tiny_model.VOCABULARY


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    program = ROOT / "molecule/vllm_cpu/tiny_model.py"
    subprocess.run([sys.executable, program, tmp_path / "m", "--kind", "dense"], check=True)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    ]
    assert json.loads((tmp_path / "m/config.json").read_text())["max_position_embeddings"] > 180000


def test_the_command_line_is_the_containers() -> None:
    words = ["serve", "/models/m", "--x=a=b", "--host=0.0.0.0", "--port=8000", "--on", "--card=1"]
    assert server.left_out(words, LISTED) == ["--card"]
    assert server.command(words, Path("/tmp/m"), 1234, LISTED) == [
        *("/tmp/m", "--x=a=b", "--host=127.0.0.1", "--port=1234", "--on", *server.ADDED),
    ]


def test_the_environment_is_the_containers_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    made = server.environment({"HOME": "/cache", "HF_HOME": "/cache/hf", "A": "/not/cache"}, Path("/tmp/c"))
    assert made == {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": "/tmp/c",
        "HF_HOME": "/tmp/c/hf",
        "A": "/not/cache",
        **server.VARIABLES,
    }


def test_a_process_that_lives_on_is_seen() -> None:
    child = subprocess.Popen(["sleep", "30"], start_new_session=True)
    try:
        assert server.members(child.pid) == [child.pid]
    finally:
        child.kill()
    # Ended and not asked for yet is ended.
    while server.members(child.pid):
        pass
    child.wait()


@pytest.mark.parametrize(
    ("script", "killed"),
    [("exec sleep 60", False), ("trap '' TERM; while :; do sleep 0.1; done", True), ("sleep 60 & exec sleep 60", True)],
)
def test_it_is_stopped_as_docker_stops(tmp_path: Path, script: str, killed: bool) -> None:
    """Asked first; who does not hear, and whom the first process leaves behind, is killed when the time is over."""
    process = subprocess.Popen(["sh", "-c", script], start_new_session=True)
    time.sleep(0.3)
    ended = server.Server(process, 0, tmp_path / "log").stop(1)
    assert ended.killed is killed and ended.engine <= ended.whole
    assert server.members(process.pid) == [] and process.returncode is not None
    assert (ended.whole > 1) is killed
