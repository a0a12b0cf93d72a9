# SPDX-License-Identifier: MIT
"""The stand-in of NVIDIA's library, compiled and called; the programs that hold memory of its card."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MOLECULE
from standins import card, engine

sys.path.insert(0, str(MOLECULE.parent / "tools"))
from labkit import image

TOTAL, RESERVED = 32607, 480
LOST, NOT_LOADED, SMALL, UNINITIALIZED, INVALID, MISMATCH = 15, 9, 7, 1, 2, 25


class Memory(ctypes.Structure):
    """nvmlMemory_v2_t."""

    _fields_ = [
        ("version", ctypes.c_uint),
        *((name, ctypes.c_ulonglong) for name in ("total", "reserved", "free", "used")),
    ]


class Process(ctypes.Structure):
    """nvmlProcessInfo_t."""

    _fields_ = [("pid", ctypes.c_uint), ("used", ctypes.c_ulonglong), ("gi", ctypes.c_uint), ("ci", ctypes.c_uint)]


class Card:
    """The library, asked as nvidia-ml-py asks."""

    def __init__(self, library: Path, state: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.state = state
        self.device = ctypes.c_void_p()

    def open(self) -> int:
        code = self.library.nvmlInitWithFlags(0)
        return code or self.library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device))

    def memory(self, version: int = ctypes.sizeof(Memory) | 2 << 24) -> tuple[int, Memory]:
        found = Memory(version=version)
        return self.library.nvmlDeviceGetMemoryInfo_v2(self.device, ctypes.byref(found)), found

    def used(self) -> int:
        code, found = self.memory()
        assert code == 0 and found.total == TOTAL << 20 and found.reserved == RESERVED << 20
        assert found.free == found.total - found.reserved - found.used
        return found.used >> 20

    def processes(self) -> dict[int, int]:
        count = ctypes.c_uint(0)
        ask = self.library.nvmlDeviceGetComputeRunningProcesses_v3
        if ask(self.device, ctypes.byref(count), None) == 0:
            return {}
        found = (Process * count.value)()
        assert ask(self.device, ctypes.byref(count), found) == 0
        return {each.pid: each.used >> 20 for each in found}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the lab's image is given it."""
    made = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run(["cc", *image.NVML_FLAGS, "-o", made, image.NVML], check=True)
    return made


@pytest.fixture
def gpu(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    monkeypatch.setenv("STANDIN_CARD", str(tmp_path / "card"))
    # A card of this test's own: a lab may run on the same machine.
    monkeypatch.setenv("STANDIN_CARD_NAME", f"card-{os.getpid()}")
    found = Card(library, tmp_path / "card")
    assert found.open() == 0
    yield found
    found.state.unlink(missing_ok=True)
    while found.library.nvmlShutdown() == 0:
        pass


def hold(mib: int) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "standins.card", "hold", str(mib)]
    started = subprocess.Popen(program, cwd=MOLECULE, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None and started.stdout.readline() == f"holding {mib} MiB\n"
    return started


def test_what_a_process_holds_is_its_own_and_free_when_it_ends(gpu: Card) -> None:
    assert gpu.processes() == {} and gpu.used() == 0
    one, two = hold(900), hold(26737)
    assert gpu.processes() == {one.pid: 900, two.pid: 26737} and gpu.used() == 27637
    os.kill(two.pid, signal.SIGKILL)
    two.wait()
    assert gpu.processes() == {one.pid: 900} and gpu.used() == 900
    one.terminate()
    assert one.wait() == 0
    assert gpu.processes() == {}


def test_one_process_takes_and_gives_back(gpu: Card) -> None:
    holding = card.Hold(100)
    more = card.Hold(11)
    assert gpu.processes() == {os.getpid(): 111}
    holding.take(7)
    assert gpu.used() == 18
    holding.take(0)
    more.take(0)
    assert gpu.processes() == {}
    with pytest.raises(ValueError, match="is not 0 to a million"):
        holding.take(-1)


def test_the_card_is_what_the_file_says_at_this_moment(gpu: Card) -> None:
    gpu.state.write_text("# a comment\nused_mib=50\nprocess=4242:100\nprocess=4243:1\nprocess=4242:3\nnonsense\n")
    assert gpu.processes() == {4242: 103, 4243: 1} and gpu.used() == 154
    gpu.state.write_text("used_mib=999999\n")
    assert gpu.used() == TOTAL - RESERVED, "no more than there is"
    gpu.state.unlink()
    assert gpu.used() == 0


def test_facts(gpu: Card) -> None:
    words = ctypes.create_string_buffer(96)
    assert gpu.library.nvmlDeviceGetName(gpu.device, words, 96) == 0 and b"stand-in" in words.value
    assert gpu.library.nvmlDeviceGetName(gpu.device, words, 4) == SMALL
    gpu.state.write_text("name=NVIDIA X\nload=97\npower_mw=81500\ntemperature=61\nreasons=0x24\ncapability=9.5\n")
    assert gpu.library.nvmlDeviceGetName(gpu.device, words, 96) == 0 and words.value == b"NVIDIA X"
    number, wide, minor = ctypes.c_uint(), ctypes.c_ulonglong(), ctypes.c_int()
    rates = (ctypes.c_uint * 2)()
    assert gpu.library.nvmlDeviceGetUtilizationRates(gpu.device, rates) == 0 and rates[0] == 97
    for name, value in (("PowerUsage", 81500), ("PowerManagementLimit", 575000)):
        assert getattr(gpu.library, f"nvmlDeviceGet{name}")(gpu.device, ctypes.byref(number)) == 0
        assert number.value == value
    assert gpu.library.nvmlDeviceGetTemperature(gpu.device, 0, ctypes.byref(number)) == 0 and number.value == 61
    ask = gpu.library.nvmlDeviceGetCurrentClocksEventReasons
    assert ask(gpu.device, ctypes.byref(wide)) == 0 and wide.value == 0x24
    major = ctypes.c_int()
    ask = gpu.library.nvmlDeviceGetCudaComputeCapability
    assert ask(gpu.device, ctypes.byref(major), ctypes.byref(minor)) == 0 and (major.value, minor.value) == (9, 5)


def test_what_goes_wrong(gpu: Card) -> None:
    assert gpu.memory(version=1)[0] == MISMATCH
    assert gpu.library.nvmlDeviceGetHandleByIndex_v2(1, ctypes.byref(ctypes.c_void_p())) == INVALID
    assert gpu.library.nvmlDeviceGetMemoryInfo_v2(None, ctypes.byref(Memory())) == INVALID
    gpu.state.write_text(f"fail={LOST}\n")
    assert gpu.memory()[0] == LOST
    gpu.library.nvmlErrorString.restype = ctypes.c_char_p
    assert gpu.library.nvmlErrorString(LOST) == b"GPU is lost" and gpu.library.nvmlErrorString(77) == b"Unknown Error"
    gpu.state.write_text(f"init_fail={NOT_LOADED}\n")
    assert gpu.library.nvmlInitWithFlags(0) == NOT_LOADED
    gpu.state.unlink()
    assert gpu.memory()[0] == 0, "it comes back"
    assert gpu.library.nvmlShutdown() == 0
    assert gpu.memory()[0] == UNINITIALIZED and gpu.library.nvmlShutdown() == UNINITIALIZED


def until(gpu: Card, wanted: dict[int, int]) -> None:
    """The card is held so, at last."""
    deadline = time.monotonic() + 20
    while gpu.processes() != wanted:
        assert time.monotonic() < deadline, gpu.processes()
        time.sleep(0.02)


def start(*words: str, model: Path | None = None) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "standins.engine", *([str(model)] if model else []), "--host=127.0.0.1", "--port=0"]
    environment = {**os.environ, "STANDIN_CONTROL": "127.0.0.1:0"}
    pipe = subprocess.PIPE
    return subprocess.Popen([*argv, *words], cwd=MOLECULE, env=environment, stdout=pipe, stderr=pipe, text=True)


