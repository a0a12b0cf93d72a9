# SPDX-License-Identifier: MIT
"""Shared by the tests of all roles: what their templates become."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from rendering import Rendered


@pytest.fixture(scope="session")
def rendered() -> Rendered:
    """Every template of every role under every setting, rendered by a process of its own."""
    argv = [sys.executable, str(HERE / "rendering.py")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {(role, template, name): result for role, template, name, result in json.loads(done.stdout)}
