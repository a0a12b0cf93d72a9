# SPDX-License-Identifier: MIT
"""Shared by the documentation tests: where the repository lies, and the generator as a module."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def docs_tool() -> types.ModuleType:
    """tools/docs, which has no suffix, as a module."""
    loader = importlib.machinery.SourceFileLoader("docs_tool", str(ROOT / "tools" / "docs"))
    spec = importlib.util.spec_from_loader("docs_tool", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def markdown_files() -> list[Path]:
    """Every Markdown file of the repository, those in hidden folders (state, caches) left out."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        found += [Path(folder, name) for name in sorted(files) if name.endswith(".md")]
    assert ROOT / "LESSONS.md" in found
    return found
