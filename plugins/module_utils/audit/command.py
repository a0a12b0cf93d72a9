# SPDX-License-Identifier: MIT
"""``mushishi-audit``: look at the chain of reports, at one report, at the key; write a report, replace the key."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from . import chain, model, report

EXIT_WRONG, EXIT_REFUSED = 1, 2


def parser() -> argparse.ArgumentParser:
    """What the command line means."""
    made = argparse.ArgumentParser(prog="mushishi-audit", description=__doc__)
    made.add_argument("--key", type=Path, default=chain.KEY, help="the private key that signs")
    commands = made.add_subparsers(dest="command", required=True)
    look = commands.add_parser(
        "verify", help="the chain in a folder, or one report that was handed out: FILE.md FILE.json FILE.sig PUBLIC-KEY"
    )
    look.add_argument("files", nargs="*", type=Path, help=f"a folder (default {chain.FOLDER}), or the four files")
    look.add_argument("--public", type=Path, help="the public key that you were given; without one the folder's counts")
    look.add_argument(
        "--holds", type=Path, action="append", default=[], help="the JSON of a report that was handed out earlier"
    )
    key = commands.add_parser("key", help="print the public key and its fingerprint")
    key.add_argument("--make", action="store_true", help="make folder and key where there are none")
    write = commands.add_parser("report", help="write a report from an audit's result (JSON on standard input)")
    rotate = commands.add_parser("rotate", help="replace the key; the old one signs that the new one follows it")
    rotate.add_argument("reason", help="why; it stands in the record")
    for command in (key, write, rotate):
        command.add_argument("--folder", type=Path, default=chain.FOLDER)
    return made


def say(stream: TextIO, text: str) -> None:
    """One line."""
    stream.write(text + "\n")


def verify(files: Sequence[Path], public: Path | None, holds: Sequence[Path], out: TextIO) -> int:
    """Say whether all of it holds; what does not, one line each."""
    if len(files) == 4:
        found = chain.verify_files(*files)
    elif len(files) <= 1:
        trusted = chain.parse_public(public.read_text(encoding="ascii", errors="replace")) if public else ""
        digests = [chain.sha256(path.read_bytes()) for path in holds]
        found = chain.verify(files[0] if files else chain.FOLDER, trusted, digests)
    else:
        raise chain.ChainError("Name one folder, or four files: FILE.md FILE.json FILE.sig PUBLIC-KEY.")
    for fault in found.faults:
        say(out, f"WRONG  {fault}")
    if not found.ok:
        many = len(found.faults)
        say(out, f"{many} thing{'s are' if many > 1 else ' is'} wrong; do not rely on these reports.")
        return EXIT_WRONG
    reports = [record for record in found.records if record["kind"] == chain.REPORT]
    last = reports[-1] if reports else {}
    key = chain.fingerprint(found.keys[-1])
    changed = f", {len(found.keys) - 1} change(s) of the key" if len(found.keys) > 1 else ""
    say(
        out,
        f"{len(reports)} report(s){changed}: whole and in order. The last, {last['chain']['name']}: {last['verdict']}. "
        f"Signed with {key}; compare that with the one that you were given.",
    )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit status: 1 something is wrong, 2 nothing could be done."""
    given, out = parser().parse_args(arguments), sys.stdout
    try:
        if given.command == "verify":
            return verify(given.files, given.public, given.holds, out)
        if given.command == "key":
            public = chain.Chain(given.folder, given.key).open() if given.make else chain.public_of(given.key)
            say(out, f"{public} {chain.PRINCIPAL}\n{chain.fingerprint(public)}")
        elif given.command == "rotate":
            record = chain.Chain(given.folder, given.key).rotate(given.reason)
            say(out, f"The key is now {record['new']['fingerprint']}. Hand out {chain.PUBLIC} anew.")
        else:
            written = report.write(json.load(sys.stdin), given.folder, given.key)
            say(out, f"{given.folder / written['chain']['name']}.md: {written['sentence']}")
            return 0 if written["verdict"] == model.GREEN else EXIT_WRONG
    except (chain.ChainError, OSError, ValueError) as error:
        say(sys.stderr, f"mushishi-audit: {error}")
        return EXIT_REFUSED
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
