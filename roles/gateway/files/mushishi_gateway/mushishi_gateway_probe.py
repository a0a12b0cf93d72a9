# SPDX-License-Identifier: MIT
"""Ask a gateway whether it is up and knows its client: a real answer to an authenticated request, not "unit is active".

Exit status 0: it answered with the models of that key. 1: it did not, and one line says why. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

SECONDS = 10


def ask(url: str, key: str) -> list[str]:
    """Names of the models that the key opens. Raises :class:`OSError` or :class:`ValueError` without one."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/health/liveliness", timeout=SECONDS):
        pass
    request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})  # noqa: S310  # http://127.0.0.1 from the role
    with opener.open(request, timeout=SECONDS) as answer:
        models = [entry["id"] for entry in json.load(answer)["data"]]
    if not models:
        raise ValueError("the key opens no model")
    return models


def ask_door(url: str) -> list[str]:
    """Nothing, when the engine door refuses a route that it has not. Raises :class:`OSError` otherwise."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/", timeout=SECONDS) as answer:
            raise OSError(f"the door has a route to nowhere: HTTP {answer.status}")
    except urllib.error.HTTPError as exc:
        if exc.code != 404:
            raise
    return []


def main(argv: Sequence[str] | None = None) -> int:
    """Print the models, or why there is no answer."""
    parser = argparse.ArgumentParser(
        prog="mushishi_gateway_probe", description="Ask a gateway for the models of a key."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--url", help="a gateway, asked with the key in --key-file")
    what.add_argument("--door", help="the engine door, asked for a route that it has not")
    parser.add_argument("--key-file", type=Path)
    given = parser.parse_args(argv)
    if given.url and not given.key_file:
        parser.error("--url needs --key-file")
    try:
        models = ask_door(given.door) if given.door else ask(given.url, given.key_file.read_text("utf-8").strip())
    except (OSError, ValueError, KeyError, TypeError) as exc:
        print(f"{given.url or given.door}: {exc}", file=sys.stderr)
        return 1
    print(" ".join(models))
    return 0


if __name__ == "__main__":
    sys.exit(main())
