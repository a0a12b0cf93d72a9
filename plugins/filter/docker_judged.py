# SPDX-License-Identifier: MIT
"""Filter: what a preflight says about the Docker that it finds."""

from __future__ import annotations

DOCUMENTATION = r"""
name: docker_judged
short_description: Judge the Docker that a machine has
version_added: 0.3.0
author: mushishi.sovereign contributors (!UNKNOWN)
description:
  - Reads what M(mushishi.sovereign.look) has found out about a machine's Docker, and says what is refused and what a
    person should know. Published holes of Docker, runc and containerd; the nftables backend; networks of the kinds
    macvlan and ipvlan; networks whose ports without an address are bound to another one than C(bind); containers on the
    host's own network; address pools that cannot be used; settings of the daemon that nobody knows.
  - Says whose packages they are, what is to be installed in which version, and what is to be held.
  - A package of Docker's own repository is what its number says. A distribution mends holes without a new number, so of
    its packages only those holes are refused that the promise of the planes stands on, and the others are named.
positional: _input, settings, reached
options:
  _input:
    description:
      - The result of M(mushishi.sovereign.look), with commands of the names C(version_docker), C(version_runc),
        C(version_containerd), C(packages), C(held), C(sources), C(start), C(backend), C(networks), C(containers),
        C(bindings), C(routes4) and C(routes6). What is missing is taken for empty.
    type: dict
    required: true
  settings:
    description:
      - A dictionary with C(pools), C(lan), C(unfiltered), C(bind), C(source) (V(docker), V(distribution) or V(auto)),
        C(pins), C(ce), C(distribution_packages) and C(source_path).
    type: dict
    required: true
  reached:
    description:
      - Whether the index of Docker's repository was reached. Not given when nobody asked.
    type: bool
"""

EXAMPLES = r"""
- name: Nothing here is refused
  ansible.builtin.assert:
    that: judged.refused | length == 0
    fail_msg: "{{ judged.refused | join(' ') }}"
  vars:
    judged: "{{ look | mushishi.sovereign.docker_judged(settings) }}"
    settings:
      pools: [{base: 10.90.0.0/16, size: 24}]
      lan: 10.88.0.0/24
      unfiltered: []
      bind: 127.0.0.1
      source: distribution
      pins: {docker-ce: "5:29.9.0-1~ubuntu.24.04~noble", containerd.io: "2.4.1-2~ubuntu.24.04~noble"}
      ce: [docker-ce, containerd.io]
      distribution_packages: {Ubuntu: [docker.io], Debian: [docker.io]}
      source_path: /etc/apt/sources.list.d/docker.sources
"""

RETURN = r"""
_value:
  description:
    - C(refused) and C(named), lists of sentences; C(version), Docker's version or the empty string; C(knows_backend),
      whether that version knows the setting C(firewall-backend); C(kept), settings of another hand that stay;
      C(origin), whose packages they are; C(ask_index), whether that depends on Docker's repository; C(install) and
      C(hold), for apt; C(own_source), whether our source of packages is needed.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError


def docker_judged(look: Any, settings: Any, reached: Any = None) -> dict[str, Any]:
    """What is refused and what is named. Raises AnsibleFilterError for settings that say too little."""
    # Not at the top: Ansible loads every filter's file, in every worker, to find any filter.
    from ansible_collections.mushishi.sovereign.plugins.module_utils.docker.judge import judge

    try:
        return judge(look, settings, None if reached is None else bool(reached))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AnsibleFilterError(f"docker_judged: {type(error).__name__}: {error}") from error


class FilterModule:
    """The filter's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions of this file."""
        return {"docker_judged": docker_judged}
