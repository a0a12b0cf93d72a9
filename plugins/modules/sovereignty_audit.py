#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: attack the two planes of a machine, and say what held."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sovereignty_audit
short_description: Attack the sovereign plane from inside and outside, and read back what is in force
description:
  - Reads back what is in force (packet filter, namespaces, routes, units, processes, containers, files), never what
    was written.
  - Attacks from inside every sovereign unit and container, as its user, by IPv4 and IPv6, by socket files, and by
    families of sockets that lead elsewhere; as every sovereign user in the host's namespace; and as every hybrid user
    towards every sovereign address, file, process and log.
  - Plants a hole for each kind of attack and requires that the same probe finds it. When one is not found the verdict
    is V(invalid), not V(green).
  - Planted holes open one marked port that nobody else listens at, for seconds. They are closed by the module, by a
    timer of systemd when the module was killed, and by a date in the rules themselves.
  - Nothing else is changed. Packets are sent to the addresses that are attacked; on a machine that holds, they are
    refused before they leave it.
version_added: 0.2.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: partial
    details: Only reads. Nothing is attacked and no hole is planted, so that the verdict is V(red) or V(invalid).
  diff_mode:
    support: none
    details: Nothing is ever changed for good.
  idempotent:
    support: full
options:
  parts:
    description:
      - What to do. Each part plants its own holes. The fewer, the faster; C(static) alone takes seconds.
      - V(static) reads back. V(units), V(containers) and V(users) attack from the sovereign side. V(egress) attacks
        what a hybrid user may not reach outside. V(pull) and V(files) attack the sovereign side from the host.
      - V(requests) sends every request vector with the key of each T1 profile. V(capture) sends marked requests while
        every outside interface is listened to, and then looks for the marks wherever a hybrid user can read.
    type: list
    elements: str
    choices: [static, units, containers, users, egress, pull, files, requests, capture]
    default: [static, units, containers, users, egress, pull, files, requests, capture]
  kinds:
    description:
      - Return only rows of these kinds. The verdict is of all.
    type: list
    elements: str
    choices: [static, attack, request, pull, files, logs, capture, control]
    default: []
  only:
    description:
      - Return only rows whose source and path fit one of these shell patterns. The verdict is of all.
    type: list
    elements: str
    default: []
  plane_clients:
    description:
      - Who on the host may open what of the plane, from the filter P(mushishi.sovereign.plane_clients#filter).
    type: list
    elements: dict
    required: true
  namespace_flows:
    description:
      - Who inside the plane may open what, from the filter P(mushishi.sovereign.namespace_flows#filter).
    type: list
    elements: dict
    required: true
  door_routes:
    description:
      - What the engine door passes on, from the filter P(mushishi.sovereign.door_routes#filter).
    type: list
    elements: dict
    required: true
  hybrid_egress:
    description:
      - The hosts outside that each hybrid user may open, from the filter P(mushishi.sovereign.egress_hosts#filter).
    type: dict
    required: true
  loopback_services:
    description:
      - Services on the host's loopback that only named users may open, with C(comment), C(port) and C(users).
    type: list
    elements: dict
    default: []
  targets:
    description:
      - Further places to attack, beside those that the machine itself knows (its gateway, its name servers, its own
        addresses, its neighbours, the policy's hosts, other containers, metadata and documentation addresses,
        multicast, broadcast).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What it is.
        type: str
        required: true
      v4:
        description: Its IPv4 address.
        type: str
      v6:
        description: Its IPv6 address.
        type: str
      ports:
        description: TCP ports to try beside the usual ones.
        type: list
        elements: int
        default: []
  t1_trees:
    description:
      - Folders with T1 data, beside those that systemd keeps for sovereign units.
    type: list
    elements: path
    default: []
  ingress_interface:
    description:
      - The interface that the ingress answers on.
    type: str
    default: tailscale0
  ingress_ports:
    description:
      - Its ports.
    type: list
    elements: int
    default: [4000, 4001]
  rows:
    description:
      - Rows that were found elsewhere, for the same verdict; from the filter
        P(mushishi.sovereign.audit_paths#filter), for example.
    type: list
    elements: dict
    default: []
  sovereign_profiles:
    description:
      - The T1 profiles with whose keys V(requests) and V(capture) ask, from the filter
        P(mushishi.sovereign.plane_profiles#filter).
    type: list
    elements: str
    default: []
  local_backends:
    description:
      - The backends on this machine. An answer to a request vector by any other is a leak.
    type: list
    elements: str
    default: []
  sovereign_port:
    description:
      - The ingress' port of the sovereign plane.
    type: int
    default: 4001
  hash_models:
    description:
      - Whether to hash model files of more than 256 MiB too, for the facts. It reads all of them.
    type: bool
    default: false
  fail_on_leak:
    description:
      - Whether to fail when the verdict is not V(green). In check mode only V(red) fails.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Attack the machine
  mushishi.sovereign.sovereignty_audit:
    plane_clients: "{{ sovereign_policy | mushishi.sovereign.plane_clients }}"
    namespace_flows: "{{ sovereign_policy | mushishi.sovereign.namespace_flows }}"
    door_routes: "{{ sovereign_policy | mushishi.sovereign.door_routes }}"
    hybrid_egress: "{{ sovereign_policy | mushishi.sovereign.egress_hosts }}"
    targets:
      - {name: router, v4: 192.0.2.1, v6: "2001:db8::1", ports: [53, 80]}
  register: audit

- name: Only look, in seconds
  mushishi.sovereign.sovereignty_audit:
    parts: [static]
    plane_clients: "{{ sovereign_policy | mushishi.sovereign.plane_clients }}"
    namespace_flows: "{{ sovereign_policy | mushishi.sovereign.namespace_flows }}"
    door_routes: "{{ sovereign_policy | mushishi.sovereign.door_routes }}"
    hybrid_egress: "{{ sovereign_policy | mushishi.sovereign.egress_hosts }}"
"""

RETURN = r"""
rows:
  description: One entry per path or setting, with C(kind), C(rule), C(source), C(path), C(outcome), C(ms) and
    C(detail).
  returned: always
  type: list
  elements: dict
  sample:
    - kind: attack
      rule: P1
      source: unit mushishi-sovereign-gateway (bare)
      path: → default gateway v4 192.0.2.1 tcp 443
      outcome: refused
      ms: 0.05
      detail: ENETUNREACH
summary:
  description: Kind → outcome → how many, of all rows.
  returned: always
  type: dict
verdict:
  description: V(green), V(red) when anything leaked, V(invalid) when a planted hole was not found or none was planted.
  returned: always
  type: str
  sample: green
why:
  description: What makes the verdict V(invalid), in words.
  returned: always
  type: str
table:
  description: The rows as lines that a person reads.
  returned: always
  type: list
  elements: str
facts:
  description: Versions, and sha256 digests of the rules in force, the configuration, the images, the models and the
    audit's own code.
  returned: always
  type: dict
counters:
  description: What the guard has counted, with what the audit provoked kept apart; empty where it cannot be read.
  returned: always
  type: dict
started:
  description: When it began, UTC.
  returned: always
  type: str
  sample: "2026-11-25T18:00:00Z"
ended:
  description: When it ended, UTC.
  returned: always
  type: str
  sample: "2026-11-25T18:00:42Z"
"""

import contextlib
import inspect
from datetime import datetime, timezone
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit import (
    attack,
    capture,
    clients,
    control,
    counters,
    facts,
    model,
    probe,
    requests_run,
    ruleset,
    static,
    table,
    vectors,
)

CODE = (
    attack, capture, clients, control, counters, facts, model, probe, requests_run, ruleset, static, table, vectors
)
PARTS = ("static", "units", "containers", "users", "egress", "pull", "files", *clients.PARTS)


def now() -> str:
    """This moment, as it is written in a report."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def settings_of(params: dict[str, Any]) -> facts.Settings:
    """The parameters as the audit's settings."""
    same = (
        "plane_clients",
        "namespace_flows",
        "door_routes",
        "hybrid_egress",
        "loopback_services",
        "t1_trees",
        "ingress_interface",
        "ingress_ports",
        "hash_models",
        "sovereign_profiles",
        "local_backends",
        "sovereign_port",
    )
    targets = [{key: value for key, value in target.items() if value is not None} for target in params["targets"]]
    return facts.Settings(targets=targets, **{name: params[name] for name in same})


def tried(machine: facts.Machine, settings: facts.Settings, parts: list[str]) -> list[model.Row]:
    """The parts that were asked for, and their holes; what this provokes is booked as an audit's."""
    rows = static.collect(machine, settings) if "static" in parts else []
    running = facts.containers(machine, settings.network)
    with counters.audit_in_progress():
        if attacked := [part for part in parts if part != "static" and part not in clients.PARTS]:
            rows += attack.collect(machine, settings, running, attacked)
        rows += control.collect(machine, settings, running, parts)
        rows += clients.collect(machine, settings, parts)
    return rows


def audit(params: dict[str, Any], machine: facts.Machine, *, check_mode: bool) -> dict[str, Any]:
    """Everything the module returns."""
    settings, started = settings_of(params), now()
    rows = [model.Row(**given) for given in params["rows"]]
    rows += static.collect(machine, settings) if check_mode else tried(machine, settings, params["parts"])
    verdict = model.verdict(rows)
    counted: dict[str, Any] = {}
    with contextlib.suppress(counters.Blind, OSError, ValueError):
        counted = counters.totals()
    return {
        "changed": False,
        "rows": [row.as_dict() for row in table.chosen(rows, params["kinds"], params["only"])],
        "summary": model.summary(rows),
        "verdict": verdict,
        "why": control.proves(rows) or "",
        "table": table.lines(rows, verdict),
        "facts": facts.facts(
            machine, settings, {code.__name__.rpartition(".")[2]: inspect.getsource(code) for code in CODE}
        ),
        "counters": counted,
        "started": started,
        "ended": now(),
    }


def main() -> None:
    """Entry point."""
    listed = {"type": "list", "elements": "dict"}
    module = AnsibleModule(
        argument_spec={
            "parts": {"type": "list", "elements": "str", "choices": list(PARTS), "default": list(PARTS)},
            "kinds": {"type": "list", "elements": "str", "choices": list(model.KINDS), "default": []},
            "only": {"type": "list", "elements": "str", "default": []},
            "plane_clients": {**listed, "required": True},
            "namespace_flows": {**listed, "required": True},
            "door_routes": {**listed, "required": True},
            "hybrid_egress": {"type": "dict", "required": True},
            "loopback_services": {**listed, "default": []},
            "targets": {
                **listed,
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "v4": {"type": "str"},
                    "v6": {"type": "str"},
                    "ports": {"type": "list", "elements": "int", "default": []},
                },
            },
            "t1_trees": {"type": "list", "elements": "path", "default": []},
            "ingress_interface": {"type": "str", "default": "tailscale0"},
            "ingress_ports": {"type": "list", "elements": "int", "default": [4000, 4001]},
            "rows": {**listed, "default": []},
            "sovereign_profiles": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "local_backends": {"type": "list", "elements": "str", "default": []},
            "sovereign_port": {"type": "int", "default": 4001},
            "hash_models": {"type": "bool", "default": False},
            "fail_on_leak": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        result = audit(module.params, facts.Machine(), check_mode=module.check_mode)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        module.fail_json(msg=f"The audit did not run: {type(error).__name__}: {error}")
    bad = result["verdict"] == model.RED or (result["verdict"] == model.INVALID and not module.check_mode)
    if bad and module.params["fail_on_leak"]:
        module.fail_json(msg="\n".join(result["table"]), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
