# SPDX-License-Identifier: MIT
"""The chains for people: a Markdown table and a Mermaid flowchart. Pure and deterministic."""

from __future__ import annotations

from collections.abc import Sequence

from .compile import error_when_nothing_answers
from .model import Chain, LocalBackend, Plane, Policy

HEAD = ("profile", "tier", "plane", "chain", "when nothing answers")


def chain_table(policy: Policy) -> str:
    """A Markdown table *profile · tier · plane · chain · when nothing answers*, sorted by tier, then profile."""
    rows = [_row(policy, chain) for chain in _by_tier(policy)]
    widths = [max(len(row[column]) for row in [HEAD, *rows]) for column in range(len(HEAD))]
    lines = [_line(HEAD, widths), "|" + "|".join("-" * (width + 2) for width in widths) + "|"]
    return "\n".join([*lines, *(_line(row, widths) for row in rows)]) + "\n"


def chain_diagram(policy: Policy) -> str:
    """A Mermaid flowchart: profiles, engines and cloud as boxes, the order of each chain on its arrows."""
    chains = _by_tier(policy)
    lines = ["flowchart LR"]
    for plane, title in ((Plane.SOVEREIGN, "sovereign profiles"), (Plane.HYBRID, "hybrid profiles")):
        members = [chain for chain in chains if chain.plane is plane]
        lines += _box(
            plane.value, title, [f'p_{_id(chain.profile)}(["{chain.profile}<br/>{chain.tier}"])' for chain in members]
        )
    used = {link.backend_name: link.backend for chain in chains for link in chain.links}
    local = [
        f'b_{_id(name)}["{name}<br/>{_engine(backend)}"]'
        for name, backend in sorted(used.items())
        if isinstance(backend, LocalBackend)
    ]
    cloud = [
        f'b_{_id(name)}[/"{name}"/]' for name, backend in sorted(used.items()) if not isinstance(backend, LocalBackend)
    ]
    lines += _box("engines", "engines: a LAN with no router", local)
    lines += _box("cloud", "cloud", cloud)
    lines += _box("ends", "when nothing answers", [f'e_{word}{{{{"{word}"}}}}' for word in _terminals(chains)])
    for chain in chains:
        lines += _arrows(chain)
    lines += [
        "    classDef t1 fill:#1b5e20,color:#ffffff,stroke:#1b5e20",
        "    classDef away fill:#fff3e0,color:#5d4037,stroke:#ef6c00,stroke-dasharray:4 3",
    ]
    sovereign = [f"p_{_id(chain.profile)}" for chain in chains if chain.plane is Plane.SOVEREIGN]
    outside = [f"b_{_id(name)}" for name, backend in sorted(used.items()) if not isinstance(backend, LocalBackend)]
    lines += [f"    class {','.join(sovereign)} t1"] if sovereign else []
    lines += [f"    class {','.join(outside)} away"] if outside else []
    return "\n".join(lines) + "\n"


def _by_tier(policy: Policy) -> list[Chain]:
    return sorted(policy.chains(), key=lambda chain: (chain.tier, chain.profile))


def _row(policy: Policy, chain: Chain) -> Sequence[str]:
    left_out = [
        name
        for name in policy.profiles[chain.profile].chain
        if name in policy.backends and name not in {link.backend_name for link in chain.links}
    ]
    way = " → ".join([*(f"`{link.backend_name}`" for link in chain.links)])
    note = f" (budget 0: without {', '.join(left_out)})" if left_out else ""
    names: dict[str, str] = {tier_id: tier.name for tier_id, tier in policy.tiers.items()}
    tier = f"{chain.tier} {names[chain.tier]}"
    return (f"`{chain.profile}`", tier, chain.plane.value, way + note, _ending(chain))


def _ending(chain: Chain) -> str:
    error = error_when_nothing_answers(chain)
    if error["error"] == "queued":
        return f"waits in the private queue; {error['status']} `{error['error']}` after {chain.wait} s; never the cloud"
    if error["mode"]:
        return f"{error['status']} `{error['error']}`, names the mode `{error['mode']}`; nothing else may answer"
    return f"{error['status']} from the gateway"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)) + " |"


def _box(name: str, title: str, members: Sequence[str]) -> list[str]:
    if not members:
        return []
    return [f'    subgraph {name}["{title}"]', *(f"        {member}" for member in members), "    end"]


def _engine(backend: LocalBackend) -> str:
    return f"{backend.engine}, {backend.mode} mode" if backend.mode else f"{backend.engine}, always on"


def _terminals(chains: Sequence[Chain]) -> list[str]:
    return sorted({chain.terminal for chain in chains})


def _arrows(chain: Chain) -> list[str]:
    """One arrow per link, numbered in the order of the chain, then the arrow to the chain's end."""
    start = f"p_{_id(chain.profile)}"
    arrows: dict[str, str] = {}
    for position, link in enumerate(chain.links, start=1):
        arrows[f"b_{_id(link.backend_name)}"] = f'    {start} -->|"{position}"| b_{_id(link.backend_name)}'
    arrows["end"] = f"    {start} -.-> e_{chain.terminal}"
    return list(arrows.values())


def _id(name: str) -> str:
    return name.replace("-", "_")
