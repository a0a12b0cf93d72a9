# SPDX-License-Identifier: MIT
"""Asks an engine for one token. usage: python3 - URL MODEL KEY_FILE; exit 0 when a completion came back."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

# Seconds for one token. A cold model on a slow disk needs some; a hung engine must not hold the play for long.
TIMEOUT = 60


def main(url: str, model: str, key_file: str) -> int:
    """Sends the request; the key is read here, so that it is in no process list."""
    with Path(key_file).open(encoding="ascii") as stream:
        key = stream.readline().strip()
    body = {"model": model, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
    request = urllib.request.Request(  # noqa: S310 - an engine's address, written by the role
        url,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        print(f"{url}: HTTP {error.code} {error.read(200).decode(errors='replace')}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1
    if not answer.get("choices"):
        print(f"{url}: an answer without a choice", file=sys.stderr)
        return 1
    print(f"{url}: {answer['usage']['completion_tokens']} token")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
