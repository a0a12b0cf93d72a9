# SPDX-License-Identifier: MIT
"""What ``--json`` prints: one document each, whose keys are a promise (tests hold them). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.journal import Intent
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Step
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import OFF, Memory, Registry

from sovereignctl.attempt import Ended
from sovereignctl.follow import Shown

#: Another number means that a key was taken away or means something else; new keys come without.
SCHEMA = 1


def document(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """A document of one kind."""
    return {"schema": SCHEMA, "kind": kind, **body}


def modes(registry: Registry, current: str | None) -> list[dict[str, Any]]:
    """Every mode, ``off`` last: its budget is the sum of what its tenants declare."""
    names = [*(name for name in registry.modes if name != OFF), OFF]
    return [
        {
            "name": name,
            "vram_mib": registry.modes[name].vram_mib,
            "tenants": [tenant.name for tenant in registry.modes[name].tenants],
            "current": name == current,
        }
        for name in names
    ]


def status(
    registry: Registry,
    mode: str | None,
    intent: Intent | None,
    running: Iterable[str],
    memory: Memory | None,
    working: Sequence[str],
    problems: Sequence[str],
) -> dict[str, Any]:
    """Which mode it is. ``problems``: what could not be asked, one sentence each."""
    there = set(running)
    way = intent and {"origin": intent.origin, "target": intent.target, "phase": intent.phase, "began": intent.began}
    card = memory and {"total_mib": memory.total, "used_mib": memory.used, "free_mib": memory.free}
    return document(
        "status",
        {
            "mode": mode,
            "under_way": way,
            "card": card,
            "working": list(working),
            "problems": list(problems),
            "tenants": [
                {"name": name, "vram_mib": tenant.vram_mib, "running": name in there}
                for name, tenant in registry.tenants.items()
            ],
            "modes": modes(registry, mode),
        },
    )


def history(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Every switch that came to an end, the oldest first."""
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
            }
        )
    return document("history", {"switches": found})


def plan(target: str, words: Sequence[str], working: Sequence[str]) -> dict[str, Any]:
    """What a switch would do now."""
    return document("plan", {"target": target, "plan": list(words), "working": list(working)})


def fault(error: SovereignError | None) -> dict[str, str] | None:
    """An error by its three facts."""
    return error and {"thing": error.thing, "seen": error.seen, "remedy": error.remedy}


def ended(target: str, how: Ended) -> dict[str, Any]:
    """What became of a switch; without a result it was refused before it was begun."""
    result = how.result
    seconds = dict(result.seconds) if result else {}
    return document(
        "switch",
        {
            "origin": result.origin if result else None,
            "target": target,
            "changed": bool(result and result.changed),
            "outcome": result.outcome if result else "refused",
            "cancelled": how.cancelled,
            "working": how.working,
            "exit": how.code,
            "plan": list(result.plan) if result else [],
            "seconds": seconds,
            "total_seconds": sum(seconds.values()),
            "warnings": list(result.warnings) if result else [],
            "peaks": dict(result.peaks) if result else {},
            "error": fault(how.error),
        },
    )


def step(told: Step, shown: Shown) -> dict[str, Any]:
    """One line of ``--steps``: what the switch says, and what is shown of it."""
    return document(
        "step",
        {
            "phase": told.phase,
            "detail": told.detail,
            "title": shown.title,
            "elapsed": round(shown.elapsed, 3),
            "left": None if shown.left is None else round(shown.left, 3),
            "share": round(shown.share, 4),
        },
    )


def failed(error: SovereignError) -> dict[str, Any]:
    """A command that could not do what it was asked."""
    return document("error", {"error": fault(error)})
