# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""What roles and the inventory say of tenants and modes, made into the one document that the machine is given. Pure.

Runs on the controller. Each compose project is judged here too (``compose_rules.py``): what is not allowed is refused
before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import compose_rules
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.registry import document, load
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy._yaml import yaml
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.model import LocalBackend, Policy

_THING = "registry of the card's tenants (gpu_tenants, gpu_modes)"
_SHAPES = ("tenants", "modes", "projects")
#: The key that the CPU floor knows (role llama_cpp).
FLOOR_KEY = "/etc/mushishi/secrets/llama-sovereign.key"


def merged(given: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Many contributions as one, the later over the earlier: of a tenant each value, a mode and a project as a whole.

    A tenant or a mode that is given as nothing (null) is taken out.

    Raises:
        SovereignError: a contribution has another shape.
    """
    found: dict[str, dict[str, Any]] = {shape: {} for shape in _SHAPES}
    for one in given:
        if unknown := sorted(set(one) - set(_SHAPES)):
            raise SovereignError(_THING, f"{', '.join(unknown)} is nothing that can be given", "Take it out.")
        for shape in _SHAPES:
            part = one.get(shape) or {}
            if not isinstance(part, Mapping):
                raise SovereignError(_THING, f"{shape} is {part!r}, not names with values", "Correct it.")
            for name, value in part.items():
                if value is None:
                    found[shape].pop(name, None)
                elif shape == "tenants" and isinstance(value, Mapping):
                    found[shape][name] = {**found[shape].get(name, {}), **value}
                else:
                    found[shape][name] = value
    return found


def floors(policy: Policy) -> dict[str, dict[str, Any]]:
    """The CPU floors that the policy names, as they are asked."""
    return {
        name: {
            "kind": "completion",
            "url": backend.url.removesuffix("/v1"),
            "model": backend.model,
            "key_file": FLOOR_KEY,
        }
        for name, backend in sorted(policy.backends.items())
        if isinstance(backend, LocalBackend) and backend.engine == "llama.cpp"
    }


def project_problems(name: str, containers: Iterable[str], text: str) -> list[str]:
    """Why the text of a tenant's compose project is refused; the containers that it makes are those that were named."""
    try:
        project = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return [f"tenant {name}: its project is no YAML ({' '.join(str(error).split())[:200]})"]
    if not isinstance(project, Mapping):
        return [f"tenant {name}: its project is no compose project"]
    found = [f"tenant {name}: {problem}" for problem in compose_rules.problems(project)]
    # Without a name compose takes the folder's, and with it the containers of whoever has the same.
    if project.get("name") != f"mushishi-{name}":
        found.append(f"tenant {name}: its project's name is {project.get('name')}, not mushishi-{name}")
    services = project.get("services")
    if isinstance(services, Mapping):
        made = sorted(str((service or {}).get("container_name")) for service in services.values())
        if made != sorted(containers):
            found.append(
                f"tenant {name}: its project makes the containers {', '.join(made)}, "
                f"and it names {', '.join(sorted(containers))}"
            )
    return found


def compiled(
    given: Iterable[Mapping[str, Any]],
    policy: Policy,
    *,
    card_mib: int | None,
    reserve_mib: int,
    guests: Iterable[str] = (),
    files: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """The document. ``files``: path → text of projects that are on the machine already, None for one that is missing.

    Raises:
        SovereignError: something is refused; all that was found is said.
    """
    parts = merged(given)
    known_engines = {backend.mode for backend in policy.backends.values() if isinstance(backend, LocalBackend)}
    for tenant in parts["tenants"].values():
        # An engine that no backend of the policy names has no door.
        if isinstance(tenant, dict) and tenant.get("engine") not in known_engines:
            tenant["engine"] = None
    registry = load(
        {
            "tenants": parts["tenants"],
            "modes": parts["modes"],
            "card_mib": card_mib,
            "reserve_mib": reserve_mib,
            "guests": list(guests),
            "floors": floors(policy),
        }
    )
    found = []
    for name, each in registry.tenants.items():
        text = parts["projects"].get(name)
        if text is None:
            text = (files or {}).get(each.project)
        if text is None:
            found.append(f"tenant {name}: its project {each.project} is not there")
        else:
            found += project_problems(name, each.containers, text)
    if found:
        raise SovereignError(_THING, "; ".join(found), "Correct the project; docs/planes.md, P5, says why.")
    return document(registry)
