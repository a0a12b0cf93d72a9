#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: write the dated, signed and chained report of an audit."""

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_report
short_description: Write the report of a sovereignty audit, signed and chained to the one before
description:
  - Writes what an audit found as a page that a client can read (Markdown) and as canonical JSON, both named after the
    time in UTC.
  - Signs the JSON, which holds the hash of the page, with the machine's own key (C(ssh-keygen -Y sign)).
  - The report holds the hash of the one before, so that none can be taken out or changed unseen.
    C(mushishi-audit verify) looks at the whole chain.
  - A chain that is broken, or whose key was replaced without a record, is refused and nothing is added to it.
version_added: 0.2.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: full
    details: Judges the result and writes nothing.
  diff_mode:
    support: none
    details: Every report is a new one.
  idempotent:
    support: none
    details: Every run writes a report.
options:
  result:
    description:
      - What the audit found, with C(rows), C(verdict), C(facts), C(counters), C(started) and C(ended).
    type: dict
    required: true
  folder:
    description:
      - Folder of the chain. It is made where it is missing, for root alone.
    type: path
    default: /var/lib/mushishi/audit
  key_file:
    description:
      - The private key that signs. It is made where it is missing.
    type: path
    default: /etc/mushishi/secrets/audit.key
"""

EXAMPLES = r"""
- name: Write the report
  mushishi.sovereign.audit_report:
    result: "{{ audit_result }}"
  register: audit_written

- name: Say where it is
  ansible.builtin.debug:
    msg: "{{ audit_written.sentence }} {{ audit_written.markdown }}"
"""

RETURN = r"""
verdict:
  description: V(green), V(red) or V(invalid).
  returned: success
  type: str
  sample: green
sentence:
  description: The verdict in one sentence.
  returned: success
  type: str
  sample: "No way out was found: none of 612 attempts got through."
markdown:
  description: The page. Empty in check mode, as are the next ones.
  returned: success
  type: str
  sample: /var/lib/mushishi/audit/AUDIT-20261125T174836Z.md
json:
  description: The same as canonical JSON, which is what is signed.
  returned: success
  type: str
  sample: /var/lib/mushishi/audit/AUDIT-20261125T174836Z.json
signature:
  description: The signature over the JSON.
  returned: success
  type: str
  sample: /var/lib/mushishi/audit/AUDIT-20261125T174836Z.sig
sha256:
  description: Of the JSON. Whoever keeps it can later prove that the report is still in the chain.
  returned: success
  type: str
  sample: 77a7a0a9dc6d67c25cd63cce34ba498a15e03444e99d166c70ce02599bd51fa2
public:
  description: The public key that signed.
  returned: success
  type: str
  sample: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFmZ8QflAhH6AVEZUKdaxWbDA0zx5Kq8wSm2G95hx1Ad
fingerprint:
  description: Its fingerprint.
  returned: success
  type: str
  sample: SHA256:8NL6yhyHSBTsqmVxyQ93oTb46ASKFU+ulTGlH7+vMwE
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit import chain, report


def written(params: dict[str, Any]) -> dict[str, Any]:
    """Write the report; what the module returns of it."""
    folder = Path(params["folder"])
    made = report.write(params["result"], folder, Path(params["key_file"]))
    stem, key = folder / made["chain"]["name"], made["chain"]["key"]
    files = {name: f"{stem}.{ending}" for name, ending in (("markdown", "md"), ("json", "json"), ("signature", "sig"))}
    digest = {"sha256": chain.sha256(chain.canonical(made)), "public": key["public"], "fingerprint": key["fingerprint"]}
    return {"verdict": made["verdict"], "sentence": made["sentence"], **files, **digest}


def predicted(params: dict[str, Any]) -> dict[str, Any]:
    """What can be said of the report without writing it."""
    made = report.document(params["result"])
    empty = dict.fromkeys(("markdown", "json", "signature", "sha256", "public", "fingerprint"), "")
    return {"verdict": made["verdict"], "sentence": made["sentence"], **empty}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "result": {"type": "dict", "required": True},
            "folder": {"type": "path", "default": str(chain.FOLDER)},
            "key_file": {"type": "path", "default": str(chain.KEY), "no_log": False},
        },
        supports_check_mode=True,
    )
    try:
        result = (predicted if module.check_mode else written)(module.params)
    except (chain.ChainError, ValueError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=True, **result)


if __name__ == "__main__":
    main()
