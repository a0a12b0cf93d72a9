# SPDX-License-Identifier: MIT
"""Everything a policy compiles into, apart from LiteLLM's own document (``litellm.py``) and the papers (``render.py``).

Pure functions of a checked policy. Every list is sorted or in chain order, so the same policy gives the same bytes,
whatever the order of its keys in the inventory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ._yaml import SafeDumper, yaml
from .litellm import Options, compile_litellm
from .model import ADMISSION_PORT, HYBRID_DOOR_PORT, Chain, CloudBackend, LocalBackend, Plane, Policy, host_port
from .proof import prove_door, prove_litellm, prove_no_cloud

HYBRID_GATEWAY_UNIT = "mushishi-hybrid-gateway"
HYBRID_GATEWAY_USER = "mushishi-hybrid-gateway"
INGRESS_USER = "mushishi-ingress-sovereign"

#: The routes a client may reach, matched exactly; ``{id}`` is the name of a job. Admission speaks more of them
#: than the hybrid gateway, and makes a chat completion of each: both gateways have the same two.
CLIENT_ROUTES = {
    Plane.SOVEREIGN: (
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/messages"),
        ("GET", "/v1/models"),
        ("GET", "/v1/queue/{id}"),
        ("DELETE", "/v1/queue/{id}"),
    ),
    Plane.HYBRID: (("POST", "/v1/chat/completions"), ("GET", "/v1/models")),
}

#: What a profile gets when no link of its chain answers: on the sovereign plane admission's own errors, on the hybrid
#: one the status LiteLLM gives when the last link of a chain has failed (measured: 500).
QUEUED = {"error": "queued", "status": 503, "mode": None}
ENGINE_UNAVAILABLE = {"error": "engine_unavailable", "status": 503}
UPSTREAM_FAILED = {"error": "upstream_failed", "status": 500, "mode": None}

Row = dict[str, Any]


def policy_to_dict(policy: Policy) -> Row:
    """The checked policy with every default written out, sections and names sorted, chains in their order."""
    plain = policy.model_dump(mode="json")
    for section in ("tiers", "backends", "profiles", "budgets"):
        plain[section] = dict(sorted(plain[section].items()))
    return dict(plain)


def render_litellm(policy: Policy, plane: Plane, options: Mapping[str, Any] | None = None) -> str:
    """The YAML text of a gateway's configuration, proven. Raises :class:`.errors.ProofError` when it cannot be."""
    text = dump_yaml(compile_litellm(policy, plane, options))
    chosen = Options.read(options)
    prove_litellm(text, policy, plane, max_answer_tokens=chosen.max_answer_tokens)
    return text


def dump_yaml(data: Mapping[str, Any]) -> str:
    """YAML in block style, keys in the order given, no anchors."""
    return yaml.dump(dict(data), Dumper=_PlainDumper, sort_keys=False, default_flow_style=False, width=120)


def admission_rules(policy: Policy) -> Row:
    """What admission must know of each T1 profile, proven to hold nothing of the cloud."""
    rules: Row = {"version": 1, "profiles": {chain.profile: _rule(chain) for chain in policy.chains(Plane.SOVEREIGN)}}
    prove_no_cloud(dump_yaml(rules), rules, policy)
    return rules


def ingress_routes(plane: Plane) -> list[dict[str, str]]:
    """``[{method, path}]``: what the ingress of a plane passes on, everything else is refused."""
    return [{"method": method, "path": path} for method, path in CLIENT_ROUTES[plane]]


def door_routes(policy: Policy) -> list[Row]:
    """The engine door's routes, one for each engine that a chain uses, sorted by backend, proven.

    ``prefix`` is what a gateway calls, without a slash at its end; the upstream path is always ``/v1``. ``planes`` are
    those whose gateway may use the route. ``last``: no chain has a link behind this engine, so that nobody gains by
    giving it up early. ``mode``: the GPU mode that the engine belongs to, None for the CPU floor.

    Raises:
        ProofError: the routes are not shown to keep the policy.
    """
    used = {plane: policy.engines(plane) for plane in Plane}
    followed = {link.backend_name for chain in policy.chains() for link in chain.links[:-1]}
    routes: list[Row] = [
        {
            "backend": name,
            "prefix": f"/{name}/v1",
            "upstream_host": host_port(backend.url)[0],
            "upstream_port": host_port(backend.url)[1],
            "model": backend.model,
            "engine": backend.engine,
            "mode": backend.mode,
            "planes": [plane.value for plane in Plane if name in used[plane]],
            "last": name not in followed,
        }
        for name, backend in sorted({**used[Plane.SOVEREIGN], **used[Plane.HYBRID]}.items())
    ]
    prove_door(routes, policy)
    return routes


