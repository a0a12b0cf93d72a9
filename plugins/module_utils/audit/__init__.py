# SPDX-License-Identifier: MIT
"""The audit: attacks on the guarantee, what they found, and the report of it.

Standard library alone, relative imports alone: modules ship this package to a machine, and the role ``audit`` installs
it there as the package ``audit``.
"""

from __future__ import annotations
