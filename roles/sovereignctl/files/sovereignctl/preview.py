# SPDX-License-Identifier: MIT
"""What both pickers say of a mode, and how they end. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sovereignctl.attempt import Ended
from sovereignctl.follow import clock
from sovereignctl.say import mib

OUTCOMES = {
    "unchanged": "Nothing was changed.",
    "refused": "Nothing was begun.",
    "rolled back": "The last good mode serves again.",
    "broken": "The last good mode does not serve.",
}


def changes(mode: Mapping[str, Any], tenants: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Tenant names by what would become of them: ``stop``, ``keep``, ``start``."""
    wanted = mode["tenants"]
    there = [name for name, each in tenants.items() if each["running"]]
    good = [name for name in there if not tenants[name]["stale"]]
    return {
        "stop": [name for name in there if name not in wanted or name not in good],
        "keep": [name for name in wanted if name in good],
        "start": [name for name in wanted if name not in good],
    }


def about(name: str, status: Mapping[str, Any]) -> list[str]:
    """A mode in some lines: who would go, stay, come; who is at work; how long it took."""
    mode, tenants = status["modes"][name], status["tenants"]
    found = changes(mode, tenants)
    lines = []
    for word, key in (("stops", "stop"), ("keeps", "keep"), ("starts", "start")):
        named = [f"{each} ({mib(tenants[each]['vram_mib'])})" for each in found[key]]
        lines.append(f"{word:<7} {', '.join(named) or 'nobody'}")
    if mode["expected_seconds"] is not None:
        lines.append(f"takes   about {clock(mode['expected_seconds'])}")
    lines += [f"AT WORK {each}: {what}" for each in found["stop"] for what in tenants[each]["busy"]]
    return lines


def question(plan: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """What is asked before a switch: a text, and the answers as (on_busy, words)."""
    lines = [f"Switch from {plan['origin']} to {plan['target']}?", "", *plan["steps"]]
    lines += [f"warning: {what}" for what in plan["warnings"]]
    if plan["expected_seconds"] is not None:
        lines += ["", f"It took about {clock(plan['expected_seconds'])} before."]
    return "\n".join(lines + busy_words(plan["working"])), answers(bool(plan["working"]))


def busy_words(working: Sequence[str]) -> list[str]:
    """The warning that somebody is at work; nothing when nobody is."""
    return ["", "Somebody is at work:", *(f"  {what}" for what in working)] if working else []


def answers(working: bool) -> list[tuple[str, str]]:
    """What a person may say, as (on_busy, words); not to switch is always possible."""
    if working:
        return [("wait", "Wait for it"), ("force", "End the work")]
    return [("fail", "Switch")]


def end(target: str, how: Ended) -> str:
    """One sentence for a switch that came to its end well."""
    assert how.result is not None  # noqa: S101 - a good end has one
    took = clock(sum(how.result.seconds.values()))
    words = f"{target} serves, after {took}." if how.result.changed else f"{target} serves already."
    return " ".join([words, *(f"Warning: {what}." for what in how.result.warnings)])


def failure(thing: str, seen: str, remedy: str, outcome: str) -> str:
    """An error and where it has left the card."""
    where = OUTCOMES.get(outcome, outcome)
    return "\n".join([thing, "", f"What is wrong: {seen}", "", f"What to do: {remedy}", "", where])
