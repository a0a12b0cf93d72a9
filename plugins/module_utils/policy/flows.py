# SPDX-License-Identifier: MIT
"""Who inside the sovereign namespace may open what, compiled from the policy."""

from __future__ import annotations

from typing import Union

from .model import DOOR_CONTROL_PORT, GATEWAY_PORT, LOOPBACK, SOVEREIGN_DOOR_PORT, Plane, Policy, host_port

ADMISSION_USER = "mushishi-sovereign-admission"
GATEWAY_USER = "mushishi-sovereign-gateway"
DOOR_USER = "mushishi-sovereign-door"
PROBER_USER = "mushishi-sovereign-prober"

Flow = dict[str, Union[str, int]]


def namespace_flows(policy: Policy) -> list[Flow]:
    """List of ``{comment, user, address, port}``.

    Admission to its gateway, the gateway to the engine door, the door to each engine that a chain uses, the prober to
    the same engines and to the door's control channel. Nobody else opens an engine.
    """
    engines = {**policy.engines(Plane.SOVEREIGN), **policy.engines(Plane.HYBRID)}
    flows = [
        _flow("admission to gateway", ADMISSION_USER, LOOPBACK, GATEWAY_PORT),
        _flow("gateway to engine door", GATEWAY_USER, LOOPBACK, SOVEREIGN_DOOR_PORT),
        _flow("prober to the door's control", PROBER_USER, LOOPBACK, DOOR_CONTROL_PORT),
    ]
    for name, backend in sorted(engines.items()):
        address, port = host_port(backend.url)
        flows.append(_flow(f"engine door to {name}", DOOR_USER, address, port))
        flows.append(_flow(f"prober to {name}", PROBER_USER, address, port))
    return flows


def _flow(comment: str, user: str, address: str, port: int) -> Flow:
    return {"comment": comment, "user": user, "address": address, "port": port}
