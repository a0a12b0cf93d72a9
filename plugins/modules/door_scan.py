#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: try every port of a machine from outside, and compare with its list of doors."""

from __future__ import annotations

DOCUMENTATION = r"""
module: door_scan
short_description: Try every port of a machine from outside, and compare with its list of doors
description:
  - Connects to every TCP port and asks the 200 UDP ports of the collection's own list, by IPv4 and IPv6, and compares
    with what is expected. From the tailnet that is exactly the doors; from a LAN nothing at all, not even a refusal.
  - Runs on another machine of that network. Where there is none, O(namespace) makes a network namespace on the machine
    itself that stands for it, whose packets come in by the real interface (O(enter)).
  - A scan that finds nothing proves something only when it could have found something. Each scan plants a TCP and a UDP
    service at its own address and must find them by the very same means, and something must show that the machine was
    there. Otherwise the verdict is V(invalid), not V(green).
  - A silent UDP port may be filtered, or have a service that does not answer what was asked. Where a protocol answers
    only a question of its own, that question is asked.
  - Changes nothing. A namespace and its wire are gone when the module ends, however it ends.
version_added: 0.3.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: full
    details: Scans in check mode, too. It changes nothing that stays.
  diff_mode:
    support: none
    details: Nothing is ever changed.
  idempotent:
    support: full
options:
  side:
    description:
      - From which network is scanned.
    type: str
    choices: [lan, tailnet]
    required: true
  addresses:
    description:
      - The machine's addresses. One that the probe has no way to is not tested, and the table says so.
    type: list
    elements: str
    required: true
  doors:
    description:
      - The doors that are expected open from the tailnet, with C(name), C(port) and C(protocol), as in the machine's
        own C(/etc/mushishi/doors.json).
    type: list
    elements: dict
    default: []
  peer_api:
    description:
      - Where the tailnet's client listens for its peers, as C(tailscale status --json) names it (C(Self.PeerAPIURL)).
        The client answers there by itself, past every packet filter, so that a real peer finds that port open and a
        played one does not. It gets a row of its own and is no difference. From a LAN it is a port like any other.
    type: list
    elements: str
    default: []
  tcp_ports:
    description:
      - TCP ports to try, as V(1-1024,4000). Empty for none.
    type: str
    default: 1-65535
  udp_ports:
    description:
      - UDP ports to ask. Empty for the 200 of the collection's own list, as V(53,123).
    type: str
    default: ""
  probe:
    description:
      - The name of the probe, for the table.
    type: str
    default: probe
  namespace:
    description:
      - Whether to scan from a network namespace on this machine that stands for O(side). Needs root.
    type: bool
    default: false
  enter:
    description:
      - The interface by which the packets of a namespace come in. A LAN can be played without one, since every
        interface that is not the tailnet's is treated alike; the tailnet cannot.
    type: str
    default: ""
  parallel:
    description:
      - How many connections are tried at a time. Fewer where the kernel gives fewer files.
    type: int
    default: 1500
  patience:
    description:
      - Seconds after which a TCP port counts as silent. The kernel knocks a second time after one second.
    type: float
    default: 1.5
  udp_patience:
    description:
      - Seconds after which a question is asked again, and after that the port counts as silent.
    type: float
    default: 1.0
  progress:
    description:
      - A file into which is written, every two seconds, how far the scan is. Its last line begins with C(finished).
    type: path
  only:
    description:
      - Return only rows that fit one of these shell patterns, as V(tcp 22). The verdict is of all.
    type: list
    elements: str
    default: []
  fail_on_difference:
    description:
      - Whether to fail when the verdict is not V(green).
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Try the doors from another machine of the LAN
  mushishi.sovereign.door_scan:
    side: lan
    addresses: [192.0.2.10, "2001:db8::10"]

- name: Try the doors from a namespace that stands for the tailnet
  mushishi.sovereign.door_scan:
    side: tailnet
    addresses: [100.64.0.2]
    doors: [{name: ssh, port: 22, protocol: tcp}]
    namespace: true
    enter: tailscale0
"""

