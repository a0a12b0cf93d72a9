# SPDX-License-Identifier: MIT
"""A played machine behind the real command: the real Machine, switch and journal, over tenants that are played.

As a program (``ctl_world.py FOLDER NAME …``) it is the command that switches, in a process of its own: the desktop
picker starts one.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    ROOT = HERE.parents[3]
    sys.path[:0] = [str(ROOT / "roles/sovereignctl/files"), str(ROOT / "tests/unit/plugins/module_utils/gpu")]
    # The checkout under its collection's name: whoever starts this has made it.
    sys.path.insert(0, sys.argv.pop(1))

from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import registry as given
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.door import NoDoor
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.journal import Journal, Places
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.machine import Machine
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.nvml import Facts
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Registry, Tenant
from gpu_world import MODES, Played, raw_registry
from sovereignctl.card import Look
from sovereignctl.cli import Outside, main

TENANTS = {**MODES, "off": []}


@dataclass
class World(Played):
    """What a Machine wants of its world beyond a switch's. ``hold``: a call that waits until it is let go."""

    without_card: bool = False
    warnings: list[str] = field(default_factory=list)
    hold: str = ""
    #: … from this moment of the played clock on.
    hold_from: float = 0.0
    reached: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    #: Tenants that take longer than others until they answer, in seconds.
    slow: dict[str, float] = field(default_factory=dict)
    #: Seconds of a real clock for each of the played one.
    pace: float = 0.0

    def owners(self) -> dict[str, str]:
        # Played processes know their tenant by themselves.
        return {}

    def _call(self, what: str) -> None:
        super()._call(what)
        if what == self.hold and self.clock >= self.hold_from:
            self.reached.set()
            assert self.go.wait(30), f"nobody let {what} go"

    def ready(self, tenant: Tenant) -> str:
        there = self.up.get(tenant.name)
        if there and self.clock - there.since < self.slow.get(tenant.name, 0.0):
            self._call("ready")
            return "it loads"
        return super().ready(tenant)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        time.sleep(seconds * self.pace)


@dataclass
class Card:
    """The played card as NVML would tell of it."""

    world: World

    def facts(self, _tenant_of: Callable[[str], str | None]) -> Facts:
        return Facts(
            index=0,
            name="NVIDIA GeForce RTX 5090",
            uuid="GPU-1",
            driver="580.95.05",
            compute_capability="12.0",
            memory=self.world.memory(),
            power=312.5,
            power_limit=575.0,
            temperature=61,
            load=97,
            slowed_by=("power cap",),
            processes=tuple(self.world.processes()),
        )


class Terminal(io.StringIO):
    """A stream with somebody before it, or nobody."""

    def __init__(self, somebody: bool = False, text: str = "") -> None:
        super().__init__(text)
        self.somebody = somebody

    def isatty(self) -> bool:
        return self.somebody


class Desk:
    """A machine, its files, and the command on it."""

    def __init__(self, folder: Path, mode: str = "agent", **changes: Any) -> None:
        self.folder = folder
        self.places = Places(folder / "state", folder / "lock", folder / "progress.json")
        self.path = folder / "registry.json"
        self.world = World()
        self.world.has(*TENANTS[mode])
        self.journal = Journal(self.places)
        self.journal.commit(mode)
        document = given.document(given.load(raw_registry(**changes)))
        self.path.write_text(json.dumps(document), encoding="utf-8")
        self.out, self.err = Terminal(), Terminal()
        self.replaced: list[Sequence[str]] = []

    @property
    def card(self) -> Machine:
        registry = Registry.from_text(self.path.read_text(encoding="utf-8"))
        cards = cast(Any, [Card(self.world)])
        return Machine(registry, cast(Any, self.world), cards, None, NoDoor(), self.places, cast(Any, None))

    @contextlib.contextmanager
    def opened(self) -> Iterator[Machine]:
        yield self.card

    def outside(self, **more: Any) -> Outside:
        told = {
            "open_card": self.opened,
            "look": lambda: Look(self.path, self.places),
            "out": self.out,
            "err": self.err,
            "stdin": Terminal(),
            "root": True,
            "sudo": None,
            "replace": self.replaced.append,
        }
        return Outside(**{**told, **more})

    def call(self, *words: str, **more: Any) -> int:
        """The command; its output is in ``out`` and ``err``."""
        for stream in (self.out, self.err):
            stream.seek(0)
            stream.truncate()
        return main(list(words), self.outside(**more))

    def document(self, *words: str, **more: Any) -> dict[str, Any]:
        """The one document that the command prints."""
        self.call(*words, **more)
        lines = self.out.getvalue().splitlines()
        assert len(lines) == 1, lines
        return dict(json.loads(lines[0]))

    def serves(self, mode: str) -> None:
        """Exactly this mode is there, and no switch is under way."""
        assert set(self.world.up) == set(TENANTS[mode])
        assert not self.world.shut & set(TENANTS[mode])
        assert self.journal.good() == mode and self.journal.intent() is None


def program(folder: Path, words: Sequence[str]) -> int:
    """``sovereignctl mode switch …`` on the machine of a folder, which is what its files say; then written down."""
    told = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    journal = Journal(Places(folder / "state", folder / "lock", folder / "progress.json"))
    desk = Desk(folder, journal.good() or "off")
    desk.world.pace = told.get("pace", 0.0)
    desk.world.start_seconds = told.get("start_seconds", 1.0)
    desk.world.slow = told.get("slow", {})
    desk.world.hang, desk.world.die = set(told.get("hang", [])), set(told.get("die", []))
    desk.world.at_work = {name: desk.world.clock + seconds for name, seconds in told.get("at_work", {}).items()}
    outside = desk.outside(out=sys.stdout, err=sys.stderr, stdin=sys.stdin)
    status = main(["mode", "switch", *words], outside)
    (folder / "ended.json").write_text(json.dumps({"status": status, "up": sorted(desk.world.up)}), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(program(Path(sys.argv[1]), sys.argv[2:]))
