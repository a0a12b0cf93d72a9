# SPDX-License-Identifier: MIT
"""Memory of the stand-in card (``nvml.c``), held by this process until it lets go or ends, as a real driver counts it.

``python3 -m standins.card hold MIB`` holds some until it is told to end: somebody else's program on the card.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from .net import run_until_signal

#: The card's memory in MiB, as ``nvml.c`` has it without another word.
TOTAL_MIB = 32607


class Hold:
    """What this process holds, in MiB. A memory file of that name says so; nothing is really taken."""

    def __init__(self, mib: int = 0) -> None:
        self.mib = 0
        self._file: int | None = None
        self.take(mib)

    def take(self, mib: int) -> None:
        """Hold this much from now on, instead of what was held. Raises ValueError."""
        if not 0 <= mib <= 1 << 20:
            raise ValueError(f"{mib} MiB is not 0 to a million")
        name = os.environ.get("STANDIN_CARD_NAME") or "stand-in-card"
        new = os.memfd_create(f"{name}={mib}") if mib else None
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
        self._file, self.mib = new, mib


def main(argv: Sequence[str] | None = None) -> int:
    """Hold until a signal comes."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) != 2 or words[0] != "hold" or not words[1].isdigit():
        print("usage: python3 -m standins.card hold MIB", file=sys.stderr)
        return 2
    hold = Hold(int(words[1]))
    print(f"holding {hold.mib} MiB", flush=True)
    run_until_signal()
    return 0


if __name__ == "__main__":
    sys.exit(main())
