# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""Whether a change of the doors would cut off who makes it: asked before anything is changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._login import Login
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.doors import Door, is_inside

# Runs a program: argument list and standard input in; exit status, standard output and standard error out.
Runner = Callable[[Sequence[str], str], "tuple[int, str, str]"]


def device_to(address: str, run: Runner) -> str | None:
    """The interface by which this machine answers an address; None when there is no route."""
    status, out, _err = run(["ip", "--json", "route", "get", address], "")
    try:
        return str(json.loads(out)[0]["dev"]) if status == 0 else None
    except (ValueError, LookupError, TypeError):
        return None


def addresses_of(interface: str, run: Runner) -> list[str]:
    """Global addresses of an interface; none when there is no such interface."""
    status, out, _err = run(["ip", "--json", "address", "show", "dev", interface], "")
    try:
        listed = json.loads(out)[0]["addr_info"] if status == 0 else []
    except (ValueError, LookupError, TypeError):
        listed = []
    return [str(entry["local"]) for entry in listed if entry.get("scope") == "global"]


def fenced_in(run: Runner, inside: Iterable[str], sys_net: str = "/sys/class/net") -> list[str]:
    """Interfaces that count as inside and lead outside: by a default route, or by a network card that they stand on."""
    patterns = list(inside)
    found = []
    for family in ("-4", "-6"):
        status, out, _err = run(["ip", "--json", family, "route", "show", "default"], "")
        try:
            routes = json.loads(out or "[]") if status == 0 else []
        except ValueError:
            routes = []
        found += [str(route["dev"]) for route in routes if is_inside(str(route.get("dev", "")), patterns)]
    try:
        names = [name for name in os.listdir(sys_net) if is_inside(name, patterns)]
    except OSError:
        names = []
    return sorted({*found, *(name for name in names if _stands_on_a_card(name, sys_net))})


def _stands_on_a_card(interface: str, sys_net: str) -> bool:
    """Whether an interface is a network card, or has one below it: in a bridge, a bond, a VLAN, in any order."""
    open_ones, seen = [interface], set()
    while open_ones:
        name = open_ones.pop()
        if name in seen:
            continue
        seen.add(name)
        if os.path.exists(f"{sys_net}/{name}/device"):
            return True
        try:
            entries = os.listdir(f"{sys_net}/{name}")
        except OSError:
            continue
        open_ones += [entry[len("lower_") :] for entry in entries if entry.startswith("lower_")]
    return False


def problems(
    *,
    login: Login | None,
    over_ssh: bool,
    device: str | None,
    interface: str,
    addresses: Sequence[str],
    doors: Iterable[Door],
    inside: Iterable[str],
) -> list[str]:
    """Why the change would cut off who makes it, one sentence each. Pure."""
    found = []
    if not addresses:
        found.append(f"the tailnet's interface {interface} has no address: nobody could come in by it (tailscale up)")
    if login is None:
        if over_ssh:
            found.append("from where this SSH connection comes cannot be found out, nor whether it would last")
        return found
    if device is None:
        found.append(f"no route leads back to {login.address}, from where this SSH connection comes")
    elif is_inside(device, inside):
        return found
    elif device != interface:
        found.append(
            f"this SSH connection comes from {login.address} by {device}, and {interface} will be the only way in. "
            f"Connect to the machine's address on the tailnet ({', '.join(addresses) or 'it has none'})"
        )
    if login.port not in {door.port for door in doors if door.protocol == "tcp"}:
        found.append(
            f"this SSH connection comes in by port {login.port}, which is no door. The role ssh opens it, or "
            "firewall_extra_doors"
        )
    return found


def refuse(found: Sequence[str], *, accepted: bool) -> None:
    """End here when somebody would be locked out, unless that was accepted.

    Raises:
        SovereignError: with every reason.
    """
    if found and not accepted:
        raise SovereignError(
            "firewall",
            f"nothing was changed, because it would lock out who does it: {'; '.join(found)}",
            "Or set firewall_lockout_accepted: true; what then cannot be confirmed in a new connection is undone by "
            "itself.",
        )
