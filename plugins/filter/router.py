# SPDX-License-Identifier: MIT
"""The routing policy's filters: thin shells around ``plugins/module_utils/policy``.

Each filter takes the policy (the variable ``sovereign_policy``) first, checks and proves it, and turns every refusal
into one clear error of Ansible's. What a filter does is documented beside this file, in ``<filter>.yml``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleFilterError

if TYPE_CHECKING:
    from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.model import Plane, Policy

Filter = Callable[..., Any]
_POLICY = "ansible_collections.mushishi.sovereign.plugins.module_utils.policy"


def _part(name: str) -> Any:
    """A part of the policy. Not at the top: Ansible loads every filter's file, in every worker, to find any filter."""
    return import_module(f"{_POLICY}.{name}")


def _load(data: object) -> Policy:
    """The checked policy."""
    policy: Policy = _part("validate").load_policy(data)
    return policy


def _plane(name: object) -> Plane:
    """The plane of that name. Raises :class:`ValueError` with the remedy."""
    planes = _part("model").Plane
    try:
        plane: Plane = planes(str(name))
    except ValueError:
        known = " or ".join(each.value for each in planes)
        raise ValueError(f"plane = {str(name)!r}: is no plane. Use {known}.") from None
    return plane


def _clear(function: Filter) -> Filter:
    """Give a refusal to Ansible as its own error, without a traceback."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except (ValueError, RuntimeError) as exc:
            raise AnsibleFilterError(str(exc)) from exc

    return call


def policy_check(data: object) -> Any:
    """The checked policy, defaults written out, names sorted."""
    return _part("compile").policy_to_dict(_load(data))


def litellm_config(data: object, plane: str, **options: Any) -> Any:
    """The proven YAML text of a plane's gateway."""
    plain = _part("validate").to_plain(options)
    return _part("compile").render_litellm(_load(data), _plane(plane), plain if isinstance(plain, dict) else {})


def ingress_routes(data: object, plane: str) -> Any:
    """What the ingress of a plane passes on."""
    _load(data)
    return _part("compile").ingress_routes(_plane(plane))


def route_matrix(data: object, available: Sequence[str] | None = None) -> Any:
    """Who answers each profile when exactly the named backends answer (all of them by default)."""
    policy = _load(data)
    plain = _part("validate").to_plain(available) if available is not None else sorted(policy.backends)
    if not isinstance(plain, list):
        # A ValueError, as for every other wrong value: the callers make an Ansible error of it.
        raise ValueError(f"available = {plain!r}: is no list. Give the names.")  # noqa: TRY004
    return _part("compile").route_matrix(policy, plain)


def plane_profiles(data: object, plane: str) -> list[str]:
    """Sorted names of the profiles of a plane."""
    return _load(data).plane_profiles(_plane(plane))


def _of_policy(part: str, name: str) -> Filter:
    """A filter from a function of the policy alone."""

    def call(data: object) -> Any:
        return getattr(_part(part), name)(_load(data))

    return call


class FilterModule:
    """The filters of the collection that read ``sovereign_policy``."""

    def filters(self) -> dict[str, Filter]:
        """Name → filter, as Ansible asks for them."""
        filters: dict[str, Filter] = {
            "policy_check": policy_check,
            "litellm_config": litellm_config,
            "admission_rules": _of_policy("compile", "admission_rules"),
            "ingress_routes": ingress_routes,
            "door_routes": _of_policy("compile", "door_routes"),
            "egress_hosts": _of_policy("compile", "egress_hosts"),
            "plane_clients": _of_policy("compile", "plane_clients"),
            "route_matrix": route_matrix,
            "chain_table": _of_policy("render", "chain_table"),
            "chain_diagram": _of_policy("render", "chain_diagram"),
            "cloud_key_names": _of_policy("compile", "cloud_key_names"),
            "plane_profiles": plane_profiles,
        }
        return {name: _clear(function) for name, function in filters.items()}
