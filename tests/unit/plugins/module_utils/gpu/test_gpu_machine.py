# SPDX-License-Identifier: MIT
"""The surface of modules and ``sovereignctl``: a machine with and without a card, Docker, a plane, a registry."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import docker_tenants, machine, nvml, probes, warm
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import registry as given
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.journal import Journal, Places, holder, locked
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Step
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Memory, Process, Tenant
from gpu_world import raw_registry

NO_CARD = SovereignError("NVIDIA's card", "the driver does not answer: not found", "Install NVIDIA's driver.")
TOTAL = 32607


class ImageNotFound(Exception):
    """As the SDK calls it."""


class Docker:
    """The SDK's client and ``docker compose`` in one: what a project names runs, holds memory, and goes again."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.up: dict[str, int] = {}
        self.told: list[list[str]] = []
        self.containers = SimpleNamespace(list=self.list, get=self.get)
        self.images = SimpleNamespace(get=self.image)
        self.has_image = True
        self.away = 0

    def image(self, tag: str) -> None:
        if not self.has_image:
            raise ImageNotFound(tag)

    def list(self, **_words: Any) -> list[Any]:
        if self.away:
            self.away -= 1
            raise ConnectionError("connection refused")
        return [self.get(name) for name in self.up]

    def get(self, name: str) -> Any:
        number = f"{self.up[name]:064x}"
        state = {"Running": True, "StartedAt": "2026-09-21T14:13:20Z"}
        attributes = {"Id": number, "RestartCount": 0, "State": state, "Config": {"Labels": {}}}
        return SimpleNamespace(name=name, attrs=attributes, logs=lambda tail: b"words")

    def run(self, argv: Sequence[str]) -> tuple[int, str, str]:
        if argv[4] == "config":
            return 0, json.dumps({"services": {"engine": {"image": "engine:1"}}}), ""
        self.told.append(list(argv))
        name = self.names[argv[3]]
        if argv[4] == "up":
            self.up[name] = len(self.told)
        else:
            self.up.pop(name, None)
        return 0, "", ""

    def close(self) -> None:
        """Nothing is open."""


class Card:
    """A card on which each container of ours holds what its tenant declares."""

    def __init__(self, docker: Docker, sizes: dict[str, int]) -> None:
        self.docker, self.sizes = docker, sizes
        self.foreign: list[Process] = []
        self.lost = False
        self.reserved = 0

    def memory(self) -> Memory:
        return Memory(TOTAL, sum(each.mib for each in self.processes(lambda _number: None)), self.reserved)

    def processes(self, tenant_of: Any) -> list[Process]:
        if self.lost:
            raise SovereignError("NVIDIA's card 0", "the driver does not answer: GPU is lost", "Restart.")
        found = []
        for name, number in self.docker.up.items():
            container = f"{number:064x}"
            found.append(Process(number, self.sizes[name], "python3", "root", tenant_of(container), container))
        return [*found, *self.foreign]

    def load(self) -> int:
        return 3

    def facts(self, tenant_of: Any) -> nvml.Facts:
        return nvml.Facts(
            0, "a card", "GPU-1", "580", "12.0", self.memory(), processes=tuple(self.processes(tenant_of))
        )


class Here:
    """What the tests may change of the machine."""

    def __init__(self, folder: Path) -> None:
        raw = raw_registry(floors={"cpu-coder": {"kind": "completion", "url": "http://10.88.0.2:8002", "model": "c"}})
        raw["modes"]["coding"]["cpu_floors"] = ["cpu-coder"]
        projects = {}
        for name, tenant in raw["tenants"].items():
            # Without a label in it: what runs is not stale.
            (folder / f"{name}.yml").write_text("services: {}\n")
            tenant.update(project=str(folder / f"{name}.yml"), engine=name.split("-")[-1])
            projects[tenant["project"]] = f"mushishi-{name}"
        self.path = folder / "registry.json"
        self.path.write_text(json.dumps(given.document(given.load(raw))))
        self.docker = Docker(projects)
        self.sizes = {f"mushishi-{n}": t["vram_mib"] for n, t in raw["tenants"].items()}
        self.card: Card | None = Card(self.docker, self.sizes)
        self.places = Places(folder / "state", folder / "lock", folder / "progress")
        self.silent: set[str] = set()
        self.works: list[str] = []

    def opened(self) -> contextlib.AbstractContextManager[machine.Machine]:
        return machine.opened(self.path, places=self.places, namespace=str(self.path) + ".none", run=self.docker.run)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    found = Here(tmp_path)

    @contextlib.contextmanager
    def cards() -> Iterator[list[Any]]:
        if found.card is None:
            raise NO_CARD
        yield [found.card]

    def ready(self: probes.Probes, tenant: Tenant) -> str:
        return "it hangs" if tenant.name in found.silent else ""

    monkeypatch.setattr(nvml, "cards", cards)
    monkeypatch.setattr(docker_tenants, "connect", lambda: found.docker)
    monkeypatch.setattr(probes.Probes, "ready", ready)
    monkeypatch.setattr(probes.Probes, "busy", lambda self, tenant, processes: found.works)
    monkeypatch.setattr(probes.Probes, "made", lambda self, tenant: None)
    monkeypatch.setattr(probes.Probes, "floor", lambda self, name, probe: "refused" if name in found.silent else "")
    monkeypatch.setattr(docker_tenants, "_PAUSE", 0.001)
    return found


