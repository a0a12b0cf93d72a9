# SPDX-License-Identifier: MIT
"""What the tests of a real vLLM share: its two Pythons, the role's command lines, and one server.

Started by ``tools/test --vllm``, which makes the environment and names it; never part of the gate.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "molecule"))

from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Process, Tenant
from vllm_cpu import flags, server, tiny_model

#: Python with vLLM's build for processors, and the Python files of the release that roles/vllm names.
PYTHON, TREE = Path(os.environ["MUSHISHI_VLLM_PYTHON"]), Path(os.environ["MUSHISHI_VLLM_TREE"])
READER = ROOT / "molecule/vllm_cpu/read_flags.py"
MODES = ("agent", "forensic", "coding")
#: The models of the modes: two with the kinds of layers that Nemotron has, a dense one for the coder.
KINDS = {"agent": "hybrid", "forensic": "hybrid", "coding": "dense"}
BUILDS = ("pinned", "cpu")
#: A start takes 25 s on an idle machine, and ten times that beside others.
START_SECONDS = 600


@dataclass(frozen=True)
class Service:
    """What the role says to a container: its arguments, its variables, how long it may take to end."""

    words: list[str]
    variables: dict[str, str]
    grace: str

    @property
    def name(self) -> str:
        """The model's name."""
        return str(dict(flags.pairs(self.words))["--served-model-name"])


def reader(build: str, *arguments: str, stdin: str = "") -> Any:
    """What read_flags.py answers in one of the two builds."""
    path = {"PYTHONPATH": str(TREE)} if build == "pinned" else {}
    done = subprocess.run(
        [PYTHON, READER, *arguments],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HF_HUB_OFFLINE": "1", **path},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def services() -> dict[tuple[str, str], Service]:
    """(setting, mode) → what the role says, for every setting that the unit tests render."""
    argv = [sys.executable, str(ROOT / "tests/unit/roles/rendering.py"), "vllm"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {}
    for _role, _template, setting, made in json.loads(done.stdout):
        assert not isinstance(made, str), made
        for path, text in made:
            # As compose reads it: ``$$`` is a ``$``.
            engine = yaml.safe_load(text.replace("$$", "$"))["services"]["engine"]
            words = [str(word) for word in engine["command"]]
            mode = Path(path).parent.name
            found[setting, mode] = Service(words, engine["environment"], engine["stop_grace_period"])
    assert {mode for _setting, mode in found} == set(MODES)
    return found


@pytest.fixture(scope="session")
def known() -> Mapping[str, Any]:
    """Build → what its parser knows."""
    return {build: reader(build, "know") for build in BUILDS}


@pytest.fixture(scope="session")
def parse() -> Callable[[str, Mapping[str, list[str]]], Mapping[str, Any]]:
    """What a build's parser makes of command lines by name."""

    def parsed(build: str, lines: Mapping[str, list[str]]) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = reader(build, "parse", stdin=json.dumps(lines))
        return answer

    return parsed


@pytest.fixture(scope="session")
def run_mode(
    services: Mapping[tuple[str, str], Service], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """A context in which the engine of a mode runs, as the example's inventory would have it."""

    def run(mode: str, variables: Mapping[str, str] | None = None, port: int = 0) -> Any:
        service, folder = services["example", mode], tmp_path_factory.mktemp(mode)
        tiny_model.write(folder / "model", KINDS[mode])
        words = server.command(service.words, folder / "model", port or server.free_port(), flags.stored())
        return server.serving(PYTHON, words, {**service.variables, **(variables or {})}, folder, START_SECONDS)

    return run


@pytest.fixture(scope="module")
def agent(run_mode: Callable[[str], Any]) -> Iterator[server.Server]:
    """The engine of mode agent."""
    with run_mode("agent") as running:
        yield running


def tenant(port: int, model: str) -> Tenant:
    """The engine as the registry of the card's tenants would have it."""
    base = f"http://{server.ADDRESS}:{port}"
    ready = {"kind": "completion", "url": base, "model": model}
    busy = ({"kind": "vllm", "url": f"{base}/metrics"},)
    return Tenant("vllm-agent", "/etc/mushishi/vllm/agent/compose.yml", ("mushishi-vllm-agent",), 1, ready, busy)


def on_the_card(each: Tenant) -> Sequence[Process]:
    """It holds something of a card, so that what it does not say counts as work."""
    return [Process(1, 1, "VLLM::EngineCore", "root", each.name)]
