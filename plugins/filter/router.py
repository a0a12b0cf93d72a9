# SPDX-License-Identifier: MIT
"""The routing policy's filters: thin shells around ``plugins/module_utils/policy``.

Each filter takes the policy (the variable ``sovereign_policy``) first, checks and proves it, and turns every refusal
into one clear error of Ansible's. What a filter does is documented beside this file, in ``<filter>.yml``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy import compile as compiled
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy import render
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.model import Plane, Policy
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.validate import load_policy, to_plain

Filter = Callable[..., Any]


def _plane(name: object) -> Plane:
    """The plane of that name. Raises :class:`ValueError` with the remedy."""
    try:
        return Plane(str(name))
    except ValueError:
        known = " or ".join(plane.value for plane in Plane)
        raise ValueError(f"plane = {str(name)!r}: is no plane. Use {known}.") from None


def _clear(function: Filter) -> Filter:
    """Give a refusal to Ansible as its own error, without a traceback."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except (ValueError, RuntimeError) as exc:
            raise AnsibleFilterError(str(exc)) from exc

    return call


def policy_check(data: object) -> dict[str, Any]:
    """The checked policy, defaults written out, names sorted."""
    return compiled.policy_to_dict(load_policy(data))


def litellm_config(data: object, plane: str, **options: Any) -> str:
    """The proven YAML text of a plane's gateway."""
    plain = to_plain(options)
    return compiled.render_litellm(load_policy(data), _plane(plane), plain if isinstance(plain, dict) else {})


def ingress_routes(data: object, plane: str) -> list[dict[str, str]]:
    """What the ingress of a plane passes on."""
    load_policy(data)
    return compiled.ingress_routes(_plane(plane))


def route_matrix(data: object, available: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Who answers each profile when exactly the named backends answer (all of them by default)."""
    policy = load_policy(data)
    plain = to_plain(available) if available is not None else sorted(policy.backends)
    if not isinstance(plain, list):
        # A ValueError, as for every other wrong value: the callers make an Ansible error of it.
        raise ValueError(f"available = {plain!r}: is no list. Give the names.")  # noqa: TRY004
    return compiled.route_matrix(policy, plain)


def plane_profiles(data: object, plane: str) -> list[str]:
    """Sorted names of the profiles of a plane."""
    return load_policy(data).plane_profiles(_plane(plane))


def _of_policy(function: Callable[[Policy], Any]) -> Filter:
    """A filter from a function of the policy alone."""

    @wraps(function)
    def call(data: object) -> Any:
        return function(load_policy(data))

    return call


class FilterModule:
    """The filters of the collection that read ``sovereign_policy``."""

    def filters(self) -> dict[str, Filter]:
        """Name → filter, as Ansible asks for them."""
        filters: dict[str, Filter] = {
            "policy_check": policy_check,
            "litellm_config": litellm_config,
            "admission_rules": _of_policy(compiled.admission_rules),
            "ingress_routes": ingress_routes,
            "door_routes": _of_policy(compiled.door_routes),
            "egress_hosts": _of_policy(compiled.egress_hosts),
            "plane_clients": _of_policy(compiled.plane_clients),
            "route_matrix": route_matrix,
            "chain_table": _of_policy(render.chain_table),
            "chain_diagram": _of_policy(render.chain_diagram),
            "cloud_key_names": _of_policy(compiled.cloud_key_names),
            "plane_profiles": plane_profiles,
        }
        return {name: _clear(function) for name, function in filters.items()}
