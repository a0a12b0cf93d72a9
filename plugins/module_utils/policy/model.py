# SPDX-License-Identifier: MIT
"""The shape of ``sovereign_policy``: tiers, backends, profiles, budgets.

This file holds the shape and the names derived from it. What makes a policy *good* is in ``validate.py``; what makes it
*safe* is proven in ``proof.py``. Use :func:`..validate.load_policy` to get a :class:`Policy` from inventory data.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Literal, Union
from urllib.parse import urlsplit

from ._pydantic import BaseModel, ConfigDict, Field

#: The words that may end a chain. ``queue``: the request waits; ``error``: the request fails loudly.
TERMINALS = ("queue", "error")

#: Seconds for which a request that waits in the queue holds its connection, unless policy or client say otherwise:
#: longer than a switch of the GPU's mode takes, shorter than the time-outs of common clients (OpenAI's SDK: 600).
QUEUE_WAIT = 300

#: What each tier may do with the cloud. Fixed: a tier's meaning is no setting.
TIER_CLOUD = {"T1": "never", "T2": "fallback", "T3": "explicit", "T4": "fallback"}

#: The network without a router (docs/planes.md, P1) and the addresses on it that are not engines.
DEFAULT_LAN = "10.88.0.0/24"
HOST_OFFSET = 1
NAMESPACE_OFFSET = 2

ADMISSION_PORT = 4001

#: The engine door: for the sovereign gateway on the namespace's loopback, for the hybrid one on its LAN address, and
#: its control channel. Fixed, like every port that the guard's rules are compiled from.
SOVEREIGN_DOOR_PORT = 4022
HYBRID_DOOR_PORT = 4021
DOOR_CONTROL_PORT = 4023
GATEWAY_PORT = 4011
#: Ports of the namespace that no engine may have.
PLANE_PORTS = frozenset({ADMISSION_PORT, GATEWAY_PORT, HYBRID_DOOR_PORT, SOVEREIGN_DOOR_PORT, DOOR_CONTROL_PORT})
LOOPBACK = "127.0.0.1"

Mode = Literal["agent", "forensic", "coding"]
Provider = Literal["nvidia_nim", "groq", "openrouter", "deepseek"]
TierId = Literal["T1", "T2", "T3", "T4"]


class Plane(str, Enum):
    """Where a profile lives: ``sovereign`` has no way out, ``hybrid`` reaches what the policy names."""

    SOVEREIGN = "sovereign"
    HYBRID = "hybrid"


class _Shape(BaseModel):
    """Base of every part: no unknown keys, no silent conversion, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Tier(_Shape):
    """A tier of data: its human name and what it may do with the cloud."""

    name: str
    cloud: Literal["never", "fallback", "explicit"]


class Price(_Shape):
    """List price of a cloud model, in US dollars for a million tokens."""

    input_usd_per_mtok: float = Field(ge=0, allow_inf_nan=False)
    output_usd_per_mtok: float = Field(ge=0, allow_inf_nan=False)


class LocalBackend(_Shape):
    """An engine on the sovereign LAN. ``timeout`` and ``stream_timeout`` in seconds, ``context_length`` in tokens."""

    location: Literal["local"]
    engine: Literal["vllm", "llama.cpp"]
    mode: Mode | None = None
    model: str
    url: str
    context_length: int = Field(gt=0)
    timeout: int = Field(gt=0)
    stream_timeout: int = Field(gt=0)


class CloudBackend(_Shape):
    """A model of a provider outside. ``key`` is the *name* of the key file, never the key."""

    location: Literal["cloud"]
    provider: Provider
    model: str
    url: str
    key: str
    context_length: int = Field(gt=0)
    timeout: int = Field(gt=0)
    stream_timeout: int = Field(gt=0)
    price: Price | None = None


Backend = Annotated[Union[LocalBackend, CloudBackend], Field(discriminator="location")]


class Profile(_Shape):
    """Who asks: a tier and a chain of backend names, tried in order, with an optional terminal word at its end.

    ``queue_wait``: seconds for which the connection of a request in the queue is held, where the client does not say.
    """

    tier: TierId
    chain: list[str] = Field(min_length=1)
    cloud_budget_usd: float | None = None
    queue_wait: int | None = Field(default=None, ge=0, le=3600)


class Budget(_Shape):
    """What one provider may cost in a period (``30m``, ``12h``, ``1d``, ``30d``)."""

    usd: float = Field(ge=0, allow_inf_nan=False)
    period: str


