# SPDX-License-Identifier: MIT
"""Settings and secrets, read once at start; anything unclear stops the service with one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from admission import strictjson
from admission.keys import KeyRing

_CONFIG_MAX_BYTES = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")


class ConfigError(Exception):
    """The service cannot start as configured; the text names the file and the remedy."""


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Listen(_Closed):
    """Where the service listens: an IPv4 address, because the unit has no other address family."""

    host: Annotated[str, Field(pattern=r"^\d{1,3}(\.\d{1,3}){3}$")]
    port: Annotated[int, Field(ge=0, le=65535)]


class Upstream(_Closed):
    """The sovereign gateway: an http address without a path."""

    url: Annotated[str, Field(pattern=r"^http://\d{1,3}(\.\d{1,3}){3}:\d{1,5}$")]


class Limits(_Closed):
    """Bounds on what a client may cost. Sizes in bytes, times in seconds."""

    max_body_bytes: Annotated[int, Field(ge=1024)] = 20 * 1024 * 1024
    max_depth: Annotated[int, Field(ge=8, le=256)] = 64
    max_tokens: Annotated[int, Field(ge=1000)] = 200_000
    """JSON elements (strings, brackets, commas) of one body; not a model's tokens."""
    max_response_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    max_event_bytes: Annotated[int, Field(ge=1024)] = 4 * 1024 * 1024
    concurrent_requests: Annotated[int, Field(ge=1)] = 8
    """Requests of one profile in progress at the same time."""
    connections: Annotated[int, Field(ge=1)] = 256
    header_seconds: Annotated[float, Field(gt=0)] = 10
    body_seconds: Annotated[float, Field(gt=0)] = 60
    write_seconds: Annotated[float, Field(gt=0)] = 60
    stream_idle_seconds: Annotated[float, Field(gt=0)] = 120
    """Longest silence of the gateway between two events of a stream."""
    drain_seconds: Annotated[float, Field(gt=0)] = 5
    """How long the rest of a refused body is read and thrown away, so that the client sees the refusal."""


class Link(_Closed):
    """One backend of a chain; mode is the GPU mode it needs, or null for an engine that is always on."""

    backend: str
    mode: str | None
    model: str


class Queue(_Closed):
    """The private queue. Sizes in bytes, times in seconds."""

    directory: Annotated[str, Field(pattern=r"^/[^\x00]+$")]
    """Its data: a folder of this service's user alone."""
    told: Annotated[str, Field(pattern=r"^/[^\x00]+$")] | None = None
    """The folder of the two files that hold counts and ages only, for whoever alerts and draws curves."""
    slots: Annotated[int, Field(ge=1)] = 2
    """Jobs at work at the same time, live requests included."""
    waiters: Annotated[int, Field(ge=0)] = 500
    """Requests whose connection is held at the same time; more wait without one."""
    jobs: Annotated[int, Field(ge=1)] = 20_000
    bytes: Annotated[int, Field(ge=1 << 20)] = 8 << 30
    free_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    """What must stay free on the disk."""
    expiry_seconds: Annotated[float, Field(gt=0)] = 7 * 86400
    """Longest wait of a job."""
    retention_seconds: Annotated[float, Field(gt=0)] = 7 * 86400
    """How long an answer is kept."""
    wipe_request: Literal["fetched", "answered"] = "fetched"
    """When the body of a request that has its answer is wiped."""
    age_cap_seconds: Annotated[float, Field(gt=0)] = 900
    """A job older than this no longer yields to live requests, nor to younger jobs of other profiles."""
    keep_alive_seconds: Annotated[float, Field(gt=0)] = 10
    probe_seconds: Annotated[float, Field(gt=0)] = 2
    """How often an engine that is away is asked for one token, while somebody waits."""
    max_wait_seconds: Annotated[float, Field(ge=0)] = 3600
    """What a client may ask for at most (``Prefer: wait=N``)."""


class Rule(_Closed):
    """What a profile may use, compiled from the policy."""

    tier: Literal["T1"]
    group: str
    terminal: Literal["queue", "error"]
    links: Annotated[tuple[Link, ...], Field(min_length=1)]
    context_length: Annotated[int, Field(ge=1)]
    timeout: Annotated[float, Field(gt=0)]
    wait: Annotated[float, Field(ge=0)] = 0
    """How long the connection of a request in the queue is held, unless the client says otherwise."""


class Rules(_Closed):
    """All sovereign profiles."""

    version: Literal[1]
    profiles: dict[str, Rule]


class Config(_Closed):
    """The file config.json."""

    listen: Listen
    upstream: Upstream
    rules: Rules
    limits: Limits = Limits()
    cache_salt: bool = True
    media: dict[str, Annotated[str, Field(pattern=r"^/[^\x00]+$")]] = {}
    """The folder of each profile that has one; a profile's requests may name files below its own."""
    queue: Queue | None = None
    """Without it a chain that ends in ``queue`` ends in an error that says so."""

    @model_validator(mode="after")
    def _has_profiles(self) -> Config:
        if not self.rules.profiles:
            raise ValueError("rules.profiles must name at least one profile")
        strangers = sorted(set(self.media) - set(self.rules.profiles))
        if strangers:
            raise ValueError(f"media names {strangers[0]}, which is no profile of the rules")
        return self


def _read(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    if len(raw) > _CONFIG_MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {_CONFIG_MAX_BYTES} bytes")
    return raw


def _read_json(path: Path) -> dict[str, object]:
    try:
        return strictjson.parse(_read(path), max_depth=32, max_tokens=100_000)
    except strictjson.StrictJSONError as error:
        raise ConfigError(f"{path}: {error}") from None


def load_config(path: Path) -> Config:
    """Read and check config.json; raises ConfigError that names the first wrong key."""
    document = _read_json(path)
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "the document"
        raise ConfigError(f"{path}: {where}: {first['msg']}") from None


def load_gateway_key(directory: Path) -> str:
    """The key that the sovereign gateway expects, from the credential gateway.key."""
    path = directory / "gateway.key"
    try:
        key = _read(path).decode("ascii").strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: must be ASCII") from None
    if not re.fullmatch(r"[\x21-\x7e]{16,512}", key):
        raise ConfigError(f"{path}: must hold one key of 16 to 512 printable characters")
    return key


def load_keys(directory: Path, profiles: frozenset[str]) -> KeyRing:
    """The profile keys' digests, from the credential profiles.json ({sha256 hex: profile}).

    Raises ConfigError for a digest that is none, a profile that the rules do not have, or a profile without a key.
    """
    path = directory / "profiles.json"
    entries: list[tuple[bytes, str]] = []
    for digest, profile in _read_json(path).items():
        if not _DIGEST.fullmatch(digest):
            raise ConfigError(f"{path}: every name must be a lower-case sha256 in hex")
        if not isinstance(profile, str) or profile not in profiles:
            raise ConfigError(f"{path}: names a profile that the rules do not have; run the role again")
        entries.append((bytes.fromhex(digest), profile))
    missing = sorted(profiles - {profile for _unused, profile in entries})
    if missing:
        raise ConfigError(f"{path}: no key for {', '.join(missing)}; run the role again")
    return KeyRing(tuple(entries))
