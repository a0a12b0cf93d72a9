# SPDX-License-Identifier: MIT
"""``python -m sovereignctl``."""

from __future__ import annotations

import sys

from sovereignctl.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
