# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""Whether other settings of the client would shut the door by which this very login came in.

Two of them let somebody in whom nothing else lets in. In netfilter mode ``on`` the chain ``ts-input`` accepts what
comes in by the tailnet before UFW is asked; without it UFW decides. Tailscale's own SSH answers port 22 inside the
client, with no key of the machine's and past every packet filter; without it sshd answers.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._login import Login
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.lockout import device_to
from ansible_collections.mushishi.sovereign.plugins.module_utils.tailnet import lockout
from ansible_collections.mushishi.sovereign.plugins.module_utils.tailnet.client import NETFILTER_MODES, Runner

#: The port that Tailscale's SSH takes out of the tunnel (wgengine/netstack/netstack.go shouldProcessInbound).
SSH_PORT = 22
_ON = NETFILTER_MODES["on"]
_ANYWHERE = ("any", "0.0.0.0/0", "::/0")
# linux/net/tcp_states.h
_LISTENING = "0A"
# 127.0.0.1 and ::1 as the kernel prints them.
_LOOPBACK = ("0100007F", "00000000000000000000000001000000")


@dataclass(frozen=True)
class Packet:
    """The first packet of a login by TCP."""

    source: str
    port: int
    interface: str

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.source else 4


@dataclass(frozen=True)
class Ufw:
    """What UFW's files say: whether it starts with the machine, its settings, and the rules of each family."""

    enabled: bool
    settings: Mapping[str, str]
    rules: Mapping[int, str]

    def admits(self, packet: Packet) -> bool:
        """Whether it lets a packet in: the first rule that fits decides, as in the kernel, and then the policy."""
        if not self.enabled:
            return True
        # Without IPv6 in its settings it drops all of that but loopback.
        if packet.family == 6 and self.settings.get("IPV6", "no").lower() != "yes":
            return False
        for line in self.rules.get(packet.family, "").splitlines():
            if line.startswith("### tuple ###") and (action := _action(line.split()[3:], packet)):
                return action in ("allow", "limit")
        return self.settings.get("DEFAULT_INPUT_POLICY", "DROP") == "ACCEPT"


def _action(words: Sequence[str], packet: Packet) -> str:
    """What a rule of UFW does with a packet; empty when it is about others.

    The words: action, protocol, port, destination, source port, source, perhaps two names of applications, direction.
    """
    if len(words) < 7:
        return ""
    action, protocol, port, _to, from_port, source = words[:6]
    way = next((word for word in words[6:] if re.fullmatch(r"(in|out)(_\S+)?", word)), "")
    fits = (
        ":" not in action
        and protocol in ("any", "tcp")
        and (port == "any" or _among(packet.port, port))
        and from_port == "any"
        and (source in _ANYWHERE or _inside(packet.source, source))
        and way in ("in", f"in_{packet.interface}")
    )
    # allow_log, allow_log-all: what is logged changes nothing.
    return action.partition("_")[0] if fits else ""


def _among(port: int, text: str) -> bool:
    """Whether a port is one of ``22,80,1000:2000``."""
    for part in text.split(","):
        first, _sign, last = part.partition(":")
        if first.isdigit() and int(first) <= port <= int(last or first):
            return True
    return False


