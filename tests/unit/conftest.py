# SPDX-License-Identifier: MIT
"""Makes the checkout importable under its collection name, wherever it was cloned to.

Ansible finds a collection only under ``…/ansible_collections/<namespace>/<name>``. A checkout does not lie there, so a
folder with that layout and a link to the checkout is made for the run and put first on the import path. The same folder
is what ``ANSIBLE_COLLECTIONS_PATH`` names for tests that start Ansible itself.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def _make_collections_root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="mushishi-collections-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)  # at the end, whatever is left of it
    namespace = root / "ansible_collections" / "mushishi"
    namespace.mkdir(parents=True)
    (namespace / "sovereign").symlink_to(CHECKOUT, target_is_directory=True)
    return root


COLLECTIONS_ROOT = _make_collections_root()
sys.path.insert(0, str(COLLECTIONS_ROOT))
#: Playbooks and modules started by a test find the checkout under the collection's name as well.
os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(COLLECTIONS_ROOT)


def pytest_configure(config: pytest.Config) -> None:
    """The one mark of ours. ``tools/test`` leaves these out, ``tools/test --nightly`` does not."""
    config.addinivalue_line("markers", "nightly: too long for the gate")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the repository under test."""
    return CHECKOUT


@pytest.fixture(scope="session")
def collections_root() -> Path:
    """A folder for ``ANSIBLE_COLLECTIONS_PATH`` in which the checkout stands under its collection name."""
    return COLLECTIONS_ROOT
