#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: the machine's NVIDIA card, its driver and its display, and what is wrong with them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_gpu_facts
short_description: Look at a machine's NVIDIA card and judge its driver, display, power limit and Secure Boot
description:
  - Reads sysfs, C(/proc), apt, C(modinfo) and C(nvidia-smi), which asks NVML. Changes nothing.
  - Says what is refused and what a person should know, in sentences, and what is to be installed or loaded.
  - A machine without a card is one answer among others.
  - Unproven on hardware. Tested against recorded files and answers only.
version_added: 0.4.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: Nothing is ever changed.
  idempotent:
    support: full
options:
  driver:
    description:
      - V(ubuntu) is Canonical's signed build of the open modules. V(auto) is the same on a machine without a driver,
        and keeps one that is there. V(none) only judges.
    type: str
    choices: [auto, ubuntu, none]
    default: auto
  branch:
    description: Branch of Ubuntu's packages, C(580) or C(580-server).
    type: str
    default: 580-server
  power_watts:
    description: The power limit that will be asked for; V(0) for none.
    type: int
    default: 0
  display:
    description: With V(igpu) a display on the card is named. V(any) says nothing.
    type: str
    choices: [igpu, any]
    default: igpu
  toolkit:
    description: The version of the container toolkit that is wanted; empty for none.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: What is with the card
  mushishi.sovereign.host_gpu_facts:
    power_watts: 450
  register: gpu

- name: Nothing about it is refused
  ansible.builtin.assert:
    that: gpu.refused | length == 0
    fail_msg: "{{ gpu.refused | join(' ') }}"
"""

RETURN = r"""
card:
  description: Whether there is an NVIDIA card.
  returned: success
  type: bool
  sample: true
refused:
  description: What cannot work, one sentence each with what to do.
  returned: success
  type: list
  elements: str
  sample: []
named:
  description: What a person should know.
  returned: success
  type: list
  elements: str
  sample: ["Secure Boot is on: Canonical's modules are signed for it; nothing has to be enrolled."]
install:
  description: Packages of Ubuntu that are to be installed.
  returned: success
  type: list
  elements: str
  sample: [nvidia-utils-580-server]
toolkit:
  description: Whether the container toolkit is to be installed.
  returned: success
  type: bool
  sample: false
load:
  description: Whether the driver is there, not loaded, and can be without a restart.
  returned: success
  type: bool
  sample: false
restart:
  description: Why the machine has to be started anew; empty when it need not.
  returned: success
  type: str
  sample: nouveau has the card
described:
  description: Whether there is a CDI description of some device.
  returned: success
  type: bool
  sample: true
kernel:
  description: Release of the kernel that runs.
  returned: success
  type: str
  sample: 6.14.0-33-generic
secure_boot:
  description: Whether the firmware enforces signatures; none without UEFI.
  returned: success
  type: bool
  sample: true
driver:
  description: Version of the driver that is loaded, else of the one that is installed.
  returned: success
  type: str
  sample: 580.95.05
answers:
  description: Whether the driver answers.
  returned: success
  type: bool
  sample: true
cuda:
  description: The newest CUDA that the driver runs.
  returned: success
  type: str
  sample: "13.0"
cards:
  description: NVIDIA's display devices, with C(address), C(device) and C(kernel_driver).
  returned: success
  type: list
  elements: dict
  sample: [{address: "0000:01:00.0", device: "0x2b85", kernel_driver: nvidia}]
nvml:
  description: Each card as the driver knows it. Memory in MiB, power in watts.
  returned: success
  type: list
  elements: dict
  sample: []
drawing:
  description: Programs that draw with a card.
  returned: success
  type: list
  elements: str
  sample: []
connected:
  description: Connectors, of any card, with a display.
  returned: success
  type: list
  elements: str
  sample: [card0-HDMI-A-1]
"""

from collections.abc import Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import host


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "driver": {"type": "str", "choices": ["auto", "ubuntu", "none"], "default": "auto"},
            "branch": {"type": "str", "default": "580-server"},
            "power_watts": {"type": "int", "default": 0},
            "display": {"type": "str", "choices": ["igpu", "any"], "default": "igpu"},
            "toolkit": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    # What commands say is read, so it must not be translated.
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C"}

    def run(command: Sequence[str]) -> tuple[int, str, str]:
        try:
            status, out, err = module.run_command(list(command), handle_exceptions=False)
        except OSError as error:
            # As a shell says it: a program that is not there is an answer, too.
            return 127, "", f"{command[0]}: {error.strerror}"
        return status, out, err

    params = module.params
    seen = host.look("", run, params["branch"])
    wanted = host.Wanted(
        driver=params["driver"],
        branch=params["branch"],
        watts=params["power_watts"],
        display=params["display"],
        toolkit=params["toolkit"],
    )
    module.exit_json(changed=False, **host.as_result(seen, host.judge(seen, wanted)))


if __name__ == "__main__":
    main()
