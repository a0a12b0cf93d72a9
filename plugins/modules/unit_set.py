#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: many systemd units in one step, each running with the files that are there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: unit_set
short_description: Keep many systemd units enabled, running, and up to date with their files
description:
  - Enables and starts (or stops) a list of units, in the order of the list.
  - Restarts, or reloads, a unit that started before one of its files was last written. A unit's own file and drop-ins
    count always, O(units[].files) names the others. So no handler is needed, and nothing is lost when a run is killed
    between writing a file and restarting what reads it, or when somebody else writes the file.
  - Makes systemd read changed unit files first. Nothing is done when all is right; the state of all units is read with
    one command.
  - A unit that cannot be started, or does not stay up, is an error with its result and its last 20 journal lines.
version_added: 0.2.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: full
    details: What earlier tasks of a dry run would write is known only when O(pending) says so.
  diff_mode:
    support: full
  idempotent:
    support: full
    details: A unit of the kind that ends by itself and does not remain active is started at each run.
options:
  units:
    description:
      - The units. One may be named once.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Full name with the suffix.
        type: str
        required: true
      files:
        description:
          - Files whose content the unit reads when it starts, as absolute paths or globs. Keys and locks count, too.
          - A plain path must exist when the unit shall run; a glob may match nothing. Of a link both the link and what
            it leads to count. A folder counts when something in it is made, renamed or removed.
        type: list
        elements: str
        default: []
      state:
        description: Whether it shall run.
        type: str
        choices: [started, stopped]
        default: started
      enabled:
        description: >-
          Whether it shall start with the machine. A unit file without an C([Install]) section is left as it is.
        type: bool
        default: true
      reload:
        description:
          - Reload the unit instead of restarting it, whichever of its files changed. For units whose stop would take
            others down.
        type: bool
        default: false
      owned:
        description:
          - Whether this task decides about the unit. When V(false) it is only brought up to date with its files, if it
            exists and runs. For a unit that another role enables and starts.
        type: bool
        default: true
  pending:
    description:
      - Paths that a task before this one would write, as in C(changed_paths) of M(mushishi.sovereign.file_set). Used in
        check mode only, to predict what a real run will see by itself.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Run the gateway with the settings that are there
  mushishi.sovereign.unit_set:
    units:
      - name: mushishi-hybrid-gateway.service
        files:
          - /etc/mushishi/gateway/hybrid.yaml
          - /opt/mushishi/gateway/*.py
          - /opt/mushishi/venvs/gateway/mushishi-lock
          - /etc/mushishi/secrets/cloud/*.key
      - {name: mushishi-guard.service, files: [/etc/mushishi/guard/host.nft], reload: true}
    pending: "{{ __gateway_files.changed_paths }}"
  notify: Wait until the hybrid gateway answers
"""

RETURN = r"""
started:
  description: Units that were started (in check mode, would be).
  returned: success
  type: list
  elements: str
  sample: [mushishi-hybrid-gateway.service]
stopped:
  description: Units that were stopped.
  returned: success
  type: list
  elements: str
  sample: []
restarted:
  description: Units that were restarted because one of their files is newer.
  returned: success
  type: list
  elements: str
  sample: []
reloaded:
  description: Units that were reloaded because one of their files is newer.
  returned: success
  type: list
  elements: str
  sample: []
enabled:
  description: Units that were enabled.
  returned: success
  type: list
  elements: str
  sample: [mushishi-hybrid-gateway.service]
disabled:
  description: Units that were disabled.
  returned: success
  type: list
  elements: str
  sample: []
daemon_reloaded:
  description: Whether systemd had to read changed unit files.
  returned: success
  type: bool
  sample: false
"""

from collections.abc import Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils import _unit_set
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "units": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "files": {"type": "list", "elements": "str", "default": []},
                    "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
                    "enabled": {"type": "bool", "default": True},
                    "reload": {"type": "bool", "default": False},
                    "owned": {"type": "bool", "default": True},
                },
            },
            "pending": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    # The output of systemctl is read, so it must not be translated.
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}

    def run(command: Sequence[str]) -> tuple[int, str, str]:
        status, out, err = module.run_command(list(command))
        return status, out, err

    try:
        result = _unit_set.ensure(
            _unit_set.units_from(module.params["units"]),
            _unit_set.Manager(run),
            check_mode=module.check_mode,
            pending=module.params["pending"],
        )
    except SovereignError as error:
        module.fail_json(msg=str(error))
    for note in result.pop("notes"):
        module.warn(note)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