@dataclass(frozen=True)
class Link:
    """One link of a chain: the backend and the LiteLLM group that stands for it."""

    backend_name: str
    backend: LocalBackend | CloudBackend
    group: str
    deployment_id: str

    @property
    def local(self) -> bool:
        """True when the link is an engine on the sovereign LAN."""
        return isinstance(self.backend, LocalBackend)


@dataclass(frozen=True)
class Chain:
    """A profile's chain as it is compiled: without the cloud links that a budget of 0 takes away."""

    profile: str
    tier: str
    plane: Plane
    links: tuple[Link, ...]
    terminal: str
    wait: int = 0

    @property
    def context_length(self) -> int:
        """Tokens that *every* link can hold, so that the answer does not depend on who happens to be up."""
        return min(link.backend.context_length for link in self.links)

    @property
    def timeout(self) -> int:
        """Seconds after which the last link must have answered: the sum of the links' time-outs and 10."""
        return sum(link.backend.timeout for link in self.links) + 10


class Policy(_Shape):
    """The whole policy. Reading it here checks the shape only; see :func:`..validate.load_policy`."""

    version: Literal[1]
    lan: str = DEFAULT_LAN
    tiers: dict[TierId, Tier]
    backends: dict[str, Backend] = Field(min_length=1)
    profiles: dict[str, Profile] = Field(min_length=1)
    budgets: dict[Provider, Budget] = Field(default_factory=dict)

    def plane_of(self, profile_name: str) -> Plane:
        """The plane a profile lives in: T1 is sovereign, everything else hybrid."""
        return Plane.SOVEREIGN if self.profiles[profile_name].tier == "T1" else Plane.HYBRID

    def plane_profiles(self, plane: Plane) -> list[str]:
        """Sorted names of the profiles that live in a plane."""
        return sorted(name for name in self.profiles if self.plane_of(name) is plane)

    def chain(self, profile_name: str) -> Chain:
        """The chain of one profile, ready to compile. Raises :class:`KeyError` for a name the policy does not have."""
        profile = self.profiles[profile_name]
        names = [name for name in profile.chain if name not in TERMINALS]
        terminal = profile.chain[-1] if profile.chain[-1] in TERMINALS else "error"
        if profile.cloud_budget_usd == 0:
            names = [name for name in names if isinstance(self.backends[name], LocalBackend)]
        links = tuple(
            Link(
                backend_name=name,
                backend=self.backends[name],
                group=profile_name if position == 0 else group_name(profile_name, name),
                deployment_id=f"{profile_name}/{name}",
            )
            for position, name in enumerate(names)
        )
        wait = QUEUE_WAIT if profile.queue_wait is None else profile.queue_wait
        held = wait if terminal == "queue" else 0
        return Chain(profile_name, profile.tier, self.plane_of(profile_name), links, terminal, held)

    def chains(self, plane: Plane | None = None) -> list[Chain]:
        """The chains of all profiles (of one plane), sorted by profile name."""
        return [self.chain(name) for name in sorted(self.profiles) if plane is None or self.plane_of(name) is plane]

    def lan_network(self) -> ipaddress.IPv4Network:
        """The sovereign LAN as a network object."""
        return ipaddress.IPv4Network(self.lan)

    def namespace_address(self) -> str:
        """The address of the sovereign namespace: admission and the llama.cpp servers answer there."""
        return str(self.lan_network().network_address + NAMESPACE_OFFSET)

    def door_url(self, plane: Plane) -> str:
        """Base address of the engine door as a plane's gateway calls it, without a slash at its end."""
        if plane is Plane.SOVEREIGN:
            return f"http://{LOOPBACK}:{SOVEREIGN_DOOR_PORT}"
        return f"http://{self.namespace_address()}:{HYBRID_DOOR_PORT}"

    def engines(self, plane: Plane) -> dict[str, LocalBackend]:
        """Every engine that a chain of the plane uses, by backend name, sorted."""
        used = {
            link.backend_name: link.backend
            for chain in self.chains(plane)
            for link in chain.links
            if isinstance(link.backend, LocalBackend)
        }
        return dict(sorted(used.items()))


def group_name(profile_name: str, backend_name: str) -> str:
    """The LiteLLM group of a later link (the first link's group is the profile's own name)."""
    return f"{profile_name}.{backend_name}"


def host_port(url: str) -> tuple[str, int]:
    """Host and port of a URL, the port from the scheme where the URL names none."""
    parts = urlsplit(url)
    return (parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0))
