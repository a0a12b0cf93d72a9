# SPDX-License-Identifier: MIT
"""Where things are. Everything that the tools make lies in one ignored folder, ``.lab``."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".lab"
LOGS = STATE / "logs"
COLLECTIONS = STATE / "collections"
DEPOT = STATE / "depot"
IMAGE = STATE / "image"
DOCKER = STATE / "docker"
CACHE = STATE / "cache"
RECORDS = STATE / "records"
SCENARIO = ROOT / "molecule" / "lab"
VENV = STATE / "venv"
