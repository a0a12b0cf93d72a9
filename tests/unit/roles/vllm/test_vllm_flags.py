# SPDX-License-Identifier: MIT
"""Every flag and variable that the role gives to vLLM is one that vLLM knows, by the list of its own parser."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import ROLES, ROOT, Rendered, settings

sys.path.insert(0, str(ROOT / "molecule"))

from vllm_cpu import flags

MODES = ("agent", "forensic", "coding")
LISTED = flags.stored()


def services(rendered: Rendered, setting: str) -> dict[str, dict[str, Any]]:
    """Mode → its service, as compose reads it: ``$$`` is a ``$``."""
    made = rendered["vllm", "compose.yml.j2", setting]
    assert not isinstance(made, str), made
    read = {Path(path).parent.name: yaml.safe_load(text.replace("$$", "$")) for path, text in made}
    return {mode: project["services"]["engine"] for mode, project in read.items()}


@pytest.mark.parametrize("setting", settings("vllm"))
def test_vllm_knows_every_word(rendered: Rendered, setting: str) -> None:
    found = services(rendered, setting)
    assert set(found) == set(MODES)
    for mode, service in found.items():
        words = [str(word) for word in service["command"]]
        assert len(flags.pairs(words)) >= 11, "the template says less than it did: is this its command line?"
        assert flags.faults(words, service["environment"], LISTED) == [], mode


def test_the_list_is_of_the_version_that_the_role_names() -> None:
    """The preflight tells the reader which image to take; the list is of no other."""
    named = set(re.findall(r"vllm-openai:v([0-9.]+[0-9])", (ROLES / "vllm/tasks/preflight.yml").read_text()))
    assert named == {LISTED.version}


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("--max-num-seq=2", "has no --max-num-seq; did you mean --max-num-seqs?"),
        ("--mamba-ssm-cache-dtypes=float32", "did you mean --mamba-ssm-cache-dtype?"),
        # Of an older version, and of the next one's way out.
        ("--calculate-kv-scales", "has no --calculate-kv-scales"),
        ("--mamba-cache-mode=align", "--mamba-cache-mode is deprecated"),
        ("--mamba-ssm-cache-dtype=float64", "is none of auto, bfloat16, float16, float32"),
        ("--tool-call-parser=qwen3_coderr", "--tool-call-parser qwen3_coderr is none of"),
        ("--enable-prefix-caching=yes", "takes no value"),
        ("--max-model-len", "--max-model-len has no value"),
    ],
)
def test_a_planted_fault_is_found(rendered: Rendered, word: str, fault: str) -> None:
    """Put at the end of a good command line, as ``vllm_extra_args`` would put it."""
    service = services(rendered, "example")["agent"]
    found = flags.faults([*map(str, service["command"]), word], service["environment"], LISTED)
    assert [fault in each for each in found] == [True]


def test_a_variable_that_nobody_reads_is_found() -> None:
    """vLLM would say nothing of it: a misspelt variable is a setting that is not made."""
    assert flags.faults([], {"VLLM_NO_USAGE_STAT": "1", "HF_HUB_OFFLINE": "1"}, LISTED) == [
        f"vLLM {LISTED.version} reads no variable VLLM_NO_USAGE_STAT"
    ]
    gone = flags.faults([], ["VLLM_USE_FLASHINFER_MOE_FP4"], LISTED)
    assert len(gone) == 1, "engines of old read it; the pinned one does not"


def test_the_list_is_read_as_it_was_written() -> None:
    text = flags.LIST.read_text(encoding="utf-8")
    assert flags.written(flags.read(text)) == text
    assert len(LISTED.known) > 700


def test_what_the_parser_says_becomes_the_list() -> None:
    told = {"value": True, "old": False, "choices": ["b", "a"]}
    pinned = {"version": "2", "flags": {"--x": told, "--new": {**told, "old": True}}, "variables": ["VLLM_A"]}
    made = flags.made_of(pinned, {"version": "1", "flags": {"--x": told, "--gone": told}, "variables": []})
    assert made.known == {
        "--x": flags.Known("value", frozenset({"cpu"}), ("b", "a")),
        "--new": flags.Known("value", frozenset({"old"}), ("b", "a")),
        "VLLM_A": flags.Known("variable"),
    }
    assert flags.read(flags.written(made)) == made


def test_words_after_a_flag_are_its_value() -> None:
    words = ["serve", "/models/x", "--seed", "1", "--enforce-eager", "--a=b=c"]
    assert flags.pairs(words) == [("--seed", "1"), ("--enforce-eager", None), ("--a", "b=c")]
