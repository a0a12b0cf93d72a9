# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""The card as the driver knows it (NVML, by nvidia-ml-py): memory, processes, power, heat. Memory in MiB.

Names and constants are those of NVIDIA's NVML API reference. Memory is asked in its second version, in which total is
reserved, used and free together: the first one counts what the driver reserves for itself as used.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Memory, Process

if TYPE_CHECKING:
    IMPORT_ERROR: ImportError | None
    pynvml: Any
else:
    try:
        import pynvml

        IMPORT_ERROR = None
    except ImportError as exc:
        pynvml, IMPORT_ERROR = None, exc

_MIB = 1024 * 1024
_THING = "NVIDIA's card"
#: Bit → reason, of nvmlClocksEventReasons (nvml.h). Idle and the application's own setting slow nothing down.
REASONS = {
    0x0000000000000004: "power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000010: "boost of a group of cards",
    0x0000000000000020: "heat (software)",
    0x0000000000000040: "heat (hardware)",
    0x0000000000000080: "power brake (hardware)",
    0x0000000000000100: "display clocks",
}
#: A container's number in the path of its control group, with either driver of control groups.
_CONTAINER = re.compile(r"(?:docker[-/]|/)([0-9a-f]{64})(?:\.scope)?(?=/|$)", re.MULTILINE)


@dataclass(frozen=True)
class Facts:
    """One card. Power in watts, temperature in degrees Celsius, load in percent."""

    index: int
    name: str
    uuid: str
    driver: str
    compute_capability: str
    memory: Memory
    power: float | None = None
    power_limit: float | None = None
    temperature: int | None = None
    load: int | None = None
    slowed_by: tuple[str, ...] = ()
    processes: tuple[Process, ...] = field(default_factory=tuple)


def reasons(bits: int) -> tuple[str, ...]:
    """What slows the card down, in words."""
    return tuple(words for bit, words in REASONS.items() if bits & bit)


def containers_of(pid: int, proc: str = "/proc") -> list[str]:
    """The numbers of the containers that a process is in, the outermost first; none for one of the host, or one that is
    gone. More than one where Docker itself runs in a container.
    """
    try:
        with open(f"{proc}/{pid}/cgroup", encoding="ascii", errors="replace") as stream:
            return list(dict.fromkeys(_CONTAINER.findall(stream.read())))
    except OSError:
        return []


def named(pid: int, proc: str = "/proc") -> tuple[str, str]:
    """A process's name and user, as the kernel has them; question marks for one that is gone."""
    try:
        with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            name = stream.read().strip()
        uid = os.stat(f"{proc}/{pid}").st_uid
    except OSError:
        return "?", "?"
    try:
        return name, pwd.getpwuid(uid).pw_name
    except KeyError:
        return name, str(uid)


