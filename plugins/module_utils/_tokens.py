# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""Random tokens that are safe in URLs, headers, command lines and file names."""

from __future__ import annotations

import re
import secrets

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

# Visible ASCII: what an HTTP header value may hold without quoting.
_VISIBLE = re.compile(r"[\x21-\x7e]+")


def new_token(size: int, prefix: str = "") -> str:
    """A new random token: ``prefix`` and ``size`` bytes of randomness in URL-safe base64.

    The random part starts with a letter or a digit, so that no program takes the token for an option.
    """
    while True:
        token = secrets.token_urlsafe(size)
        if token[0].isalnum():
            return prefix + token


def clean_token(content: bytes, thing: str) -> str:
    """The token in a file's bytes, without white space around it; the empty string when there is none.

    Raises:
        SovereignError: more than one line, or characters that no HTTP header can carry.
    """
    try:
        text = content.decode("ascii").strip()
    except UnicodeDecodeError:
        text = "\x00"
    if text and not _VISIBLE.fullmatch(text):
        raise SovereignError(
            thing,
            "it holds something else than one line of visible ASCII characters",
            "Put one token on one line there, or remove the file so that a new one is made.",
        )
    return text
