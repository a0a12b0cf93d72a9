# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""The registry of the card's tenants and modes: its shape, what makes it good, and what of it the machine is given.

One list, read by everybody who starts, stops or judges something on the card. A tenant that is not in it is nobody's to
touch. Read on the controller, with pydantic; the machine gets a plain document (``document``), see ``tenants.py``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union
from urllib.parse import urlsplit

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import OFF
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy._pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    require_pydantic,
)
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.model import DEFAULT_LAN

_THING = "registry of the card's tenants (gpu_tenants, gpu_modes)"
_NAME = r"^[a-z][a-z0-9-]{0,30}$"
#: What the driver and the display take, in MiB, unless the inventory knows better.
DEFAULT_RESERVE_MIB = 1024
_LAN = ipaddress.ip_network(DEFAULT_LAN)


class _Shape(BaseModel):
    """No unknown keys, no silent conversion, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CompletionProbe(_Shape):
    """Ready when the engine answers a completion of one token under this model's name."""

    kind: Literal["completion"]
    url: str
    model: str = Field(min_length=1, max_length=120)


class Floor(CompletionProbe):
    """A CPU floor: asked like an engine, with the key in this file where it wants one."""

    key_file: str | None = Field(default=None, pattern=r"^/[A-Za-z0-9/_.-]{1,200}$")


class AnswerProbe(_Shape):
    """Ready when a GET is answered with 200 and a JSON object that has this key."""

    kind: Literal["answer"]
    url: str
    key: str = Field(min_length=1, max_length=120)


class VllmBusy(_Shape):
    """Busy while vLLM counts requests that run or wait (``/metrics``)."""

    kind: Literal["vllm"]
    url: str


class ComfyBusy(_Shape):
    """Busy while ComfyUI has prompts that run or wait (``/queue``)."""

    kind: Literal["comfyui"]
    url: str


class RqBusy(_Shape):
    """Busy while queues of RQ hold jobs, or their registries of started jobs do."""

    kind: Literal["rq"]
    url: str
    queues: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,60}$")]] = Field(min_length=1)


class LoadBusy(_Shape):
    """Busy while its processes keep the card's multiprocessors above this share, in percent: the back-stop."""

    kind: Literal["load"]
    percent: int = Field(ge=1, le=100)


Ready = Annotated[Union[CompletionProbe, AnswerProbe], Field(discriminator="kind")]
Busy = Annotated[Union[VllmBusy, ComfyBusy, RqBusy, LoadBusy], Field(discriminator="kind")]


class Tenant(_Shape):
    """Who may hold the card. Memory in MiB, times in seconds.

    ``vram_mib`` is the most that it may hold, measured, with its own contexts; for an engine its weights, its cache and
    its work memory. ``containers``: names of the containers that its compose project makes.
    """

    project: str
    containers: list[Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$")]] = Field(min_length=1)
    vram_mib: int = Field(ge=1)
    ready: Ready
    busy: list[Busy] = Field(default_factory=list)
    ready_seconds: int = Field(default=1800, ge=1, le=86400)
    stop_seconds: int = Field(default=60, ge=1, le=3600)
    drain_seconds: int = Field(default=300, ge=0, le=86400)
    models: list[Annotated[str, Field(min_length=1, max_length=120)]] = Field(default_factory=list)
    #: Engine of the policy (its mode) whose door is shut before this tenant goes.
    engine: str | None = None
    #: Whether it may sleep instead of being stopped: 0 never, 1 or 2 vLLM's level. It has to prove it first.
    sleep_level: Literal[0, 1, 2] = 0


class Mode(_Shape):
    """Who holds the card together, in the order in which they start, and which CPU floors must answer meanwhile."""

    tenants: list[Annotated[str, Field(pattern=_NAME)]] = Field(min_length=1)
    cpu_floors: list[Annotated[str, Field(min_length=1, max_length=120)]] = Field(default_factory=list)


class Registry(_Shape):
    """All of it."""

    tenants: dict[Annotated[str, Field(pattern=_NAME)], Tenant]
    modes: dict[Annotated[str, Field(pattern=_NAME)], Mode]
    card_mib: int | None = Field(default=None, ge=1)
    reserve_mib: int = Field(default=DEFAULT_RESERVE_MIB, ge=0)
    #: Programs (the kernel's name of the process) that may be on the card beside all modes, such as a display server.
    guests: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,15}$")]] = Field(default_factory=list)
    #: CPU floors by the name that the policy gives them, and how they are asked.
    floors: dict[Annotated[str, Field(pattern=_NAME)], Floor] = Field(default_factory=dict)


