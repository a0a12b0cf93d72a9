# SPDX-License-Identifier: MIT
"""Documentation fragment: what every module of this collection says about check mode, diff and idempotence."""

from __future__ import annotations


class ModuleDocFragment:
    """Wording of the shared attributes; each module adds the support level."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and predict the change without making it.
  diff_mode:
    description: Returns what changed, or would change, in diff mode. Secrets are never part of it.
  idempotent:
    description: When run twice in a row without a change from outside, the second run reports no change.
"""
