# SPDX-License-Identifier: MIT
"""The card by NVML: a played library with the names, shapes and errors of nvidia-ml-py."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import nvml

GIB = 1024**3
NUMBER = "0123456789abcdef" * 4


class NVMLError(Exception):
    """The library's own."""


class NotSupported(NVMLError):
    """A question that this card does not know."""


class FunctionNotFound(NVMLError):
    """A question that this driver does not know."""


class Library:
    """nvidia-ml-py, as far as it is asked; ``wrong``: name → what it raises."""

    NVMLError = NVMLError
    NVMLError_NotSupported = NotSupported
    NVMLError_FunctionNotFound = FunctionNotFound
    nvmlMemory_v2 = 0x02000028  # noqa: N815 - the library's name
    NVML_TEMPERATURE_GPU = 0

    def __init__(self) -> None:
        self.wrong: dict[str, Exception] = {}
        self.open = 0
        self.compute = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=20 * GIB + 1)]
        self.graphics = [SimpleNamespace(pid=999_999_999, usedGpuMemory=None)]

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(
                total=32 * GIB, used=20 * GIB + 1, free=11 * GIB - 1, reserved=GIB
            ),
            "nvmlDeviceGetComputeRunningProcesses": self.compute,
            "nvmlDeviceGetGraphicsRunningProcesses": self.graphics,
            "nvmlDeviceGetCudaComputeCapability": (12, 0),
            "nvmlDeviceGetPowerUsage": 81_500,
            "nvmlDeviceGetPowerManagementLimit": 400_000,
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97, memory=40),
            "nvmlDeviceGetCurrentClocksEventReasons": 0x4 | 0x20 | 0x1,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x8,
            "nvmlDeviceGetName": b"NVIDIA GeForce RTX 5090",
            "nvmlDeviceGetUUID": "GPU-0",
            "nvmlDeviceGetTemperature": 61,
            "nvmlSystemGetDriverVersion": "580.95.05",
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": "handle",
        }
        if name not in answers:
            raise AttributeError(name)

        def ask(*_words: Any) -> Any:
            if name in self.wrong:
                raise self.wrong[name]
            return answers[name]

        return ask

    def nvmlInit(self) -> None:  # noqa: N802 - the library's name
        if "nvmlInit" in self.wrong:
            raise self.wrong["nvmlInit"]
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802 - the library's name
        self.open -= 1
        if "nvmlShutdown" in self.wrong:
            raise self.wrong["nvmlShutdown"]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setattr(nvml, "pynvml", made)
    return made


def test_facts(library: Library) -> None:
    with nvml.cards() as cards:
        (card,) = cards
        facts = card.facts()
    assert library.open == 0
    told = nvml.as_result(facts)
    # What is begun counts whole, and the driver's own GiB is not free.
    assert told["memory_mib"] == {"total": 32768, "used": 20481, "free": 11263}
    assert (told["name"], told["driver"]) == ("NVIDIA GeForce RTX 5090", "580.95.05")
    assert told["compute_capability"] == "12.0"
    assert (told["power_watts"], told["power_limit_watts"], told["load_percent"]) == (81.5, 400.0, 97)
    assert told["slowed_by"] == ["power cap", "heat (software)"], "idle slows nothing down"
    mine, gone = told["processes"]
    assert mine == {
        "pid": os.getpid(),
        "mib": 20481,
        "name": Path("/proc/self/comm").read_text().strip(),
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "tenant": None,
        "container": None,
    }
    assert (gone["mib"], gone["name"], gone["user"]) == (0, "?", "?")


def test_who_computes_and_draws_counts_once(library: Library) -> None:
    library.graphics = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=20 * GIB + 1)]
    with nvml.cards() as (card,):
        assert [process.mib for process in card.processes()] == [20481]


@pytest.mark.parametrize(
    ("cgroup", "containers"),
    [
        (f"0::/system.slice/docker-{NUMBER}.scope\n", [NUMBER]),
        (f"0::/sovereign.slice/sovereign-engines.slice/docker-{NUMBER}.scope/init\n", [NUMBER]),
        (f"12:devices:/docker/{NUMBER}\n0::/\n", [NUMBER]),
        (f"0::/sovereign-engines.slice/{NUMBER}\n", [NUMBER]),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", []),
        (f"0::/system.slice/{NUMBER[:40]}.service\n", []),
    ],
)
def test_whose_container(tmp_path: Path, cgroup: str, containers: list[str]) -> None:
    (tmp_path / "5").mkdir()
    (tmp_path / "5/cgroup").write_text(cgroup)
    assert nvml.containers_of(5, str(tmp_path)) == containers
    assert nvml.containers_of(6, str(tmp_path)) == []


def test_a_container_in_a_container(library: Library, tmp_path: Path) -> None:
    """Ours may be the outer one or the inner one; a stranger's is told by the inner one."""
    inner = "f" * 64
    library.compute = [SimpleNamespace(pid=5, usedGpuMemory=GIB)]
    library.graphics = []
    (tmp_path / "5").mkdir()
    (tmp_path / "5/cgroup").write_text(f"0::/docker/{NUMBER}/a.slice/docker-{inner}.scope\n1:cpu:/docker/{NUMBER}\n")
    assert nvml.containers_of(5, str(tmp_path)) == [NUMBER, inner]
    for owners, tenant, container in (({NUMBER: "a"}, "a", NUMBER), ({inner: "b"}, "b", inner), ({}, None, inner)):
        with nvml.cards(str(tmp_path)) as (card,):
            (found,) = card.processes(owners.get)
        assert (found.tenant, found.container) == (tenant, container)


def test_a_tenant_s_process_is_known(library: Library, tmp_path: Path) -> None:
    library.compute = [SimpleNamespace(pid=5, usedGpuMemory=GIB)]
    (tmp_path / "5").mkdir()
    (tmp_path / "5/cgroup").write_text(f"0::/docker-{NUMBER}.scope")
    (tmp_path / "5/comm").write_text("python3\n")
    with nvml.cards(str(tmp_path)) as (card,):
        found = card.processes({NUMBER: "vllm-agent"}.get)
    assert [process.tenant for process in found] == ["vllm-agent", None]
    assert [nvml.process_result(process)["container"] for process in found] == [NUMBER[:12], None]


def test_a_question_that_card_or_driver_do_not_know(library: Library) -> None:
    library.wrong = {
        "nvmlDeviceGetPowerUsage": NotSupported(),
        "nvmlDeviceGetPowerManagementLimit": FunctionNotFound(),
        "nvmlDeviceGetCurrentClocksEventReasons": FunctionNotFound(),
    }
    with nvml.cards() as (card,):
        facts = card.facts()
    assert (facts.power, facts.power_limit) == (None, None)
    assert facts.slowed_by == ("hardware slowdown",), "the older question"


@pytest.mark.parametrize(
    "name", ["nvmlDeviceGetMemoryInfo", "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetName"]
)
def test_a_card_that_is_lost(library: Library, name: str) -> None:
    library.wrong = {name: NVMLError("GPU is lost"), "nvmlShutdown": NVMLError("GPU is lost")}
    with pytest.raises(SovereignError, match=rf"{name}: GPU is lost.*restart of the machine"), nvml.cards() as (card,):
        card.facts()
    assert library.open == 0


def test_no_driver_and_no_library(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.wrong = {"nvmlInit": NVMLError("Driver Not Loaded")}
    with pytest.raises(SovereignError, match="Driver Not Loaded"), nvml.cards():
        pass
    monkeypatch.setattr(nvml, "pynvml", None)
    with pytest.raises(SovereignError, match="Install nvidia-ml-py"), nvml.cards():
        pass