def test_a_switch_and_what_is_told_of_it(here: Here) -> None:
    steps: list[Step] = []
    seen: list[dict[str, Any] | None] = []
    with here.opened() as there:

        def report(step: Step) -> None:
            steps.append(step)
            seen.append(there.progress())

        assert there.plan("agent")["steps"] == ["start vllm-agent (22000 MiB)", "start tts (4000 MiB)"]
        result = there.switch("agent", report=report, who="me")
        assert (result.outcome, result.origin, result.target) == ("done", "off", "agent")
        assert result.peaks == {"vllm-agent": 22000, "tts": 4000} and result.warnings == []
        plain = machine.result_as_mapping(result)
        assert json.loads(json.dumps(plain)) == plain and plain["total_seconds"] >= 0
        assert there.progress() is None and not here.places.progress.exists()
        again = there.switch("agent")
        assert (again.changed, again.outcome) == (False, "nothing to do")
        status = there.status()
    middle = next(entry for step, entry in zip(steps, seen, strict=True) if step.phase == "start")
    assert middle is not None and middle["who"].startswith("to agent, asked by me (pid ")
    assert (middle["target"], middle["phase"], middle["expected"]) == ("agent", "start", None)
    assert json.loads(json.dumps(status)) == status
    assert (status["mode"], status["running"], status["progress"]) == ("agent", ["tts", "vllm-agent"], None)
    assert status["problems"] == [] and status["busy"] is False and status["intent"] is None
    assert status["modes"]["agent"]["peak_mib"] == 26000 and status["modes"]["forensic"]["peak_mib"] is None
    assert status["tenants"]["tts"]["held_mib"] == 4000 and status["tenants"]["music"]["held_mib"] == 0
    assert {each["tenant"] for each in status["processes"]} == {"tts", "vllm-agent"}
    assert status["card"]["memory_mib"]["used"] == 26000 and status["no_card"] is None
    with here.opened() as there:
        assert [entry["outcome"] for entry in there.history()] == ["done"]
        plan = there.plan("forensic")
        assert (plan["stop"], plan["keep"], plan["start"]) == (["tts", "vllm-agent"], [], ["vllm-forensic"])
        assert plan["changed"] and not there.plan("agent")["changed"]
        assert there.plan("agent")["expected_seconds"] is not None


def test_who_works_is_told(here: Here) -> None:
    with here.opened() as there:
        there.switch("agent")
        here.works = ["2 requests running"]
        status = there.status()
        assert status["busy"] and "vllm-agent: 2 requests running" in status["busy_reasons"]
        with pytest.raises(SovereignError, match="it is at work"):
            there.switch("forensic")
        assert there.switch("forensic", on_busy="force", drain_seconds=0).outcome == "done"


# ---- engines that sleep
class Sleepy:
    """Engines that sleep as they should: most of their memory goes, and comes back. ``liars`` keep all of it."""

    def __init__(self, here: Here) -> None:
        self.here, self.down, self.liars = here, set[str](), set[str]()
        self.whole = dict(here.sizes)
        self.told: list[str] = []

    def sleep(self, tenant: Tenant, level: int) -> None:
        self.told.append(f"sleep {tenant.name} {level}")
        self.down.add(tenant.name)
        if tenant.name not in self.liars:
            self.here.sizes[f"mushishi-{tenant.name}"] = 1500

    def wake(self, tenant: Tenant, level: int) -> None:
        self.told.append(f"wake {tenant.name} {level}")
        self.down.discard(tenant.name)
        self.here.sizes[f"mushishi-{tenant.name}"] = self.whole[f"mushishi-{tenant.name}"]

    def asleep(self, tenant: Tenant) -> bool:
        return tenant.name in self.down

    def says(self, tenant: Tenant) -> str:
        return "words"

    def restarts(self, tenant: Tenant, on: bool) -> None:
        """Docker is played elsewhere."""

    def host_free(self) -> int:
        return 200_000


