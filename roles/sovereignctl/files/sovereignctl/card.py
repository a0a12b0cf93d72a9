# SPDX-License-Identifier: MIT
"""What sovereignctl asks of the card: one interface for the command, the terminal picker and the desktop picker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.journal import Journal, Places
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Result, Step
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Registry

from sovereignctl import documents

if TYPE_CHECKING:
    from sovereignctl.attempt import How


class Card(Protocol):
    """The card's modes. Each raises SovereignError when the machine cannot be asked, or says no."""

    def status(self) -> Mapping[str, Any]:
        """The document of the same name (documents.py)."""

    def history(self) -> Sequence[Mapping[str, Any]]:
        """Every switch that is remembered, the oldest first."""

    def gpu(self) -> Mapping[str, Any]:
        """The card as the driver knows it, and who is on it."""

    def plan(self, target: str) -> tuple[list[str], list[str]]:
        """What a switch would do, one line a step; and what is at work among those who would go."""

    def switch(self, target: str, how: How, report: Callable[[Step], None]) -> Result:
        """Make it so."""


#: What the role gpu_modes has written; no secret, so that everybody may read which modes there are.
REGISTRY = Path("/etc/mushishi/gpu/registry.json")


class Look:
    """What the machine's files say of the modes: no root, no Docker. What really runs is not asked."""

    def __init__(self, registry: Path = REGISTRY, places: Places | None = None) -> None:
        self._registry, self._journal = registry, Journal(places)

    def registry(self) -> Registry:
        """Tenants and modes.

        Raises:
            SovereignError: there is no such file, or it is not ours.
        """
        try:
            text = self._registry.read_text(encoding="utf-8")
        except OSError as error:
            seen = f"it cannot be read ({error.strerror})"
            raise SovereignError(f"file {self._registry}", seen, "Run site.yml: --tags gpu_modes.") from None
        return Registry.from_text(text)

    def names(self) -> list[str]:
        """The modes, ``off`` last."""
        return [mode["name"] for mode in documents.modes(self.registry(), None)]

    def modes(self) -> list[dict[str, Any]]:
        """The modes with budgets; current is the one that was committed last."""
        return documents.modes(self.registry(), self._journal.good())

    def history(self) -> Sequence[Mapping[str, Any]]:
        """Every switch that is remembered, the oldest first."""
        return self._journal.history()
