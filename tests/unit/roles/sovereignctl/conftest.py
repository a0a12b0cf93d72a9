# SPDX-License-Identifier: MIT
"""Makes the command importable, and the played machine of the GPU core's own tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
for folder in (HERE, ROOT / "roles/sovereignctl/files", ROOT / "tests/unit/plugins/module_utils/gpu"):
    sys.path.insert(0, str(folder))

from ctl_world import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A machine in the mode agent."""
    return Desk(tmp_path)
