# SPDX-License-Identifier: MIT
from __future__ import annotations

from standins import echo, records

MARKER = "MARK-client-00ff17a3c5"


def test_echo_answers_records_and_proves_itself() -> None:
    host = echo.Echo(["127.0.0.1"], [0, 0], [0])
    host.open()
    result = host.selftest()
    assert result["ok"] and [
        check["check"].split()[0] for check in result["checks"]
    ] == ["tcp", "tcp", "udp"]
    assert records.find(host.recorder.records(), MARKER)["count"] == 0
    host.tcp[0].shut()
    result = host.selftest()
    assert not result["ok"] and "Refused" in result["checks"][0]["detail"]
    host.shut()
