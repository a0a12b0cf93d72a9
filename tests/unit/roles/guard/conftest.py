# SPDX-License-Identifier: MIT
"""Makes the guard's program importable."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[4] / "roles" / "guard" / "files"))
