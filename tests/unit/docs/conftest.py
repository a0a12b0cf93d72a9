# SPDX-License-Identifier: MIT
"""Shared by the documentation tests: the generator as a module, and the pages."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import types
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def docs_tool(checkout: Path) -> types.ModuleType:
    """tools/docs, which has no suffix, as a module."""
    loader = importlib.machinery.SourceFileLoader("docs_tool", str(checkout / "tools" / "docs"))
    spec = importlib.util.spec_from_loader("docs_tool", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def markdown_files(checkout: Path) -> list[Path]:
    """Every Markdown file of the repository, those in hidden folders (state, caches) left out."""
    found = []
    for folder, folders, files in os.walk(checkout):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        found += [Path(folder, name) for name in sorted(files) if name.endswith(".md")]
    assert checkout / "LESSONS.md" in found
    return found
