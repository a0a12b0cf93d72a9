# SPDX-License-Identifier: MIT
"""vLLM's own parser, of the release that the role names and of the build that runs here, takes what the role says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from conftest import BUILDS, MODES, Service
from vllm_cpu import flags, server

Services = Mapping[tuple[str, str], Service]
Parse = Callable[[str, Mapping[str, list[str]]], Mapping[str, Any]]


def after_prefix(words: list[str]) -> list[str]:
    """From the model's path on."""
    return words[next(at for at, word in enumerate(words) if word.startswith("/")) :]


def test_the_stored_list_is_what_the_parsers_say(known: Mapping[str, Any]) -> None:
    now = flags.written(flags.made_of(known["pinned"], known["cpu"]))
    assert now == flags.LIST.read_text(encoding="utf-8"), "the list is out of date: tools/vllm-cpu flags"


@pytest.mark.parametrize("build", BUILDS)
def test_every_command_line_is_taken(build: str, services: Services, parse: Parse) -> None:
    """Every mode under every setting; a prefix of the image's own is not vLLM's."""
    lines = {f"{setting}/{mode}": after_prefix(each.words) for (setting, mode), each in services.items()}
    told = parse(build, lines)
    assert {name: each["error"] for name, each in told.items()} == dict.fromkeys(lines, "")
    for name, words in lines.items():
        given, values = dict(flags.pairs(words)), told[name]["values"]
        assert values["model_tag"] == words[0]
        assert values["served_model_name"] == [given["--served-model-name"]]
        for flag in ("--max-model-len", "--max-num-seqs", "--max-num-batched-tokens", "--kv-cache-memory-bytes"):
            assert values[flag[2:].replace("-", "_")] == int(given[flag] or 0), (name, flag)
        assert values["enable_prefix_caching"] is True and values["kv_cache_dtype"] == "fp8"
        assert values["api_key"] is None and values["enable_log_requests"] is False


@pytest.mark.parametrize("build", BUILDS)
def test_a_misspelt_command_line_is_refused(build: str, services: Services, parse: Parse) -> None:
    """The detector: each of these must be found by the real parser, or by the list where the parser is lenient."""
    good = services["example", "agent"].words
    planted = {
        "a flag": "--max-num-seqz=2",
        "a number": "--max-num-seqs=two",
        "a precision": "--mamba-ssm-cache-dtype=float64",
        "a register": "--tool-call-parser=qwen3_coderr",
        "another register": "--reasoning-parser=nemotron_v33",
        "JSON": "--limit-mm-per-prompt={audio:1}",
        "of another release": "--calculate-kv-scales",
    }
    told = parse(build, {name: [*good, word] for name, word in planted.items()})
    assert [name for name in planted if not told[name]["error"]] == []


def test_the_role_says_nothing_that_only_a_card_knows(services: Services) -> None:
    """So the servers of test_server.py run with every flag of the role, and nothing is left out."""
    listed = flags.stored()
    assert {mode: server.left_out(services["example", mode].words, listed) for mode in MODES} == {
        mode: [] for mode in MODES
    }
    # A flag of the pinned release that the processor's build does not know would be left out.
    assert server.left_out(["--watchdog-config={}", "--seed=1"], listed) == ["--watchdog-config"]