def _first_words(error: ValidationError) -> str:
    told = []
    for entry in error.errors(include_url=False, include_input=False)[:8]:
        told.append(f"{'.'.join(str(part) for part in entry['loc'])}: {entry['msg']}")
    return "; ".join(told)


def _on_the_plane(url: str) -> str | None:
    """What is wrong with an address of a tenant; None when it is on the LAN with no router, or on the loopback."""
    try:
        parts = urlsplit(url)
        address, port = ipaddress.ip_address(parts.hostname or ""), parts.port
    except ValueError:
        return "is no address like http://10.88.0.10:8000"
    if parts.scheme not in ("http", "redis") or port is None or parts.username or parts.query or parts.fragment:
        return "is no address like http://10.88.0.10:8000"
    if (address.version == 4 and address in _LAN) or address.is_loopback:
        return None
    return f"is not on the sovereign LAN {_LAN}"


def _urls(tenant: Tenant) -> list[str]:
    return [tenant.ready.url, *(busy.url for busy in tenant.busy if not isinstance(busy, LoadBusy))]


def _problems(registry: Registry) -> list[str]:
    """What is wrong beyond the shape, one sentence each."""
    found = []
    owners: dict[str, str] = {}
    served: dict[str, str] = {}
    for name, tenant in registry.tenants.items():
        if not re.fullmatch(r"/[A-Za-z0-9/_.-]{1,200}", tenant.project) or "/../" in tenant.project:
            found.append(f"tenant {name}: project {tenant.project!r} is no path of a compose file")
        found += [f"tenant {name}: {url} {wrong}" for url in _urls(tenant) if (wrong := _on_the_plane(url))]
        for container in tenant.containers:
            if container in owners:
                found.append(f"container {container} belongs to {owners[container]} and to {name}")
            owners[container] = name
        for model in tenant.models:
            if model in served:
                found.append(f"model {model} is of {served[model]} and of {name}: a wrong mode must be a missing model")
            served[model] = name
        if tenant.sleep_level and not isinstance(tenant.ready, CompletionProbe):
            found.append(f"tenant {name}: sleeps only as an engine that is asked for a completion (sleep_level)")
        if isinstance(tenant.ready, CompletionProbe) and tenant.models and tenant.ready.model not in tenant.models:
            found.append(f"tenant {name}: is asked for {tenant.ready.model}, which is not among its models")
    if OFF in registry.modes:
        found.append(f"mode {OFF} is always there: nobody holds the card. Take it out")
    for name, mode in registry.modes.items():
        if missing := sorted(set(mode.tenants) - set(registry.tenants)):
            found.append(f"mode {name}: there is no tenant {', '.join(missing)}")
        if len(set(mode.tenants)) != len(mode.tenants):
            found.append(f"mode {name}: a tenant stands twice")
        if missing := sorted(set(mode.cpu_floors) - set(registry.floors)):
            found.append(f"mode {name}: there is no CPU floor {', '.join(missing)}")
    found += [
        f"CPU floor {name}: {each.url} {why}"
        for name, each in registry.floors.items()
        if (why := _on_the_plane(each.url))
    ]
    return found


def sums(registry: Registry) -> dict[str, tuple[int, str]]:
    """Mode → MiB that its tenants may hold together, and the sum in words."""
    found = {}
    for name, mode in registry.modes.items():
        parts = [(tenant, registry.tenants[tenant].vram_mib) for tenant in mode.tenants if tenant in registry.tenants]
        words = " + ".join(f"{tenant} {mib}" for tenant, mib in parts)
        total = sum(mib for _tenant, mib in parts) + registry.reserve_mib
        found[name] = (total, f"{words} + reserve {registry.reserve_mib} = {total} MiB")
    return found


def load(raw: Mapping[str, Any]) -> Registry:
    """The registry of an inventory: ``tenants``, ``modes``, ``card_mib``, ``reserve_mib``, ``guests``.

    Raises:
        SovereignError: with every fault of it; a mode that does not fit a declared card is one, with its sum.
    """
    require_pydantic()
    try:
        registry = Registry.model_validate(dict(raw))
    except ValidationError as error:
        raise SovereignError(_THING, _first_words(error), "Correct these values.") from None
    found = _problems(registry)
    if registry.card_mib is not None:
        found += [
            f"mode {name} does not fit: {words}, and the card has {registry.card_mib} MiB"
            for name, (total, words) in sums(registry).items()
            if total > registry.card_mib
        ]
    if found:
        raise SovereignError(_THING, "; ".join(found), "Correct these values.")
    return registry


def document(registry: Registry) -> dict[str, Any]:
    """What the machine is given: plain values, the same bytes for the same registry."""
    return {"version": 1, **registry.model_dump(mode="json")}
