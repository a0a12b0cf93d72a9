# SPDX-License-Identifier: MIT
"""The audit as a client: every request vector, and marked requests under capture, with the keys of the T1 profiles."""

from __future__ import annotations

from collections.abc import Sequence

from . import capture, requests_run
from .facts import Machine, Settings
from .model import Row

#: The parts that are done here, and the kind of their rows.
PARTS = {"requests": "request", "capture": "capture"}


def ingress_address(machine: Machine, settings: Settings) -> str:
    """The address at which readers reach the machine; empty when there is none."""
    for link in machine.json("ip", "-json", "-4", "address", "show", "dev", settings.ingress_interface) or []:
        for entry in link.get("addr_info", []):
            if entry.get("scope") == "global":
                return str(entry["local"])
    return ""


def keys_of(machine: Machine, settings: Settings) -> dict[str, str]:
    """T1 profile → its key, for those that have one."""
    found = {
        name: machine.text(f"{settings.secrets}/profiles/{name}.key").strip() for name in settings.sovereign_profiles
    }
    return {name: key for name, key in found.items() if key}


def collect(machine: Machine, settings: Settings, parts: Sequence[str]) -> list[Row]:
    """The rows of the parts that were asked for."""
    wanted = [part for part in PARTS if part in parts]
    if not wanted:
        return []
    address, keys, rows = ingress_address(machine, settings), keys_of(machine, settings), []
    if not address or not keys:
        why = f"no address on {settings.ingress_interface}" if not address else "no key of a T1 profile was found"
        return [Row(PARTS[part], "", "a client with a T1 key", "→ ingress", "not tested", None, why) for part in wanted]
    where = (address, settings.sovereign_port)
    if "requests" in wanted:
        rows += requests_run.run_requests(where, keys, backends=tuple(settings.local_backends))
    if "capture" in wanted:
        rows += capture.audit_capture(*where, keys, readers=settings.ingress_interface)
    return rows
