# SPDX-License-Identifier: MIT
"""``python3 -I <this folder> CONFIG``: the package is found by where it lies, and by nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from prober.watch import main  # noqa: E402  # the line above says where it is

sys.exit(main())
