# SPDX-License-Identifier: MIT
"""Every service user is made by base, and every sovereign one is silenced by the guard (rule P4)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROLES = Path(__file__).resolve().parents[3] / "roles"
USER = re.compile(r"^User=(?P<user>\S+)$", re.MULTILINE)


def made_by_base() -> set[str]:
    """Names of the users that the role base makes."""
    return set(yaml.safe_load((ROLES / "base/vars/main.yml").read_text())["__base_users"])


def silenced_by_the_guard() -> set[str]:
    """Names of the users whose every packet in the host's namespace is rejected."""
    return set(yaml.safe_load((ROLES / "guard/defaults/main.yml").read_text())["guard_sovereign_users"])


def limited_by_the_guard() -> set[str]:
    """Names of the users that open nothing outside but what the policy names (P10)."""
    return set(yaml.safe_load((ROLES / "guard/defaults/main.yml").read_text())["guard_hybrid_users"])


def users_of_units() -> dict[str, str]:
    """Unit template to the user it runs as, for templates with a fixed user."""
    found = {}
    for path in sorted(ROLES.glob("*/templates/**/*.service.j2")):
        for user in USER.findall(path.read_text()):
            if "{{" not in user:
                found[str(path.relative_to(ROLES))] = user
    return found


def test_every_sovereign_user_is_silenced() -> None:
    """No more and no fewer: a service that is added to base and forgotten in the guard could send from the host."""
    sovereign = {user for user in made_by_base() if user.startswith("mushishi-sovereign-")}
    assert sovereign and sovereign == silenced_by_the_guard()


def test_every_other_user_is_limited() -> None:
    """A hybrid service that is forgotten in the guard could open anything."""
    others = {user for user in made_by_base() if not user.startswith("mushishi-sovereign-")}
    assert others and others == limited_by_the_guard()


def test_there_are_units_to_look_at() -> None:
    assert len(users_of_units()) >= 4


@pytest.mark.parametrize(("unit", "user"), users_of_units().items())
def test_every_unit_runs_as_a_user_of_base(unit: str, user: str) -> None:
    assert user in made_by_base()


@pytest.mark.parametrize(("unit", "user"), users_of_units().items())
def test_the_plane_of_a_unit_is_the_plane_of_its_user(unit: str, user: str) -> None:
    """A sovereign unit under a hybrid user would escape the guard's rules for sovereign users, and the reverse."""
    plane = Path(unit).name.removeprefix("mushishi-").split("-")[0]
    assert user.startswith(f"mushishi-{plane}-")
