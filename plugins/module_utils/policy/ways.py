# SPDX-License-Identifier: MIT
"""Every way of a request through a gateway's configuration as it stands on the machine, for the audit: caller to
address, by name.
"""

from __future__ import annotations

from typing import Any

from .errors import ProofError
from .litellm_walk import Graph, read_document
from .model import ADMISSION_PORT, LocalBackend, Plane, Policy
from .proof import _HYBRID_CALLBACKS, DEFAULT_MAX_ANSWER_TOKENS, prove_litellm

#: What stands before a gateway.
BEFORE = {
    Plane.SOVEREIGN: f"ingress → admission {ADMISSION_PORT} → sovereign gateway",
    Plane.HYBRID: "ingress → hybrid gateway",
}


def gateway_rows(
    text: str, policy: Policy, plane: Plane, max_answer_tokens: int = DEFAULT_MAX_ANSWER_TOKENS
) -> list[dict[str, Any]]:
    """Rows of the audit: one for the proof of the whole text, one for each way from each profile of the plane to an
    address.
    """
    source = f"configuration of the {plane.value} gateway"
    try:
        prove_litellm(text, policy, plane, max_answer_tokens)
        problem = ""
    except ProofError as error:
        problem = str(error)
    rows = [_row(source, "every value is one that the policy compiles to", problem)]
    try:
        graph = Graph(read_document(text), frozenset(_HYBRID_CALLBACKS) if plane is Plane.HYBRID else frozenset())
    except ProofError as error:
        return [*rows, _row(source, "it can be read", str(error))]
    for profile in policy.plane_profiles(plane):
        caller = f"{profile} ({policy.profiles[profile].tier})"
        for way in graph.ways(profile):
            backend, address = _end(policy, plane, way.destination.address)
            path = " → ".join([caller, BEFORE[plane], *way.steps[1:], backend, address or way.destination.label])
            beyond = backend not in policy.profiles[profile].chain
            rows.append(_row(source, path, f"no link of its chain; through {way.destination.where}" if beyond else ""))
    return rows


def _end(policy: Policy, plane: Plane, address: str | None) -> tuple[str, str]:
    """The policy's name of an address that the document gives, and the engine's own behind the door."""
    for name, backend in sorted(policy.backends.items()):
        if isinstance(backend, LocalBackend) and address == f"{policy.door_url(plane)}/{name}/v1":
            return name, f"engine door {address} → {backend.url}"
        if backend.url == address:
            return name, address or ""
    return "unknown", address or ""


def _row(source: str, path: str, problem: str) -> dict[str, Any]:
    outcome = "leaked" if problem else "holds"
    return {
        "kind": "static",
        "rule": "P1",
        "source": source,
        "path": path,
        "outcome": outcome,
        "ms": None,
        "detail": problem,
    }
