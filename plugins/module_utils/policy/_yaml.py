# SPDX-License-Identifier: MIT
"""The one place that imports PyYAML.

The policy is read on the controller only, and Ansible itself cannot run there without PyYAML. The stand-ins let
ansible's own tools import the modules of this package where it is missing; nothing here can be used then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import yaml
    from yaml import SafeDumper, SafeLoader
else:
    try:
        import yaml
        from yaml import SafeDumper, SafeLoader
    except ImportError:
        yaml = None

        class SafeDumper:
            """Stand-in base, so that a dumper class can be defined without PyYAML."""

        class SafeLoader:
            """Stand-in base, so that a loader class can be defined without PyYAML."""

            @classmethod
            def add_constructor(cls, tag: str, constructor: object) -> None:
                """Remember nothing."""


__all__ = ["SafeDumper", "SafeLoader", "yaml"]
