# SPDX-License-Identifier: MIT
"""Asks an engine for one token. usage: python3 - URL MODEL; exit 0 when a completion came back, else 1."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request

# Seconds for one token: the first request after a start may still compile, but a hung engine must not hold the play.
TIMEOUT = 60


def main(url: str, model: str) -> int:
    """Sends the request and judges the answer."""
    body = {"model": model, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - written by the role
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
    print(f"{url}: a completion by {answer.get('model', 'a nameless model')}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
