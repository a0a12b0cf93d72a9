# SPDX-License-Identifier: MIT
"""Stand-in for zenity and pkexec: windows that answer what a test has written down.

In the folder ``PLAY``: ``answers.json`` holds one answer a window, in order: ``{"kind", "status", "said"}``, for a bar
also ``{"close_at": text}``, which closes it as a person would when that text comes. ``windows.jsonl`` gets what was
shown.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> int:
    """One window. The first word is the program that is played."""
    played = sys.argv.pop(1)
    if played == "pkexec":
        allowed = json.loads(os.environ.get("PKEXEC_PLAY", "true"))
        if not allowed:
            sys.stderr.write("Error executing command as another user: Request dismissed\n")
            return 126
        os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - what pkexec does
    folder = Path(os.environ["PLAY"])
    kind = next(
        word[2:] for word in sys.argv[1:] if word in ("--list", "--progress", "--question", "--error", "--info")
    )
    left = json.loads((folder / "answers.json").read_text())
    answer = left.pop(0) if left and left[0]["kind"] == kind else {}
    if answer:
        (folder / "answers.json").write_text(json.dumps(left))
    shown: list[str] = []
    status = int(answer.get("status", 0))
    if kind == "progress":
        for line in sys.stdin:
            shown.append(line.rstrip("\n"))
            if answer.get("close_at") and answer["close_at"] in line:
                status = 1
                break
            if line.strip() == "100" and "--auto-close" in sys.argv:
                break
    with (folder / "windows.jsonl").open("a") as stream:
        stream.write(json.dumps({"kind": kind, "argv": sys.argv[1:], "shown": shown}) + "\n")
    if answer.get("said"):
        sys.stdout.write(f"{answer['said']}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
