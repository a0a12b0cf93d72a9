# SPDX-License-Identifier: MIT
"""The one place that imports pydantic.

The policy is read on the controller only, so pydantic is a requirement of the controller, never of a managed machine.
Where it is missing the modules of this package still import (ansible's own tools import everything), and
:func:`require_pydantic` raises one clear error as soon as a policy is really read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel, ConfigDict, Field, ValidationError

    IMPORT_ERROR: ImportError | None
else:
    try:
        from pydantic import BaseModel, ConfigDict, Field, ValidationError

        IMPORT_ERROR = None
    except ImportError as exc:
        IMPORT_ERROR = exc

        class BaseModel:
            """Stand-in base, so that the model classes can be defined without pydantic."""

        class ValidationError(Exception):
            """Stand-in, never raised."""

        def ConfigDict(**options: Any) -> dict[str, Any]:  # noqa: N802 - the name is pydantic's
            """Return the options unread."""
            return options

        def Field(*arguments: Any, **options: Any) -> None:  # noqa: N802 - the name is pydantic's
            """Stand-in for a field declaration."""


def require_pydantic() -> None:
    """Raise :class:`RuntimeError` with the remedy when pydantic 2 cannot be used on this controller."""
    if IMPORT_ERROR is not None:
        raise RuntimeError(
            "reading sovereign_policy needs the Python library pydantic (version 2) on the Ansible controller: "
            "install it into the environment that runs ansible-playbook, for example: pip install 'pydantic>=2.6,<3'"
        ) from IMPORT_ERROR


__all__ = ["IMPORT_ERROR", "BaseModel", "ConfigDict", "Field", "ValidationError", "require_pydantic"]
