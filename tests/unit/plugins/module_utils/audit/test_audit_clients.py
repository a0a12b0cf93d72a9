# SPDX-License-Identifier: MIT
"""The audit as a client: whose keys it takes, where it goes, and what it says when it cannot."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit import clients
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.facts import Machine, Settings
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.model import Row

SETTINGS = Settings(sovereign_profiles=("client", "private"), local_backends=("gpu", "cpu"), secrets="/keys")
LINKS = [{"addr_info": [{"scope": "link", "local": "169.254.1.1"}, {"scope": "global", "local": "100.64.1.2"}]}]


class Fake(Machine):
    """A machine with some links and some keys."""

    def __init__(self, links: list[dict[str, Any]], keys: dict[str, str]) -> None:
        super().__init__()
        self.links, self.keys = links, keys

    def json(self, *argv: str) -> Any:
        assert argv[-2:] == ("dev", "tailscale0")
        return json.loads(json.dumps(self.links))

    def text(self, path: str) -> str:
        return self.keys.get(path, "")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the two parts were asked to do."""
    told: list[tuple[Any, ...]] = []

    def requests(where: tuple[str, int], keys: dict[str, str], *, backends: tuple[str, ...]) -> list[Row]:
        told.append(("requests", where, keys, backends))
        return [Row("request", "", "x", "y", "refused")]

    def capture(address: str, port: int, keys: dict[str, str], *, readers: str) -> list[Row]:
        told.append(("capture", (address, port), keys, readers))
        return [Row("capture", "P1", "x", "y", "holds")]

    monkeypatch.setattr(clients.requests_run, "run_requests", requests)
    monkeypatch.setattr(clients.capture, "audit_capture", capture)
    return told


def test_it_asks_at_the_address_of_readers_with_the_keys_that_are_there(sent: list[tuple[Any, ...]]) -> None:
    machine = Fake(LINKS, {"/keys/profiles/private.key": "sk-1\n", "/keys/profiles/personal.key": "sk-2\n"})
    rows = clients.collect(machine, SETTINGS, ["static", "requests", "capture"])
    assert [row.kind for row in rows] == ["request", "capture"]
    where, keys = ("100.64.1.2", 4001), {"private": "sk-1"}
    assert sent == [("requests", where, keys, ("gpu", "cpu")), ("capture", where, keys, "tailscale0")]


@pytest.mark.parametrize(
    ("links", "keys", "why"),
    [
        ([], {"/keys/profiles/private.key": "sk-1"}, "no address on tailscale0"),
        (LINKS, {}, "no key of a T1 profile was found"),
    ],
)
def test_what_cannot_be_asked_is_not_tested(
    sent: list[tuple[Any, ...]], links: list[dict[str, Any]], keys: dict[str, str], why: str
) -> None:
    rows = clients.collect(Fake(links, keys), SETTINGS, ["requests", "capture"])
    assert sent == [] and [(row.kind, row.outcome, row.detail) for row in rows] == [
        ("request", "not tested", why),
        ("capture", "not tested", why),
    ]


def test_other_parts_ask_nobody(sent: list[tuple[Any, ...]]) -> None:
    assert clients.collect(Fake([], {}), SETTINGS, ["static", "units"]) == [] and sent == []
