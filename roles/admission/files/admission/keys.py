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
_BARE = re.compile(rb"([\x21-\x7e]{1,512})")


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


def authenticate(headers: Iterable[tuple[bytes, bytes]], ring: KeyRing, *, own_header: bool = False) -> str:
    """The profile that the one key belongs to; raises Refusal (401).

    own_header: the key may come as ``x-api-key``, too, as Anthropic's clients send it. A header without a value is
    none: ingress writes each anew.
    """
    given = [(name, value.strip()) for name, value in headers if name in (b"authorization", b"x-api-key")]
    keys = [(name, value) for name, value in given if value and (own_header or name == b"authorization")]
    if len(keys) != 1:
        raise unauthorized("no key" if not keys else "several keys")
    name, value = keys[0]
    match = (_BEARER if name == b"authorization" else _BARE).fullmatch(value)
    profile = ring.profile_of(match.group(1)) if match else None
    if profile is None:
        raise unauthorized("wrong key")
    return profile


def cache_salt(gateway_key: str, profile: str) -> str:
    """A secret salt for the profile's prefix cache (hex), stable while the gateway's key is."""
    return hmac.new(gateway_key.encode(), b"cache-salt:" + profile.encode(), hashlib.sha256).hexdigest()
