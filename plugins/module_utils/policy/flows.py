# SPDX-License-Identifier: MIT
"""Who inside the sovereign namespace may open what, compiled from the policy."""

from __future__ import annotations

from .model import LocalBackend, Plane, Policy, host_port

ADMISSION_USER = "mushishi-sovereign-admission"
GATEWAY_USER = "mushishi-sovereign-gateway"
#: The sovereign gateway listens on the namespace's own loopback (ARCHITECTURE section 4).
GATEWAY_ADDRESS = "127.0.0.1"
GATEWAY_PORT = 4011

Flow = dict[str, str | int]


def namespace_flows(policy: Policy) -> list[Flow]:
    """List of ``{comment, user, address, port}``: admission to its gateway, the gateway to each T1 engine; sorted."""
    engines = {
        (host_port(link.backend.url), link.backend_name)
        for chain in policy.chains(Plane.SOVEREIGN)
        for link in chain.links
        if isinstance(link.backend, LocalBackend)
    }
    flows: list[Flow] = [
        {
            "comment": "admission to gateway",
            "user": ADMISSION_USER,
            "address": GATEWAY_ADDRESS,
            "port": GATEWAY_PORT,
        }
    ]
    for (address, port), name in sorted(engines):
        flows.append({"comment": f"gateway to {name}", "user": GATEWAY_USER, "address": address, "port": port})
    return flows
