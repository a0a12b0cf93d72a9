# SPDX-License-Identifier: MIT
"""Makes the benchmarks' package importable, and the stand-ins for a load to be sent to."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
for folder in ("benchmarks", "tools", "molecule"):
    sys.path.insert(0, str(ROOT / folder))