RETURN = r"""
rows:
  description:
    - One entry per door, per open port that is none, and per range of ports that answered alike, with C(probe),
      C(side), C(address), C(port), C(expected), C(seen) and C(verdict).
  returned: success
  type: list
  elements: dict
  sample:
    - {probe: mac, side: tailnet, address: 100.64.0.2, port: tcp 22, expected: open (ssh), seen: open, verdict: holds}
verdict:
  description: V(green), V(red) when anything differs, V(invalid) when what was seen proves nothing.
  returned: success
  type: str
  sample: green
why:
  description: What makes the verdict, in a sentence; empty for V(green).
  returned: success
  type: str
table:
  description: The rows as lines that a person reads.
  returned: success
  type: list
  elements: str
results:
  description: What was seen of each address, with C(tcp) and C(udp) as outcome → ports, C(control) and C(evidence).
  returned: success
  type: list
  elements: dict
entered:
  description: The interface by which the packets of a namespace came in.
  returned: success
  type: str
note:
  description: Why they did not come in by O(enter).
  returned: success
  type: str
seconds:
  description: How long it took.
  returned: success
  type: float
"""

import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.doors import scan, stage, table, udp


class Diary:
    """The file of progress; without a path nothing is written."""

    def __init__(self, path: str | None) -> None:
        self.path = path

    def write(self, line: str) -> None:
        """One line more."""
        if self.path:
            with open(self.path, "a", encoding="utf-8") as stream:
                stream.write(line + "\n")

    def tell(self, event: Mapping[str, Any]) -> None:
        """An event of the scanner."""
        if "progress" in event:
            self.write(str(event["progress"]))


def job_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """The scanner's job. Raises ValueError for ports that are none."""
    return {
        "addresses": params["addresses"],
        "tcp": scan.ports_of(params["tcp_ports"]),
        "udp": udp.questions(scan.ports_of(params["udp_ports"])),
        "parallel": max(1, params["parallel"]),
        "patience": params["patience"],
        "udp_patience": params["udp_patience"],
    }


def scanned(params: Mapping[str, Any], diary: Diary) -> tuple[list[dict[str, Any]], str, str]:
    """Results, the interface by which the packets came in, and why not by the one that was asked for."""
    if params["namespace"]:
        return stage.played(params["side"], job_of(params), params["enter"], diary.tell)
    return scan.scan(job_of(params), diary.tell), "", ""


def judged(params: Mapping[str, Any], diary: Diary) -> dict[str, Any]:
    """Everything the module returns."""
    began = time.monotonic()
    results, entered, note = scanned(params, diary)
    probe, side = params["probe"], params["side"]
    doors, peer_api = params["doors"], params["peer_api"]
    rows = [row for result in results for row in table.rows_of(probe, side, result, doors, peer_api)]
    if not results:
        rows.append(table.Row(probe, side, "-", "all", table.EXPECTED[side], note, "not tested"))
    shown = table.chosen(rows, params["only"])
    return {
        "changed": False,
        "rows": table.as_dicts(shown),
        "verdict": table.verdict(rows),
        "why": table.why(rows),
        "table": table.lines(shown, rows),
        "results": results,
        "entered": entered,
        "note": note,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "side": {"type": "str", "choices": ["lan", "tailnet"], "required": True},
            "addresses": {"type": "list", "elements": "str", "required": True},
            "doors": {"type": "list", "elements": "dict", "default": []},
            "peer_api": {"type": "list", "elements": "str", "default": []},
            "tcp_ports": {"type": "str", "default": "1-65535"},
            "udp_ports": {"type": "str", "default": ""},
            "probe": {"type": "str", "default": "probe"},
            "namespace": {"type": "bool", "default": False},
            "enter": {"type": "str", "default": ""},
            "parallel": {"type": "int", "default": 1500},
            "patience": {"type": "float", "default": 1.5},
            "udp_patience": {"type": "float", "default": 1.0},
            "progress": {"type": "path"},
            "only": {"type": "list", "elements": "str", "default": []},
            "fail_on_difference": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    diary = Diary(module.params["progress"])
    try:
        result = judged(module.params, diary)
    except SovereignError as error:
        diary.write(f"finished: {error}")
        module.fail_json(msg=str(error))
    except (ValueError, OSError) as error:
        diary.write(f"finished: {error}")
        module.fail_json(msg=f"The doors were not tried: {error}")
    diary.write(f"finished: {result['table'][0]}")
    if result["verdict"] != table.GREEN and module.params["fail_on_difference"]:
        module.fail_json(msg="\n".join(result["table"]), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
