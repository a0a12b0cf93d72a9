# SPDX-License-Identifier: MIT
"""Makes the service and its stand-in importable, and their fixtures known."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[3] / "roles" / "admission" / "files"), str(HERE)]

from admission_standin import live, run_server, service

__all__ = ["live", "run_server", "service"]
