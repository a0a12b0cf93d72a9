# SPDX-License-Identifier: MIT
"""Filter: manifests of models, checked and as files to bring."""

from __future__ import annotations

DOCUMENTATION = r"""
name: model_manifest
short_description: Check manifests of models and list their files
version_added: 0.4.0
author: mushishi.sovereign contributors (!UNKNOWN)
description:
  - Reads a list of manifests. Each has a C(name), a C(licence) (with C(licence_url)), a C(source) that the files'
    paths are added to, and C(files) with C(path), C(size_bytes), C(sha256) and perhaps a C(url).
  - Says what is wrong, one sentence each, with what to do. A licence that nobody has accepted is wrong, as is a hash
    that is missing or an address that leads to something else tomorrow.
positional: _input, root, accepted, variable
options:
  _input:
    description: The manifests.
    type: list
    elements: dict
    required: true
  root:
    description: The folder that each model has a folder of its name in.
    type: str
    required: true
  accepted:
    description: Names of licences that are accepted.
    type: list
    elements: str
    required: true
  variable:
    description: The setting that lists them, for messages.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: The manifests can be used
  ansible.builtin.assert:
    that: read.problems | length == 0
    fail_msg: "{{ read.problems | join(' ') }}"
  vars:
    read: "{{ manifests | mushishi.sovereign.model_manifest('/data/ai/02-models', licences, 'licences') }}"
    licences: [Example Licence 1.0]
    manifests:
      - name: example
        licence: Example Licence 1.0
        source: https://models.example.org/example
        files:
          - path: weights.safetensors
            size_bytes: 3
            sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
"""

RETURN = r"""
_value:
  description: >-
    C(problems), a list of sentences; C(files), each with C(path) (absolute), C(url), C(sha256), C(size_bytes) and
    C(name); C(bytes), their sum.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError


def model_manifest(raw: Any, root: str, accepted: Any, variable: str) -> dict[str, Any]:
    """Problems and files. Raises AnsibleFilterError when the accepted licences are no list."""
    # Not at the top: Ansible loads every filter's file, in every worker, to find any filter.
    from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.manifest import read

    if isinstance(accepted, (str, bytes)) or not hasattr(accepted, "__iter__"):
        raise AnsibleFilterError(f"model_manifest: {variable} is no list of licences: {accepted!r}")
    found = read(raw, root, list(accepted), variable)
    return {"problems": found.problems, "files": found.files, "bytes": found.bytes}


class FilterModule:
    """The filter's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions of this file."""
        return {"model_manifest": model_manifest}
