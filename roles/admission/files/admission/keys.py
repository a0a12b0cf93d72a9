# SPDX-License-Identifier: MIT
"""Who asks: a profile's key, known here by its digest only."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass

from admission.errors import Refusal

_BEARER = re.compile(rb"(?i:bearer) +([\x21-\x7e]{1,512})")


@dataclass(frozen=True)
class KeyRing:
    """Digests (sha256, 32 bytes) of the keys and the profile each belongs to."""

    entries: tuple[tuple[bytes, str], ...]

    def profile_of(self, key: bytes) -> str | None:
        """The key's profile, or None. Every entry is compared, each in constant time."""
        digest = hashlib.sha256(key).digest()
        found: str | None = None
        for known, profile in self.entries:
            if hmac.compare_digest(known, digest):
                found = profile
        return found


def unauthorized(reason: str) -> Refusal:
    """The one answer to every failed authentication."""
    return Refusal(
        401,
        "invalid_api_key",
        "A valid profile key is needed: Authorization: Bearer <key>",
        type="authentication_error",
        headers={"www-authenticate": "Bearer"},
        reason=reason,
    )


def authenticate(headers: Iterable[tuple[bytes, bytes]], ring: KeyRing) -> str:
    """The profile that the one Authorization header belongs to; raises Refusal (401)."""
    values = [value for name, value in headers if name == b"authorization"]
    if len(values) != 1:
        raise unauthorized("no key" if not values else "several keys")
    match = _BEARER.fullmatch(values[0].strip())
    profile = ring.profile_of(match.group(1)) if match else None
    if profile is None:
        raise unauthorized("wrong key")
    return profile


def cache_salt(gateway_key: str, profile: str) -> str:
    """A secret salt for the profile's prefix cache (hex), stable while the gateway's key is."""
    return hmac.new(gateway_key.encode(), b"cache-salt:" + profile.encode(), hashlib.sha256).hexdigest()
