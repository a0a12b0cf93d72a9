# SPDX-License-Identifier: MIT
"""The program that waits for the tailnet's address, in a network namespace with an interface of that name."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).resolve().parents[4] / "roles/tailscale/files/mushishi_tailnet.py"
MAKE = "ip link add tailscale0 type veth peer name other0; ip link set tailscale0 up; ip link set other0 up"
V4 = "ip address add 100.64.0.2/32 dev tailscale0"
#: nodad: a lone pair in a namespace has nobody to ask.
V6 = "ip -6 address add fd7a:115c:a1e0::2/128 dev tailscale0 nodad"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mushishi_tailnet", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def waited(before: str, later: str, seconds: float, other: float) -> tuple[int, str, float]:
    """Exit status, what it says, and how long it took, in a namespace of its own; ``later`` is done meanwhile."""
    assert shutil.which("unshare") and shutil.which("ip"), "util-linux and iproute2 are missing"
    argv = f"{sys.executable} -IB {PROGRAM} --interface=tailscale0 --seconds={seconds} --other-seconds={other}"
    script = f"{before}; {{ {later}; }} & {argv}; status=$?; wait; exit $status"
    started = time.monotonic()
    done = subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr, time.monotonic() - started


def test_both_are_there_at_once() -> None:
    status, said, took = waited(f"{MAKE}; {V4}; {V6}", ":", 60, 60)
    assert (status, said) == (0, "tailscale0 has IPv4 100.64.0.2, IPv6 fd7a:115c:a1e0::2\n") and took < 20


def test_one_family_is_enough_and_the_other_is_named() -> None:
    for here, missing in ((V4, "IPv6"), (V6, "IPv4")):
        status, said, took = waited(f"{MAKE}; {here}", ":", 60, 0.5)
        assert status == 0 and f"it has no {missing} address" in said and took < 20


#: The program under what its unit allows: netlink's sockets and no other, libc's own included.
CONFINED = """
import runpy, socket, sys
def refused(*_words):
    raise OSError(97, "Address family not supported by protocol")
def judge(event, words):
    if event == "socket.__new__" and words[1] != socket.AF_NETLINK:
        refused()
socket.if_nametoindex = refused
sys.addaudithook(judge)
sys.argv = ["x", "--interface=tailscale0", "--seconds=1", "--other-seconds=1"]
runpy.run_path("PROGRAM", run_name="__main__")
"""


def test_it_needs_no_other_family_than_its_unit_allows() -> None:
    unit = (PROGRAM.parents[1] / "templates/mushishi-tailnet.service.j2").read_text()
    assert "RestrictAddressFamilies=AF_NETLINK\n" in unit
    script = f"{MAKE}; {V4}; {V6}; exec {sys.executable} -IB -c '{CONFINED.replace('PROGRAM', str(PROGRAM))}'"
    done = subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "tailscale0 has IPv4 100.64.0.2, IPv6 fd7a:115c:a1e0::2\n"), done


def test_neither_is_an_error_after_its_time() -> None:
    status, said, took = waited(MAKE, ":", 0.5, 60)
    assert status == 1 and "neither an IPv4 nor an IPv6 address" in said and took < 20
    status, said, _took = waited(":", ":", 0.5, 60)
    assert status == 1 and "There is no interface tailscale0" in said


def test_what_comes_later_is_heard_at_once() -> None:
    """The interface, then the addresses, a second each: nobody waits for the time to end."""
    status, said, took = waited(":", f"sleep 1; {MAKE}; sleep 1; {V4}; {V6}", 120, 120)
    assert status == 0 and "IPv4 100.64.0.2, IPv6" in said and 2 <= took < 60


def test_a_link_local_address_is_none(program: ModuleType) -> None:
    """MAKE gives both ends one; the test above with no address shows it, this one says why."""
    body = bytes([10, 64, 0x80, program._LINK_SCOPE]) + (7).to_bytes(4, sys.byteorder)
    raw = (20).to_bytes(2, sys.byteorder) + (1).to_bytes(2, sys.byteorder) + bytes([0xFE, 0x80] + [0] * 13 + [1])
    assert program.usable(body + raw, 7) is None
    wide = body[:3] + bytes([0]) + body[4:]
    assert program.usable(wide + raw, 7) == ("IPv6", "fe80::1") and program.usable(wide + raw, 8) is None


@pytest.mark.parametrize(("flags", "counts"), [(0x80, True), (0xC0, False), (0x88, False)])
def test_an_address_that_somebody_else_may_have_does_not_count(program: ModuleType, flags: int, counts: bool) -> None:
    """Tentative, or a duplicate. The long form of the flags wins over the short one."""
    order = sys.byteorder
    address = bytes([0xFD] + [0] * 14 + [2])
    body = bytes([10, 128, 0, 0]) + (7).to_bytes(4, order)
    body += (20).to_bytes(2, order) + (1).to_bytes(2, order) + address
    body += (8).to_bytes(2, order) + (8).to_bytes(2, order) + flags.to_bytes(4, order)
    assert (program.usable(body, 7) is not None) is counts


def test_nothing_is_asked_without_a_reason(program: ModuleType) -> None:
    """One look at the beginning, one at the end: no busy loop."""
    looks: list[str] = []

    def look(interface: str) -> dict[str, str] | None:
        looks.append(interface)
        return {"IPv4": "100.64.0.2"}

    status, _said = program.wait("tailscale0", 60, 0.3, look)
    # The namespace of the tests may have news of its own; what matters is that they are few.
    assert status == 0 and 2 <= len(looks) < 20