@pytest.fixture
def sleepy(here: Here, monkeypatch: pytest.MonkeyPatch) -> Sleepy:
    raw = json.loads(here.path.read_text())
    for name, tenant in raw["tenants"].items():
        tenant["sleep_level"] = int(name.startswith("vllm-"))
    here.path.write_text(json.dumps(raw))
    found = Sleepy(here)
    monkeypatch.setattr(machine, "VllmSleeper", lambda _namespace, _run: found)
    monkeypatch.setattr(warm, "SLEEP_SECONDS", 0.01)
    return found


def test_an_engine_that_may_sleep_is_tried_before_its_door_opens_and_sleeps_then(here: Here, sleepy: Sleepy) -> None:
    with here.opened() as there:
        first = there.switch("forensic")
    assert first.warnings == [
        "vllm-forensic may sleep from now on: asleep it holds 1500 of 27000 MiB and wakes in 0.0 s"
    ]
    assert sleepy.told == ["sleep vllm-forensic 1", "wake vllm-forensic 1"] * warm.CYCLES
    sleepy.told.clear()
    with here.opened() as there:
        assert there.plan("coding")["stop"] == ["vllm-forensic"]
        second = there.switch("coding")
        status = there.status()
    assert "vllm-forensic sleeps (0.0 s)" in second.warnings and sleepy.told[0] == "sleep vllm-forensic 1"
    assert status["running"] == ["vllm-coding"] and status["foreign"] == [] and status["problems"] == []
    asleep = {name: each["asleep"] for name, each in status["tenants"].items()}
    assert asleep["vllm-forensic"] and not asleep["vllm-coding"]
    assert status["tenants"]["vllm-forensic"]["held_mib"] == 1500
    containers = dict(here.docker.up)
    with here.opened() as there:
        third = there.switch("forensic")
        assert there.status()["running"] == ["vllm-forensic"]
    assert "vllm-forensic woke (0.0 s)" in third.warnings
    assert here.docker.up["mushishi-vllm-forensic"] == containers["mushishi-vllm-forensic"], "the same container"
    with here.opened() as there:
        there.switch("off")
    assert here.docker.up == {}, "nobody holds the card: nobody sleeps on it either"


def test_an_engine_that_frees_nothing_is_stopped_as_without_the_option(here: Here, sleepy: Sleepy) -> None:
    sleepy.liars.add("vllm-forensic")
    with here.opened() as there:
        first = there.switch("forensic")
        assert "vllm-forensic may not sleep: it says that it sleeps and holds 27000 of 27000 MiB" in first.warnings[0]
        assert there.status()["running"] == ["vllm-forensic"], "made anew, it serves"
    sleepy.told.clear()
    sleepy.down.clear()
    with here.opened() as there:
        there.switch("coding")
        there.switch("forensic")
    assert "sleep vllm-forensic 1" not in sleepy.told and "mushishi-vllm-coding" in here.docker.up


def test_a_proof_is_of_one_project_one_level_and_one_driver(here: Here, sleepy: Sleepy) -> None:
    with here.opened() as there:
        there.switch("forensic")
    kept = warm.from_text(here.places.proofs.read_text())["vllm-forensic"]
    assert kept.made_from.endswith("driver 580") and kept.doubt == ""
    project = Path(json.loads(here.path.read_text())["tenants"]["vllm-forensic"]["project"])
    project.write_text(project.read_text() + "# other\n")
    sleepy.told.clear()
    with here.opened() as there:
        result = there.switch("coding")
    assert "sleep vllm-forensic 1" not in sleepy.told and "mushishi-vllm-forensic" not in here.docker.up
    assert not [each for each in result.warnings if each.startswith("vllm-forensic")]