def _inside(address: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _settings(text: str) -> dict[str, str]:
    pairs = (line.strip().partition("=") for line in text.splitlines())
    return {name: value.strip("\"' ") for name, sign, value in pairs if sign and not name.startswith("#")}


def read_ufw(etc: str = "/etc") -> Ufw:
    """UFW as its files have it; without them it is not enabled."""
    return Ufw(
        _settings(_read(f"{etc}/ufw/ufw.conf")).get("ENABLED", "no").lower() == "yes",
        _settings(_read(f"{etc}/default/ufw")),
        {4: _read(f"{etc}/ufw/user.rules"), 6: _read(f"{etc}/ufw/user6.rules")},
    )


def listens(port: int, proc: str = "/proc") -> bool:
    """Whether a program of the machine waits for connections at a port, not on the loopback alone.

    Tailscale's SSH does not show here: it answers inside the client.
    """
    for name in ("tcp", "tcp6"):
        for line in _read(f"{proc}/net/{name}").splitlines()[1:]:
            words = line.split()
            address, _sign, number = words[1].partition(":")
            if words[3] == _LISTENING and int(number, 16) == port and address not in _LOOPBACK:
                return True
    return False


@dataclass(frozen=True)
class Change:
    """What a login could lose: the chain that lets it in, the server that answers it, or everything at once."""

    chain: bool
    server: bool
    shields: bool
    # Afterwards no chain of the client's lets anybody in.
    filtered: bool

    @property
    def matters(self) -> bool:
        """Whether there is anything to lose."""
        return self.chain or self.server or self.shields


def change(prefs: Mapping[str, Any], netfilter_mode: str, shields_up: bool) -> Change:
    """From the preferences in force to what is wanted; Tailscale's SSH is always off afterwards."""
    filtered = netfilter_mode != "on"
    return Change(
        chain=prefs.get("NetfilterMode") == _ON and filtered,
        server=bool(prefs.get("RunSSH")),
        shields=shields_up and not prefs.get("ShieldsUp"),
        filtered=filtered,
    )


def reasons(made: Change, packet: Packet, ufw: Ufw, keys: Callable[[], list[str]]) -> list[str]:
    """Why a login that came in by the tailnet would not work afterwards, one sentence each.

    Args:
        keys: why sshd would not let it in; asked only when it is Tailscale's SSH that does now.
    """
    found = []
    server = made.server and packet.port == SSH_PORT
    if made.shields:
        found.append("the client would refuse every connection from the tailnet (tailscale_shields_up)")
    if made.filtered and (made.chain or server) and not ufw.admits(packet):
        now = "Tailscale's own SSH answers it" if server else "Tailscale's own rules let it in"
        found.append(
            f"{now} now, past UFW; then UFW decides, and it lets nothing in from {packet.source} to port {packet.port} "
            f"(ufw allow in on {packet.interface} to any port {packet.port} proto tcp)"
        )
    if server:
        found += [f"Tailscale's own SSH answers it now; then sshd does, and {reason}" for reason in keys()]
    return found


def without_tailscales_ssh(login: Login, run: Runner, sshd: str = "/usr/sbin/sshd", proc: str = "/proc") -> list[str]:
    """Why sshd itself would not let a login in."""
    if not listens(login.port, proc):
        return [f"no program listens at port {login.port} (systemctl enable --now ssh)"]
    settings = lockout.asked(login, run, sshd)
    found = [lockout.key_reason(login, settings)]
    if login.user == "root" and settings.get("permitrootlogin") == "no":
        found.append("it does not let root in")
    return [reason for reason in found if reason]


def refuse(
    login: Login | None, interface: str, made: Change, run: Runner, *, accepted: bool, etc: str = "/etc"
) -> list[str]:
    """End here when the login that runs this task would be locked out; what to warn of when that was accepted.

    Raises:
        SovereignError: with every reason.
    """
    if login is None or not made.matters:
        return []
    if (login.zone or device_to(login.address, lambda argv, _stdin: run(argv))) != interface:
        return []
    packet = Packet(login.address, login.port, interface)
    found = reasons(made, packet, read_ufw(etc), lambda: without_tailscales_ssh(login, run))
    if not found:
        return []
    thing = f"the login of {login.user or 'somebody'} from {login.address}, which runs this task"
    seen = f"it would not work afterwards: {'; '.join(found)}"
    if accepted:
        return [f"{thing}: {seen}."]
    raise SovereignError(
        thing,
        f"{seen}. Nothing was changed",
        "Put that right first, or run once with -e tailscale_lockout_accepted=true and another way to the machine.",
    )
