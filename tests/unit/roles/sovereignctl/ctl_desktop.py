# SPDX-License-Identifier: MIT
"""``sovereignctl desktop`` on a played machine.

``ctl_desktop.py COLLECTIONS_ROOT FOLDER [--as-anybody] [--no-registry]``
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
COLLECTIONS, FOLDER = sys.argv[1], Path(sys.argv[2])
parts = ("roles/sovereignctl/files", "tests/unit/plugins/module_utils/gpu", "tests/unit/roles/sovereignctl")
sys.path[:0] = [COLLECTIONS, *(str(ROOT / part) for part in parts)]

from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.journal import Journal, Places
from ctl_world import Desk
from sovereignctl.cli import main

places = Places(FOLDER / "state", FOLDER / "lock", FOLDER / "progress.json")
desk = Desk(FOLDER, Journal(places).good() or "agent")
if "--no-registry" in sys.argv:
    desk.path.unlink()
switch = [sys.executable, str(HERE / "ctl_world.py"), COLLECTIONS, str(FOLDER)]
sys.exit(
    main(["desktop"], desk.outside(out=sys.stdout, err=sys.stderr, switch=switch, root="--as-anybody" not in sys.argv))
)