def test_without_the_option_nobody_is_asked(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Sleepy(here)
    monkeypatch.setattr(machine, "VllmSleeper", lambda _namespace, _run: found)
    with here.opened() as there:
        there.switch("forensic")
        there.switch("coding")
    assert found.told == [] and not here.places.proofs.exists()


def test_without_a_card(here: Here) -> None:
    here.card = None
    with here.opened() as there:
        status = there.status()
        assert status["card"] is None and "Install NVIDIA's driver" in status["no_card"]
        assert status["processes"] is None and status["tenants"]["tts"]["held_mib"] is None
        assert there.info()["cards"] == []
        for act in (there.switch, there.plan):
            with pytest.raises(SovereignError, match="the driver does not answer"):
                act("agent")
        here.docker.up["mushishi-tts"] = 9
        result = there.switch("off")
        assert result.outcome == "done" and here.docker.up == {}
        assert "no card answers" in result.warnings[0]


def test_a_card_that_is_lost_stops_nobody(here: Here) -> None:
    with here.opened() as there:
        there.switch("agent")
        assert here.card is not None
        here.card.lost = True
        before = len(here.docker.told)
        with pytest.raises(SovereignError, match="GPU is lost"):
            there.switch("forensic")
        assert len(here.docker.told) == before
        assert any("GPU is lost" in problem for problem in there.status()["problems"])
        assert "GPU is lost" in there.info()["no_card"]


def test_a_process_that_outlives_its_container_is_its_tenant_s(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on the card without a container any more is waited for by name, not called a stranger."""
    with here.opened() as there:
        there.switch("audio")
        # This world has a card.
        monkeypatch.setattr(machine.RealWorld, "sleep", lambda self, seconds: here.card.foreign.clear())  # type: ignore[union-attr]
        number = f"{here.docker.up['mushishi-tts']:064x}"
        stopped = here.docker.run

        def stop(argv: Sequence[str]) -> tuple[int, str, str]:
            assert here.card is not None
            if argv[4] == "down":
                here.card.foreign.append(Process(77, 900, "python3", "root", "tts", number))
            return stopped(argv)

        there._world._docker()._run = stop
        assert there.switch("forensic").outcome == "done"
        assert here.card is not None and here.card.foreign == [], "it was waited for"
        assert there._world._owners[number] == "tts"


def test_a_card_that_keeps_more_than_was_thought_stops_nobody(here: Here) -> None:
    with here.opened() as there:
        there.switch("agent")
        assert here.card is not None
        here.card.reserved = TOTAL - 27000 + 1
        before = len(here.docker.told)
        for act in (there.plan, there.switch):
            with pytest.raises(SovereignError, match="are the driver's own"):
                act("forensic")
        assert len(here.docker.told) == before
        assert there.status()["card"]["memory_mib"]["free"] == TOTAL - 26000 - here.card.reserved


def test_a_mode_s_peak_is_also_what_it_held_when_it_went(here: Here) -> None:
    """When it has just answered it holds less than when it has worked."""
    with here.opened() as there:
        there.switch("agent")
        assert here.card is not None and there.status()["modes"]["agent"]["peak_mib"] == 26000
        here.card.sizes["mushishi-vllm-agent"] = 22500
        there.switch("off")
        assert there.status()["modes"]["agent"]["peak_mib"] == 26500


def test_a_floor_that_is_silent_stops_nobody(here: Here) -> None:
    with here.opened() as there:
        there.switch("agent")
        here.silent = {"cpu-coder"}
        before = len(here.docker.told)
        with pytest.raises(SovereignError, match="its CPU floor does not answer: cpu-coder: refused"):
            there.switch("coding")
        assert len(here.docker.told) == before
        here.silent = set()
        assert "floors" in there.switch("coding").seconds


def test_an_image_that_is_missing_stops_nobody(here: Here) -> None:
    with here.opened() as there:
        there.switch("agent")
        here.docker.has_image = False
        before = len(here.docker.told)
        for act in (there.plan, there.switch):
            with pytest.raises(SovereignError, match="it cannot start: vllm-forensic: there is no image engine:1"):
                act("forensic")
        assert len(here.docker.told) == before
        assert there.switch("agent").outcome == "nothing to do", "who runs needs none"


def test_docker_that_comes_back_is_waited_for(here: Here) -> None:
    with here.opened() as there:
        there.switch("agent")
        here.docker.away = 5
        assert there.switch("forensic").outcome == "done"


def test_two_at_once(here: Here) -> None:
    inside, go = threading.Event(), threading.Event()

    def first() -> None:
        with locked(here.places, "to music, asked by somebody", seconds=0):
            inside.set()
            go.wait(10)

    other = threading.Thread(target=first)
    other.start()
    inside.wait(10)
    with here.opened() as there:
        with pytest.raises(SovereignError, match="another switch is under way: to music, asked by somebody"):
            there.switch("agent")
        progress = there.progress()
        assert progress is not None and progress["phase"] == "begins" and "to music" in progress["who"]
        threading.Timer(0.3, go.set).start()
        assert there.switch("agent", wait_seconds=10).outcome == "done", "it waits"
    other.join()
    assert holder(here.places) is None


def test_without_a_registry(here: Here) -> None:
    here.path.unlink()
    with here.opened() as there:
        for act in (lambda: there.switch("off"), lambda: there.plan("off")):
            with pytest.raises(SovereignError, match="with the tag gpu_modes"):
                act()
        status = there.status()
        assert status["tenants"] == {} and "it is not there" in status["problems"][0]
        assert status["card"]["name"] == "a card" and len(there.info()["cards"]) == 1


def test_without_docker(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> Any:
        raise SovereignError("Docker", "it does not answer", "Look at systemctl status docker.")

    monkeypatch.setattr(docker_tenants, "connect", connect)
    with here.opened() as there:
        status = there.status()
        assert status["running"] is None and status["card"]["memory_mib"]["total"] == TOTAL
        assert status["problems"] == ["Docker: it does not answer. Look at systemctl status docker."]
        with pytest.raises(SovereignError, match="Docker"):
            there.switch("off")
        assert Journal(here.places).intent() is None


def test_a_registry_that_asks_what_nobody_knows(here: Here) -> None:
    raw = json.loads(here.path.read_text())
    raw["tenants"]["tts"]["ready"]["kind"] = "smoke signals"
    here.path.write_text(json.dumps(raw))
    with here.opened() as there, pytest.raises(SovereignError, match="'smoke signals' is not known here"):
        there.switch("off")


def test_the_lock_cannot_be_had(here: Here) -> None:
    places = Places(here.places.state, here.path / "x" / "lock", here.places.progress)
    with pytest.raises(SovereignError, match="it cannot be opened"), locked(places, "me", seconds=0):
        raise AssertionError
    assert holder(places) is None


def test_a_program_to_its_end() -> None:
    assert machine._run(["sh", "-c", "echo out; echo err >&2; exit 3"]) == (3, "out\n", "err\n")
    assert machine._run(["/nonexistent/x"])[0] == 127


def test_a_program_of_ours_does_not_hear_ctrl_c(tmp_path: Path) -> None:
    """The terminal tells everybody in the foreground; the switch hears it, and compose comes to its end."""
    code = (
        "import signal, sys; sys.path.insert(0, sys.argv[1]);"
        "from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import machine;"
        "signal.signal(signal.SIGINT, lambda *_words: None);"
        "print(machine._run(['sh', '-c', "
        "'trap \"exit 130\" INT; echo $$ > \"$1\"; while [ ! -e \"$2\" ]; do sleep 0.1; done', "
        "'sh', *sys.argv[2:]]))"
    )
    root = next(path for path in sys.path if path and (Path(path) / "ansible_collections/mushishi").is_dir())
    pid, go = tmp_path / "pid", tmp_path / "go"
    us = subprocess.Popen(
        [sys.executable, "-c", code, root, str(pid), str(go)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not pid.exists() or not pid.read_text().strip():
        assert time.monotonic() < deadline and us.poll() is None
        time.sleep(0.05)
    os.killpg(us.pid, signal.SIGINT)
    time.sleep(0.5)
    go.touch()
    assert us.communicate(timeout=30)[0] == "(0, '', '')\n"


def test_a_program_of_ours_ends_with_us(tmp_path: Path) -> None:
    """A switch that is killed leaves no compose at work that the next one would meet."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import machine;"
        "machine._run(['sh', '-c', 'echo $$ > ' + sys.argv[2] + '; exec sleep 60'])"
    )
    root = next(path for path in sys.path if path and (Path(path) / "ansible_collections/mushishi").is_dir())
    us = subprocess.Popen([sys.executable, "-c", code, root, str(tmp_path / "pid")])
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < deadline and us.poll() is None
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    assert Path(f"/proc/{pid}").exists(), "control: it is at work"
    us.kill()
    us.wait()
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
