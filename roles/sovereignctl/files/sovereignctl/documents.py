# SPDX-License-Identifier: MIT
"""What ``--json`` prints: one document each, whose keys are a promise (tests hold them). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Result, Step

from sovereignctl.follow import Shown

if TYPE_CHECKING:
    from sovereignctl.attempt import Ended

#: Another number means that a key was taken away or means something else; new keys come without.
SCHEMA = 1


def document(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """A document of one kind. The bodies of ``status`` and ``gpu`` are those of the module ``gpu_info``'s core."""
    return {"schema": SCHEMA, "kind": kind, **body}


def history(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Switches that came to an end, the oldest first."""
    found = []
    for entry in entries:
        seconds = {str(phase): float(each) for phase, each in dict(entry.get("seconds") or {}).items()}
        found.append(
            {
                "origin": str(entry.get("origin", "?")),
                "target": str(entry.get("target", "?")),
                "outcome": str(entry.get("outcome", "?")),
                "began": float(entry.get("began", 0.0)),
                "ended": float(entry.get("ended", 0.0)),
                "seconds": seconds,
                "total_seconds": sum(seconds.values()),
                "peaks": dict(entry.get("peaks") or {}),
            }
        )
    return document("history", {"switches": found})


def plan(found: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    """What a switch would do now; ``working``: what is at work among those who would be stopped."""
    busy = [f"{name}: {what}" for name in found["stop"] for what in status["tenants"].get(name, {}).get("busy", [])]
    return document("plan", {**found, "working": busy})


def fault(error: SovereignError | None) -> dict[str, str] | None:
    """An error by its three facts."""
    return None if error is None else {"thing": error.thing, "seen": error.seen, "remedy": error.remedy}


def ended(target: str, how: Ended) -> dict[str, Any]:
    """What became of a switch; without a result it was refused before it was begun."""
    from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.machine import result_as_mapping

    body = result_as_mapping(how.result or Result("", target, outcome="refused"))
    more = {"cancelled": how.cancelled, "working": how.working, "exit": how.code, "error": fault(how.error)}
    return document("switch", {**body, **more})


def step(told: Step, shown: Shown) -> dict[str, Any]:
    """One line of ``--steps``: what the switch says, and what is shown of it."""
    return document(
        "step",
        {
            "phase": told.phase,
            "detail": told.detail,
            "title": shown.title,
            "times": shown.times,
            "elapsed": round(shown.elapsed, 3),
            "left": None if shown.left is None else round(shown.left, 3),
            "share": round(shown.share, 4),
        },
    )


def failed(error: SovereignError) -> dict[str, Any]:
    """A command that could not do what it was asked."""
    return document("error", {"error": fault(error)})
