# SPDX-License-Identifier: MIT
"""GPU modes of the lab machine, for tests: switch, look, and let engines and the card go wrong."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import ROOT, Lab, ansible_environment

PYTHON = "/opt/mushishi/sovereignctl/venv/bin/python"
REGISTRY = "/etc/mushishi/gpu/registry.json"
JOURNAL = "/var/lib/mushishi-gpu"
PROGRESS = "/run/mushishi-gpu.progress.json"
#: What the stand-in of the driver's library reads (molecule/standins/nvml.c).
CARD = "/run/stand-in-card"
FORCE: dict[str, Any] = {"on_busy": "force", "drain_timeout": 3}
MODELS = ROOT / ".lab/depot/models"
#: Waits for a phase of a switch, and kills who switches, or restarts Docker, in it.
LIE_IN_WAIT = """
import json, os, signal, subprocess, sys, time
phase, what, path = sys.argv[1], sys.argv[2], sys.argv[3]
deadline = time.monotonic() + 120
while time.monotonic() < deadline:
    try:
        found = json.load(open(path))
    except (OSError, ValueError):
        continue
    if found["phase"] == phase:
        if what == "kill":
            os.kill(found["pid"], signal.SIGKILL)
        else:
            subprocess.run(["sh", "-c", what], check=True)
        print(json.dumps(found))
        raise SystemExit
    time.sleep(0.001)
raise SystemExit(f"no phase {phase} within 120 s")
"""


@dataclass
class Done:
    """What the module said at its end."""

    failed: bool
    result: dict[str, Any]

    @property
    def outcome(self) -> str:
        return str(self.result.get("outcome", ""))

    @property
    def message(self) -> str:
        return str(self.result.get("msg", ""))


def _argv(module: str, **options: Any) -> list[str]:
    words = ["ansible", "sovereign", "--inventory", "inventory/lab", "--become"]
    words += ["--extra-vars", f"ansible_python_interpreter={PYTHON}"]
    words += ["--module-name", f"mushishi.sovereign.{module}"]
    # Without options there are no words either: "{}" would be a word.
    return [*words, *(("--args", json.dumps(options)) if options else ())]


def _read(output: str) -> Done:
    """``hub | CHANGED => {…}``, the form of a single command."""
    head, arrow, text = output.partition(" => ")
    assert arrow, output
    return Done("FAILED" in head, json.JSONDecoder().raw_decode(text[text.index("{") :])[0])


def ask(module: str, **options: Any) -> Done:
    """One module on the machine."""
    done = subprocess.run(
        _argv(module, **options), env=ansible_environment(), cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    return _read(done.stdout or done.stderr)


def ask_apart(module: str, **options: Any) -> subprocess.Popen[str]:
    """The same in the background; ``end`` reads it."""
    return subprocess.Popen(
        _argv(module, **options), env=ansible_environment(), cwd=ROOT, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def end(started: subprocess.Popen[str]) -> Done | None:
    """What a module in the background said; None when it was killed."""
    output = started.communicate(timeout=900)[0]
    return _read(output) if " => {" in output and "outcome" in output else None


def switch(mode: str, **options: Any) -> Done:
    """A switch that must succeed."""
    done = ask("gpu_mode", mode=mode, **options)
    assert not done.failed, done.message
    return done


class Modes:
    """The registry of the machine, and what is true of a mode."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.registry: dict[str, Any] = json.loads(lab.hub.run("cat", REGISTRY))

    def names(self) -> list[str]:
        """Every mode, ``off`` last."""
        return [*self.registry["modes"], "off"]

    def tenants(self, mode: str) -> dict[str, Any]:
        """The tenants of a mode."""
        names = self.registry["modes"][mode]["tenants"] if mode != "off" else []
        return {name: self.registry["tenants"][name] for name in names}

    def serves(self, mode: str, beside: int = 0) -> None:
        """Exactly this mode is there, to the MiB; ``beside``: what others hold of the card."""
        info = ask("gpu_info").result
        assert (info["mode"], info["intent"], info["problems"]) == (mode, None, []), info
        wanted = self.tenants(mode)
        assert sorted(info["running"]) == sorted(wanted), info["running"]
        held = {name: each["held_mib"] for name, each in info["tenants"].items() if each["held_mib"]}
        assert held == {name: each["vram_mib"] for name, each in wanted.items()}
        assert info["card"]["memory_mib"]["used"] == sum(held.values()) + beside, info
        ours = {name for tenant in self.registry["tenants"].values() for name in tenant["containers"]}
        there = set(self.lab.hub.run("docker", "ps", "--all", "--format", "{{.Names}}").split())
        assert there & ours == {name for tenant in wanted.values() for name in tenant["containers"]}
        assert not set(info["closed"]) & {tenant["engine"] for tenant in wanted.values()}


@contextlib.contextmanager
def card(lab: Lab, *lines: str) -> Iterator[None]:
    """The card is so meanwhile: lines of the stand-in's file."""
    lab.hub.run("sh", "-c", f"cat > {CARD}", stdin="\n".join(lines) + "\n")
    try:
        yield
    finally:
        lab.hub.run("rm", "-f", CARD)


@contextlib.contextmanager
def scripted(mode: dict[str, Any], **script: Any) -> Iterator[None]:
    """Engines of a tenant begin so meanwhile: see ``scripted`` of the engine stand-in."""
    (tenant,) = mode.values()
    (model,) = tenant["models"]
    folders = [folder for folder in MODELS.iterdir() if folder.is_dir()]
    assert folders, "control: there are models"
    for folder in folders:
        (folder / "stand-in.json").write_text(json.dumps({model: script}))
    try:
        yield
    finally:
        for folder in folders:
            (folder / "stand-in.json").unlink()


