# SPDX-License-Identifier: MIT
"""How module tests run a module: arguments in, result out, in this process."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args


class Ended(Exception):
    """A module called ``exit_json`` or ``fail_json``; ``result`` is what it said."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(str(result))
        self.result = result


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a module's ``main``: ``run(module, check=False, **options)`` returns the result, ``failed`` included."""

    def exit_json(_self: basic.AnsibleModule, **result: Any) -> None:
        raise Ended({"failed": False, **result})

    def fail_json(_self: basic.AnsibleModule, msg: str, **result: Any) -> None:
        raise Ended({"failed": True, "msg": msg, **result})

    monkeypatch.setattr(basic.AnsibleModule, "exit_json", exit_json)
    monkeypatch.setattr(basic.AnsibleModule, "fail_json", fail_json)

    def call(module: ModuleType, check: bool = False, **options: Any) -> dict[str, Any]:
        with patch_module_args({**options, "_ansible_check_mode": check}), pytest.raises(Ended) as ended:
            module.main()
        return ended.value.result

    return call
