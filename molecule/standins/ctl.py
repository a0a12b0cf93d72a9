# SPDX-License-Identifier: MIT
"""Ask and steer a stand-in from inside its container: ``python3 -m standins.ctl [--control ADDR:PORT] VERB …``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from .control import call

DEFAULT_CONTROL = "127.0.0.1:9099"
"""Control address of `standins.internet`."""


def parser(default_control: str) -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="standins.ctl", description="Ask and steer a stand-in."
    )
    top.add_argument(
        "--control", default=os.environ.get("STANDIN_CONTROL", default_control)
    )
    verbs = top.add_subparsers(dest="verb", required=True)
    wait = verbs.add_parser("wait", help="wait until the stand-in is ready")
    wait.add_argument("seconds", type=float, nargs="?", default=30.0)
    mode = verbs.add_parser("mode", help="show or set the fault of a provider")
    mode.add_argument("provider", nargs="?")
    mode.add_argument("fault", nargs="?")
    fault = verbs.add_parser("fault", help="show or set the fault of an engine")
    fault.add_argument("fault", nargs="?")
    speed = verbs.add_parser("speed", help="show or set how fast an engine answers")
    speed.add_argument("first_ms", type=float, nargs="?", help="to the first token")
    speed.add_argument("token_ms", type=float, nargs="?", default=0.0, help="for each further token")
    vram = verbs.add_parser("vram", help="show or set how much of the card an engine holds")
    vram.add_argument("mib", type=int, nargs="?")
    verbs.add_parser("die", help="end an engine as a crash does")
    lies = verbs.add_parser("lies", help="let an engine say that it sleeps and free nothing (1), or not (0)")
    lies.add_argument("lies", type=int, choices=[0, 1], nargs="?", default=1)
    find = verbs.add_parser("find", help="look for a marker in everything received")
    find.add_argument("marker")
    find.add_argument(
        "--since", type=float, default=0.0, help="seconds since the epoch"
    )
    for name in ("stats", "dns", "reset", "selftest", "describe"):
        verbs.add_parser(name)
    return top


def main(
    argv: Sequence[str] | None = None, default_control: str = DEFAULT_CONTROL
) -> int:
    """Run one verb; prints its answer as JSON. Exit 1: refused, not ready, or a failed self-test."""
    options = vars(parser(default_control).parse_args(argv))
    control, verb = options.pop("control"), options.pop("verb")
    try:
        if verb == "wait":
            return _wait(control, options["seconds"])
        status, answer = call(
            control, verb, {k: v for k, v in options.items() if v is not None}
        )
    except (OSError, ValueError) as error:
        print(json.dumps({"error": f"{control}: {type(error).__name__}: {error}"}))
        return 1
    print(json.dumps(answer, ensure_ascii=False))
    return 0 if status == 200 and answer.get("ok", True) else 1


def _wait(control: str, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    answer: dict[str, Any] = {"ready": False}
    while True:
        try:
            status, answer = call(control, "ready", {}, timeout=2.0)
            if status == 200:
                print(json.dumps(answer))
                return 0
        except OSError as error:
            answer = {"ready": False, "error": str(error)}
        if time.monotonic() >= deadline:
            print(json.dumps(answer))
            return 1
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