@contextlib.contextmanager
def foreign(lab: Lab, mib: int) -> Iterator[int]:
    """A program of somebody else holds memory of the card; its number."""
    start = 'PYTHONPATH=/opt setsid -f python3 -m standins.card hold "$1" > /dev/null 2>&1'
    lab.hub.run("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "sh", "-c", start, "sh", str(mib))
    found = lab.hub.run("pgrep", "-u", "nobody", "-f", f"standins.card hold {mib}", check=False).split()
    for _try in range(50):
        if found:
            break
        found = lab.hub.run("pgrep", "-u", "nobody", "-f", f"standins.card hold {mib}", check=False).split()
    (pid,) = found
    try:
        yield int(pid)
    finally:
        still = lab.hub.ok("kill", pid)
        if not still:
            pytest.fail("a program that is not ours was ended")


@contextlib.contextmanager
def bystander(lab: Lab) -> Iterator[str]:
    """A container of somebody else, which holds nothing of ours. It must be the same one at the end."""
    image = lab.hub.run("docker", "inspect", "--format", "{{.Image}}", lab.engine_container("agent")).strip()
    lab.hub.run("docker", "rm", "--force", "bystander", check=False)
    words = ["--name", "bystander", "--network", "none", "--entrypoint", "/usr/bin/python3", image]
    lab.hub.run("docker", "run", "--detach", *words, "-m", "standins.card", "hold", "90")
    look = [
        "docker",
        "inspect",
        "--format",
        "{{.Id}} {{.State.StartedAt}} {{.State.Pid}} {{.RestartCount}}",
        "bystander",
    ]
    before = lab.hub.run(*look)
    try:
        yield before
        assert lab.hub.run(*look) == before, "a container of somebody else was touched"
    finally:
        lab.hub.run("docker", "rm", "--force", "bystander")


def walk(modes: Modes, way: list[str]) -> None:
    for target in way:
        done = switch(target)
        assert done.result["changed"] and done.outcome == "done", f"to {target}: {done.result}"
        modes.serves(target, beside=90)
        again = switch(target)
        assert not again.result["changed"] and again.outcome == "nothing to do", f"{target} again: {again.result}"
        # What a picker's user sees beside it: where the time went.
        assert set(done.result["seconds"]) >= {"busy", "close", "drain", "stop", "freed", "start", "open", "commit"}


def around(names: list[str]) -> list[str]:
    """A way that goes from each to each other exactly once, and ends where it began (every node has as many ways in as
    out, so there is one; Hierholzer's algorithm).
    """
    left = {name: [other for other in names if other != name] for name in names}
    stack, way = [names[0]], []
    while stack:
        if left[stack[-1]]:
            stack.append(left[stack[-1]].pop())
        else:
            way.append(stack.pop())
    return way[::-1]


# ---- the other tenants
#: What each image of role gpu_tenants starts with by itself, as the stand-in takes it; the others are told.
OWN_COMMANDS = {
    "comfyui": [],
    "tts": [],
    "redis": [],
    "audio": ["serve", "/audio/health", "9000"],
    "musetalk": ["serve", "/health", "9005"],
    "hallo2": ["serve", "/health", "9006"],
    "latentsync": ["serve", "/health", "9007"],
    "music": ["serve", "/health", "9004"],
}
#: Tenant → the service of it that holds the card, and MiB: what the role says that it may hold.
HOLDERS = {
    "comfyui": ("comfyui", 29696),
    "tts": ("tts", 3072),
    "audio-worker": ("worker", 2048),
    "musetalk": ("musetalk", 4096),
    "latentsync": ("latentsync", 6144),
    "hallo2": ("hallo2", 12288),
    "music": ("music", 16384),
}
ARCHIVE = "/var/tmp/tenants.tar"
TENANT_ENTRY = 'ENTRYPOINT ["/usr/bin/python3", "-m", "standins.tenant"]'


def tenants_settings(lab: Lab) -> dict[str, Any]:
    """Settings with which role gpu_tenants brings all of its tenants, each a stand-in, from an archive made now.

    An image differs from the engine's in what it starts; the machine has none of them by name afterwards.
    """
    hub = lab.hub
    engine = hub.run("docker", "inspect", "--format", "{{.Image}}", lab.engine_container("agent")).strip()
    ids, tags = {}, []
    for name, command in OWN_COMMANDS.items():
        made = hub.run("docker", "create", engine).strip()
        changes = [TENANT_ENTRY, f"CMD {json.dumps(command)}", f"LABEL of={name}"]
        words = [word for change in changes for word in ("--change", change)]
        tags.append(f"lab-tenant/{name}:stand-in")
        ids[name] = hub.run("docker", "commit", *words, made, tags[-1]).strip()
        hub.run("docker", "rm", made)
    assert len(set(ids.values())) == len(ids), "control: each is an image of its own"
    hub.run("docker", "save", "--output", ARCHIVE, *tags)
    hub.run("docker", "image", "rm", *tags)
    return {
        "gpu_tenants_enabled": list(HOLDERS),
        "gpu_tenants_images": {name: {"archive": ARCHIVE, "id": number} for name, number in ids.items()},
        "gpu_tenants_gpu_devices": [],
        "gpu_tenants_overrides": {
            tenant: {"services": {service: {"environment": {"STANDIN_VRAM_MIB": str(mib)}}}}
            for tenant, (service, mib) in HOLDERS.items()
        },
    }


def inside(lab: Lab, container: str, code: str) -> str:
    """Python in a container; what it prints."""
    return lab.hub.run("docker", "exec", container, "python3", "-c", code)