def egress_hosts(policy: Policy) -> dict[str, list[dict[str, str | int]]]:
    """``{unit: [{host, port}]}``: the hosts outside that each hybrid unit may reach. No sovereign unit is in it."""
    used = {host_port(backend.url) for _chain, backend in _cloud_links(policy)}
    return {HYBRID_GATEWAY_UNIT: [{"host": host, "port": port} for host, port in sorted(used)]}


def plane_clients(policy: Policy) -> list[Row]:
    """``[{comment, user, address, port}]``: who on the host may open what on the sovereign bridge. Nothing else may."""
    ingress: Row = {
        "comment": "ingress to admission",
        "user": INGRESS_USER,
        "address": policy.namespace_address(),
        "port": ADMISSION_PORT,
    }
    door: Row = {
        "comment": "hybrid gateway to the engine door",
        "user": HYBRID_GATEWAY_USER,
        "address": policy.namespace_address(),
        "port": HYBRID_DOOR_PORT,
    }
    return [ingress, door]


def route_matrix(policy: Policy, available: Collection[str]) -> list[Row]:
    """Who answers each profile when exactly the named backends answer. Raises :class:`ValueError` for an unknown name.

    ``chain`` is the chain as written; ``expect`` is ``{backend: name}`` or ``{error: code, status: N, mode: M}``, where
    ``mode`` is the GPU mode that the profile needs.
    """
    unknown = sorted(set(available) - set(policy.backends))
    if unknown:
        known = ", ".join(sorted(policy.backends))
        raise ValueError(f"available = {unknown[0]!r}: names no backend of the policy. Use one of {known}.")
    return [
        {
            "profile": chain.profile,
            "tier": chain.tier,
            "plane": chain.plane.value,
            "chain": list(policy.profiles[chain.profile].chain),
            "expect": _expect(chain, available),
        }
        for chain in policy.chains()
    ]


def cloud_key_names(policy: Policy) -> list[str]:
    """Sorted names of the cloud keys that the chains use. A backend no chain uses needs no key."""
    return sorted({backend.key for _chain, backend in _cloud_links(policy)})


def error_when_nothing_answers(chain: Chain) -> Row:
    """The error a profile's client gets when every link of its chain has failed."""
    if chain.plane is Plane.HYBRID:
        return dict(UPSTREAM_FAILED)
    if chain.terminal == "queue":
        return dict(QUEUED)
    modes = [link.backend.mode for link in chain.links if isinstance(link.backend, LocalBackend) and link.backend.mode]
    return {**ENGINE_UNAVAILABLE, "mode": modes[0] if modes else None}


def _rule(chain: Chain) -> Row:
    return {
        "tier": chain.tier,
        "group": chain.profile,
        "terminal": chain.terminal,
        "links": [
            {"backend": link.backend_name, "mode": link.backend.mode, "model": link.backend.model}
            for link in chain.links
            if isinstance(link.backend, LocalBackend)
        ],
        "context_length": chain.context_length,
        "timeout": chain.timeout,
        "wait": chain.wait,
    }


def _expect(chain: Chain, available: Collection[str]) -> Row:
    for link in chain.links:
        if link.backend_name in available:
            return {"backend": link.backend_name}
    return error_when_nothing_answers(chain)


def _cloud_links(policy: Policy) -> list[tuple[Chain, CloudBackend]]:
    return [
        (chain, link.backend)
        for chain in policy.chains(Plane.HYBRID)
        for link in chain.links
        if isinstance(link.backend, CloudBackend)
    ]


class _PlainDumper(SafeDumper):
    """Writes every value where it stands: an anchor would make two places out of one."""

    def ignore_aliases(self, data: object) -> bool:
        """Never write an anchor."""
        return True