class Card:
    """An open card. Every method raises SovereignError when the driver does not answer."""

    def __init__(self, handle: Any, index: int, proc: str = "/proc") -> None:
        self._handle, self._index, self._proc = handle, index, proc

    def _ask(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(pynvml, name)(self._handle, *arguments)
        except pynvml.NVMLError as error:
            raise SovereignError(
                f"{_THING} {self._index}",
                f"the driver does not answer {name}: {error}",
                "Look at dmesg and nvidia-smi; a card that is lost needs a restart of the machine.",
            ) from None

    def _asked(self, name: str, *arguments: Any) -> Any:
        """The same; None where this card or driver does not know the question."""
        try:
            return getattr(pynvml, name)(self._handle, *arguments)
        except (AttributeError, pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
            return None
        except pynvml.NVMLError:
            return self._ask(name, *arguments)

    def memory(self) -> Memory:
        """What the card has, and what is taken, the driver's own share apart."""
        found = self._ask("nvmlDeviceGetMemoryInfo", pynvml.nvmlMemory_v2)
        return Memory(int(found.total) // _MIB, -(-int(found.used) // _MIB), -(-int(found.reserved) // _MIB))

    def processes(self, tenant_of: Callable[[str], str | None] = lambda _container: None) -> list[Process]:
        """Everybody on the card, by the memory held; ``tenant_of``: the tenant whose container has a number."""
        held: dict[int, int] = {}
        for name in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
            for entry in self._asked(name) or []:
                # Who computes and draws stands in both lists with the same memory.
                held[int(entry.pid)] = max(int(entry.usedGpuMemory or 0), held.get(int(entry.pid), 0))
        found = []
        for pid, used in sorted(held.items()):
            containers = containers_of(pid, self._proc)
            name, user = named(pid, self._proc)
            ours = next((each for each in containers if tenant_of(each)), None)
            container = ours or (containers[-1] if containers else None)
            found.append(Process(pid, -(-used // _MIB), name, user, tenant_of(ours) if ours else None, container))
        return found

    def load(self) -> int | None:
        """Percent of the last moments in which something computed; None where the card does not say."""
        found = self._asked("nvmlDeviceGetUtilizationRates")
        return None if found is None else int(found.gpu)

    def facts(self, tenant_of: Callable[[str], str | None] = lambda _container: None) -> Facts:
        """All of it."""
        major, minor = self._ask("nvmlDeviceGetCudaComputeCapability")
        power, limit = self._asked("nvmlDeviceGetPowerUsage"), self._asked("nvmlDeviceGetPowerManagementLimit")
        bits = self._asked("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:
            bits = self._asked("nvmlDeviceGetCurrentClocksThrottleReasons")
        return Facts(
            index=self._index,
            name=_text(self._ask("nvmlDeviceGetName")),
            uuid=_text(self._ask("nvmlDeviceGetUUID")),
            driver=_text(pynvml.nvmlSystemGetDriverVersion()),
            compute_capability=f"{major}.{minor}",
            memory=self.memory(),
            power=None if power is None else power / 1000,
            power_limit=None if limit is None else limit / 1000,
            temperature=self._asked("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
            load=self.load(),
            slowed_by=reasons(int(bits or 0)),
            processes=tuple(self.processes(tenant_of)),
        )


def _text(value: Any) -> str:
    """Old versions of the library give bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@contextlib.contextmanager
def cards(proc: str = "/proc") -> Iterator[Sequence[Card]]:
    """Every card of the machine, while the driver's library is open.

    Raises:
        SovereignError: the library or the driver is missing, or does not answer.
    """
    if pynvml is None:
        raise SovereignError("library nvidia-ml-py", f"it is missing ({IMPORT_ERROR})", "Install nvidia-ml-py.")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise SovereignError(
            _THING, f"the driver does not answer: {error}", "Install NVIDIA's driver, or look at dmesg and nvidia-smi."
        ) from None
    try:
        count = pynvml.nvmlDeviceGetCount()
        yield [Card(pynvml.nvmlDeviceGetHandleByIndex(index), index, proc) for index in range(count)]
    except pynvml.NVMLError as error:
        raise SovereignError(_THING, f"the driver does not answer: {error}", "Look at dmesg and nvidia-smi.") from None
    finally:
        # A card that was lost while it was open: who asked has been told.
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def as_result(facts: Facts) -> Mapping[str, Any]:
    """Plain values, for a module's answer and for JSON."""
    return {
        "index": facts.index,
        "name": facts.name,
        "uuid": facts.uuid,
        "driver": facts.driver,
        "compute_capability": facts.compute_capability,
        "memory_mib": {"total": facts.memory.total, "used": facts.memory.used, "free": facts.memory.free},
        "power_watts": facts.power,
        "power_limit_watts": facts.power_limit,
        "temperature_celsius": facts.temperature,
        "load_percent": facts.load,
        "slowed_by": list(facts.slowed_by),
        "processes": [process_result(each) for each in facts.processes],
    }


def process_result(process: Process) -> dict[str, Any]:
    """One process, the same way; its container by the short number that ``docker ps`` shows."""
    return {
        "pid": process.pid,
        "mib": process.mib,
        "name": process.name,
        "user": process.user,
        "tenant": process.tenant,
        "container": process.container[:12] if process.container else None,
    }
