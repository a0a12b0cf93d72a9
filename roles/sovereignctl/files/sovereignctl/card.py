# SPDX-License-Identifier: MIT
"""What sovereignctl asks: of the machine, as root; of its files, as anybody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.journal import Journal, Places
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Result, Step, expected_seconds
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Registry

#: Where the role gpu_modes writes it; the core says the same, and takes Docker's library with it.
REGISTRY = Path("/etc/mushishi/gpu/registry.json")


class Card(Protocol):
    """What is used of the core's ``machine.Machine``. Each raises SovereignError when the machine says no."""

    def status(self) -> dict[str, Any]:
        """All that can be said now."""

    def info(self) -> dict[str, Any]:
        """The cards as the driver knows them."""

    def plan(self, target: str) -> dict[str, Any]:
        """What a switch would do."""

    def switch(
        self,
        target: str,
        *,
        on_busy: str = "fail",
        drain_seconds: float | None = None,
        rollback: bool = True,
        wait_seconds: float = 0.0,
        report: Callable[[Step], None] = lambda _step: None,
        who: str = "",
    ) -> Result:
        """Make it so."""


class Look:
    """What the machine's files say of the modes: no root, no Docker. What really runs is not asked."""

    def __init__(self, registry: Path = REGISTRY, places: Places | None = None) -> None:
        self._path, self._journal = registry, Journal(places)

    def registry(self) -> Registry:
        """Tenants and modes.

        Raises:
            SovereignError: there is no such file, or it is not ours.
        """
        try:
            text = self._path.read_text(encoding="utf-8")
        except OSError as error:
            seen = f"it cannot be read ({error.strerror})"
            raise SovereignError(f"registry {self._path}", seen, "Run site.yml with the tag gpu_modes.") from None
        return Registry.from_text(text)

    def names(self) -> list[str]:
        """The modes."""
        return list(self.registry().modes)

    def current(self) -> str | None:
        """The mode that was committed last."""
        return self._journal.good()

    def history(self) -> Sequence[Mapping[str, Any]]:
        """Every switch that is remembered, the oldest first."""
        return self._journal.history()

    def expected(self, name: str) -> float | None:
        """How long a switch to a mode took before."""
        return expected_seconds(self.history(), name)