def test_an_engine_holds_its_share_from_its_start_and_no_longer_than_it_lives(gpu: Card, tmp_path: Path) -> None:
    (tmp_path / engine.SCRIPT).write_text('{"nemotron": {"loading": 3}, "other": {"loading": 99}}')
    started = start("--served-model-name=nemotron", "--gpu-memory-utilization=0.82", model=tmp_path)
    until(gpu, {started.pid: 26737})
    assert started.stdout is not None and started.stdout.readline().startswith("ready ")
    started.kill()
    started.wait()
    assert gpu.processes() == {}


def test_an_engine_that_dies_at_its_start(gpu: Card, tmp_path: Path) -> None:
    (tmp_path / engine.SCRIPT).write_text('{"nemotron": {"dies_after": 2, "vram_mib": 7, "loading": 30}}')
    started = start("--served-model-name=nemotron", model=tmp_path)
    until(gpu, {started.pid: 7})
    assert started.wait(20) == 1 and started.stderr is not None and "EngineCore died" in started.stderr.read()
    assert gpu.processes() == {}


@pytest.mark.parametrize("text", ['{"nemotron": {"vram": 7}}', "[", '{"nemotron": {"vram_mib": -1}}'])
def test_a_script_that_cannot_be_followed_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / engine.SCRIPT).write_text(text)
    with pytest.raises(ValueError, match=r"unknown vram|Expecting|is not 0 to a million"):
        engine.Engine(engine.parse_options([str(tmp_path), "--served-model-name=nemotron"], {}))


def test_without_a_script_the_command_line_and_the_environment_count(tmp_path: Path) -> None:
    words = [str(tmp_path), "--served-model-name=nemotron", "--gpu-memory-utilization=0.5"]
    given = engine.parse_options(words, {})
    assert (given.vram_mib, given.loading, given.dies_after, given.fault) == (16303, 0.0, None, "ok")
    assert engine.parse_options(words, {"STANDIN_VRAM_MIB": "9"}).vram_mib == 9
    (tmp_path / engine.SCRIPT).write_text('{"nemotron": {"fault": "hang", "vram_mib": 5}, "x": {"vram_mib": 6}}')
    given = engine.parse_options(words, {"STANDIN_VRAM_MIB": "9", "STANDIN_FAULT": "500"})
    assert (given.vram_mib, given.fault) == (5, "hang")
    with pytest.raises(ValueError, match="gpu-memory-utilization"):
        engine.parse_options([str(tmp_path), "--gpu-memory-utilization=1.5"], {})
