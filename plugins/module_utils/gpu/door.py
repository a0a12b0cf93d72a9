# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""The engine door, as a mode switch shuts and opens it for one engine: by HAProxy's runtime API, from inside the plane.

The prober (roles/gateway) puts engines in and out of service by what it sees of them; a switch must not be undone by
it. So a switch has a list of its own: the modes that are shut, in the memory of the door. A request for one of them is
answered at once as by an engine that refuses, and what flows flows on. A door that starts anew has forgotten the list;
:meth:`Door.again` tells it.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from typing import TypeVar

from ansible_collections.mushishi.sovereign.plugins.module_utils._completions import together
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

#: Where the door listens to orders (roles/gateway). The guard lets root and the prober's user open it.
ADDRESS = ("127.0.0.1", 4023)
#: The list's name at the door: the file it is read from when the door starts, which is empty (roles/gateway).
LIST = "/etc/mushishi/gateway/closed.acl"
SECONDS = 5.0
_MOST = 1024 * 1024
_THING = "engine door"
_REMEDY = "Look at systemctl status mushishi-sovereign-door."
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
#: Bits of srv_admin_state in which an engine is out of service (HAProxy's management guide, "show servers state").
_OUT = 0x01 | 0x02 | 0x04

Answer = TypeVar("Answer")


class Away(Exception):
    """There is no door, or it is being started: nothing leads to an engine."""


def _listed(text: str) -> set[str]:
    """The words of a list, from lines like ``0x5581 agent``."""
    return {line.split(None, 1)[1].strip() for line in text.splitlines() if line.startswith("0x") and " " in line}


def servers(text: str) -> dict[tuple[str, int], bool]:
    """Address and port of each engine → whether it is in service, from ``show servers state``.

    Raises:
        ValueError: it is nothing of that kind.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    names = next((line[1:] for line in lines if line[0] == "#"), None)
    if names is None or not {"srv_addr", "srv_port", "srv_admin_state"} <= set(names):
        raise ValueError("it does not list its engines")
    found = {}
    for line in lines:
        if line[0] != "#" and len(line) >= len(names):
            entry = dict(zip(names, line))
            found[(entry["srv_addr"], int(entry["srv_port"]))] = not int(entry["srv_admin_state"]) & _OUT
    return found


class Door:
    """The door in a network namespace (the empty string: this one)."""

    def __init__(self, namespace: str, address: tuple[str, int] = ADDRESS, name: str = LIST) -> None:
        self._namespace, self._address, self._list = namespace, address, name
        self._shut: set[str] = set()

    def close(self, engine: str) -> None:
        """New requests for an engine are refused from now on.

        Raises:
            SovereignError: the door is there and does not do it.
        """
        self._shut.add(self._name(engine))
        self._tell(engine, shut=True)

    def open(self, engine: str) -> None:
        """Requests for it are let through again.

        Raises:
            SovereignError: the door is there and does not do it.
        """
        self._shut.discard(self._name(engine))
        self._tell(engine, shut=False)

    def again(self) -> None:
        """Shut what was shut, at a door that was started meanwhile. What goes wrong is found by the next order."""
        for engine in sorted(self._shut):
            try:
                self._tell(engine, shut=True)
            except SovereignError:
                return

    def closed(self) -> set[str] | None:
        """The modes that are shut; None where there is no door.

        Raises:
            SovereignError: the door is there and does not say.
        """
        try:
            return _listed(self._ask(f"show acl {self._list}"))
        except Away:
            return None

    def serving(self, host: str, port: int) -> bool | None:
        """Whether the prober lets requests to this address; None where no door leads there.

        Raises:
            SovereignError: the door is there and does not say.
        """
        try:
            return servers(self._ask("show servers state")).get((host, port))
        except Away:
            return None
        except ValueError as error:
            raise SovereignError(_THING, str(error), _REMEDY) from None

    def _tell(self, engine: str, *, shut: bool) -> None:
        try:
            if (engine in _listed(self._ask(f"show acl {self._list}"))) == shut:
                return
            self._ask(f"{'add' if shut else 'del'} acl {self._list} {engine}")
            if (engine in _listed(self._ask(f"show acl {self._list}"))) != shut:
                raise SovereignError(
                    _THING, f"{engine} is not {'shut' if shut else 'open'} although it was told", _REMEDY
                )
        except Away:
            return

    @staticmethod
    def _name(engine: str) -> str:
        if not _NAME.fullmatch(engine):
            raise SovereignError(_THING, f"{engine!r} is no name of a mode", "Correct the registry of the card.")
        return engine

    def _ask(self, command: str) -> str:
        """One command and its answer.

        Raises:
            Away: nobody listens.
            SovereignError: somebody does and does not answer, or does not know the list.
        """

        def asked() -> str | Exception:
            try:
                with socket.create_connection(self._address, SECONDS) as connection:
                    connection.sendall(f"{command}\n".encode("ascii"))
                    raw = b""
                    while len(raw) < _MOST and (piece := connection.recv(65536)):
                        raw += piece
                return raw.decode("utf-8", "replace")
            except OSError as error:
                return error

        answer = _first(together({"door": asked}, self._namespace))
        if isinstance(answer, (ConnectionRefusedError, ConnectionResetError, BrokenPipeError)):
            raise Away
        if isinstance(answer, Exception):
            raise SovereignError(_THING, f"it does not answer ({answer})", _REMEDY)
        if "Unknown ACL" in answer:
            raise SovereignError(_THING, f"it has no list {self._list}", "Run site.yml with the tag gateway.")
        return answer


def _first(found: Mapping[str, Answer]) -> Answer:
    return next(iter(found.values()))


class NoDoor(Door):
    """A machine without the plane: nothing leads to an engine, so there is nothing to shut."""

    def __init__(self) -> None:
        super().__init__("")

    def _ask(self, command: str) -> str:
        raise Away


def in_service(door: Door, host: str, port: int, pause: Callable[[float], None], seconds: float = 10.0) -> bool:
    """Wait until the prober, who asks every half second, has seen that an engine answers again; whether it has."""
    left = seconds
    while door.serving(host, port) is False:
        if left <= 0:
            return False
        pause(0.25)
        left -= 0.25
    return True
