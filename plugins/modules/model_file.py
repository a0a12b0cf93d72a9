#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: a large model file, verified by hash once and fetched with resume when it is missing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: model_file
short_description: Have a large model file, verified by its SHA-256
description:
  - Keeps one large file. When it is there it is verified against O(sha256). When it is missing it is fetched from
    O(url) or copied from O(src), verified, and only then gets its name.
  - A verified file is remembered (size, times, inode), so that the next run reads nothing of it.
  - A broken transfer is resumed, in the same run and in the next one, also after the run was killed. When the source
    has changed meanwhile, or cannot resume, it begins anew and says so.
  - Two transfers of one file never run at the same time; the second waits and takes what the first has brought.
  - A file that is there but is not the one that was meant is never replaced; the module fails and says so.
  - In check mode nothing is changed, but the same refusals are made, so that a task with C(check_mode=true) is a
    preflight.
version_added: 0.1.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  path:
    description:
      - Absolute path of the file. A symbolic link to it is followed.
    type: path
    required: true
  url:
    description:
      - Where a missing file is fetched from, C(https://), C(http://) or C(file://).
    type: str
  src:
    description:
      - A file on the target that a missing file is copied from.
    type: path
  sha256:
    description:
      - SHA-256 of the file in hex. Needed with O(url) and O(src).
    type: str
  size_bytes:
    description:
      - Size of the file. With it a disk that is too small is refused before anything is fetched.
    type: int
  reserve_bytes:
    description:
      - Bytes that must stay free on the disk after the transfer.
    type: int
    default: 1073741824
  record_dir:
    description:
      - Folder, writable by root alone, where verified files are remembered.
    type: path
    default: /var/cache/mushishi/models
  status_file:
    description:
      - File that says how far the work is, one JSON object with C(state), C(bytes), C(total), C(elapsed) (seconds) and
        C(message). Not written in check mode.
    type: path
  timeout:
    description:
      - Seconds without any data after which a transfer counts as broken.
    type: int
    default: 60
  attempts:
    description:
      - Attempts in a row that bring nothing before the module gives up.
    type: int
    default: 5
"""

EXAMPLES = r"""
- name: Refuse a model that cannot be had, before anything is changed
  mushishi.sovereign.model_file:
    path: /data/ai/02-models/nemotron-cpu.gguf
    url: https://models.example.org/nemotron-cpu.gguf
    sha256: 599686c10000000000000000000000000000000000000000000000000000abcd
    size_bytes: 19300000000
  check_mode: true

- name: A model that somebody put there by hand, verified
  mushishi.sovereign.model_file:
    path: /data/ai/02-models/nemotron-cpu.gguf
    sha256: 599686c10000000000000000000000000000000000000000000000000000abcd
"""

RETURN = r"""
path:
  description: Path of the file.
  returned: success
  type: str
  sample: /data/ai/02-models/nemotron-cpu.gguf
exists:
  description: Whether the file was there before.
  returned: success
  type: bool
  sample: true
size_bytes:
  description: Size of the file, or what it will be when it is to be fetched and its size is known.
  returned: success
  type: int
  sample: 19300000000
verified:
  description: How the hash was checked; V(remembered), V(now), V(not asked) or V(to be fetched).
  returned: success
  type: str
  sample: remembered
missing_bytes:
  description: Bytes that were still to come before this run; 0 when the file was there, or nobody knows its size.
  returned: success
  type: int
  sample: 0
transferred_bytes:
  description: Bytes that were fetched by this run.
  returned: success
  type: int
  sample: 0
notes:
  description: What a person should read, one sentence each; for example that a transfer began anew. Also warnings.
  returned: success
  type: list
  elements: str
  sample: []
"""

import os
import re
from typing import Any
from urllib.error import HTTPError

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible_collections.mushishi.sovereign.plugins.module_utils import model_file as core
from ansible_collections.mushishi.sovereign.plugins.module_utils._diff import Differences
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._files import absolute


def open_file(path: str, offset: int, validator: str) -> core.Transfer:
    """Opens a local source at ``offset``, or at its beginning when it is not the one of before."""
    stream = open(path, "rb")  # noqa: SIM115 - the transfer closes it
    status = os.fstat(stream.fileno())
    now = f"{status.st_size} {status.st_mtime_ns}"
    if validator and validator != now:
        offset = 0
    stream.seek(offset)
    return core.Transfer(stream, offset, status.st_size, now)


def open_web(url: str, offset: int, validator: str, timeout: int) -> core.Transfer:
    """Opens ``url`` at ``offset``; a server that cannot resume, or has another file now, is read from its beginning.

    Raises:
        OSError: the server cannot be reached or fails; another attempt may help.
        SovereignError: the server refuses; another attempt would not help.
    """
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and validator:
        headers["If-Range"] = validator
    try:
        response = open_url(url, headers=headers, timeout=timeout, http_agent="mushishi.sovereign", decompress=False)
    except HTTPError as error:
        if error.code == 416 and offset:
            # Nothing is left to send, or the file became shorter: begin again, the hash decides.
            return open_web(url, 0, "", timeout)
        if 400 <= error.code < 500 and error.code not in (408, 425, 429):
            raise SovereignError(
                f"source {core.shown_source(url)}",
                f"the server refuses it (HTTP {error.code} {error.reason})",
                "Correct the url, or what it needs to be allowed.",
            ) from None
        raise OSError(f"HTTP {error.code} {error.reason}") from error
    begins_at = 0
    if response.status == 206:
        begins_at = offset
        said = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
        if said and int(said.group(1)) != offset:
            response.close()
            return open_web(url, 0, "", timeout)
    length = response.headers.get("Content-Length")
    # A weak ETag (W/…) promises no identical bytes, so it is no condition for going on (RFC 9110, 13.1.5).
    tag = response.headers.get("ETag") or ""
    told = tag if tag.startswith('"') else response.headers.get("Last-Modified") or ""
    return core.Transfer(response, begins_at, begins_at + int(length) if length else None, told)


def opener(params: dict[str, Any]) -> core.Opener:
    """How the source of the task is opened."""
    source: str = params["src"] or params["url"]
    path = core.local_source(source)
    if path is not None:
        return lambda offset, validator: open_file(path, offset, validator)
    return lambda offset, validator: open_web(source, offset, validator, params["timeout"])


def ensure(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Makes it so, and returns the module's result.

    Raises:
        SovereignError: the file cannot be had, or is not the one that was meant.
    """
    wanted = core.Wanted(
        path=absolute(params["path"], "path"),
        source=params["src"] or params["url"],
        sha256=params["sha256"].lower() if params["sha256"] else None,
        size_bytes=params["size_bytes"],
        record_dir=params["record_dir"],
        reserve_bytes=params["reserve_bytes"],
        attempts=params["attempts"],
    )
    if params["url"] and not params["url"].startswith(("https://", "http://", "file://")):
        raise SovereignError(
            f"model file {wanted.path}", f"url {core.shown_source(params['url'])!r} is no web or file address", "Use https://."
        )
    status = core.Status(None if check_mode else params["status_file"])
    transferred = 0
    try:
        plan = core.make_plan(wanted, status)
        if not check_mode:
            if not plan.exists:
                transferred = core.fetch(wanted, opener(params), status)
            stamp = core.stamp_of(wanted.path)
            if stamp is not None and plan.verified in ("now", "to be fetched"):
                core.remember(wanted, stamp)
            size = stamp.size if stamp is not None else 0
            status.report("done", size, size, always=True)
    except SovereignError as error:
        status.report("failed", 0, wanted.size_bytes, str(error), always=True)
        raise
    differences = Differences()
    differences.compare("state", "present" if plan.exists else "absent", "present")
    return {
        "changed": differences.changed,
        "diff": differences.diff(wanted.path),
        "path": wanted.path,
        "exists": plan.exists,
        "size_bytes": plan.size_bytes,
        "verified": plan.verified,
        "missing_bytes": 0 if plan.exists else max(0, (plan.size_bytes or 0) - plan.resume_from),
        "transferred_bytes": transferred,
        "notes": status.notes,
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "url": {"type": "str"},
            "src": {"type": "path"},
            "sha256": {"type": "str"},
            "size_bytes": {"type": "int"},
            "reserve_bytes": {"type": "int", "default": 1024 * 1024 * 1024},
            "record_dir": {"type": "path", "default": "/var/cache/mushishi/models"},
            "status_file": {"type": "path"},
            "timeout": {"type": "int", "default": 60},
            "attempts": {"type": "int", "default": 5},
        },
        mutually_exclusive=[("url", "src")],
        supports_check_mode=True,
    )
    try:
        result = ensure(module.params, check_mode=module.check_mode)
    except SovereignError as error:
        module.fail_json(msg=str(error))
    for note in result["notes"]:
        module.warn(note)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
