# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""What the tailnet's client says of itself, read from its commands.

The words are those of tailscale 1.102.3: ``ipn/ipnstate/ipnstate.go`` (Status, PeerStatus), ``ipn/prefs.go`` (Prefs),
``ipn/serve.go`` (ServeConfig), ``ipn/backend.go`` (State) in github.com/tailscale/tailscale. What an older or newer
client leaves out, or says more, is no error as long as nothing here depends on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

# Runs a program: argument list in; exit status, standard output and standard error out.
Runner = Callable[[Sequence[str]], "tuple[int, str, str]"]

# ipn.DefaultControlURL, and the older name of the same server (ipn.IsLoginServerSynonym).
DEFAULT_SERVER = "https://controlplane.tailscale.com"
_SYNONYMS = ("", "https://login.tailscale.com", DEFAULT_SERVER)
# Keys of Tailscale and Headscale, wherever they turn up in what a command says.
_KEY = re.compile(r"\b(tskey|hskey)-[A-Za-z0-9_?=&-]+")

# preftype.NetfilterMode as the preferences hold it.
NETFILTER_MODES = {"off": 0, "nodivert": 1, "on": 2}


def server_name(url: str) -> str:
    """A control server's address in one spelling."""
    plain = url.rstrip("/")
    return DEFAULT_SERVER if plain in _SYNONYMS else plain


@dataclass(frozen=True)
class Serve:
    """What the client serves by itself, past every packet filter of the machine."""

    # Port → where a web server of the client sends what comes to its root; None for anything more complicated.
    web: Mapping[int, str | None]
    # Ports of the client that are no such web server, in words.
    other: tuple[str, ...]
    # Names and ports that are open to the internet.
    funnel: tuple[str, ...]

    @property
    def ports(self) -> list[int]:
        """Ports of web servers."""
        return sorted(self.web)


@dataclass(frozen=True)
class Client:
    """The client's commands."""

    run: Runner
    binary: str = "tailscale"

    def call(self, *words: str, what: str) -> str:
        """Runs a command that must succeed, and returns what it prints.

        Raises:
            SovereignError: it failed.
        """
        status, out, err = self.run([self.binary, *words])
        if status == 127:
            raise SovereignError(
                f"the tailnet client {self.binary}",
                "it is not on this machine",
                "Install it: tailscale_source says from where.",
            )
        if status != 0:
            said = _KEY.sub("(a key)", err.strip() or out.strip() or "it said nothing")[:2000]
            raise SovereignError(f"`{self.binary} {what}`", f"it ended with {status}: {said}", _remedy(said))
        return out

    def _json(self, *words: str) -> dict[str, Any]:
        text = self.call(*words, what=" ".join(words))
        try:
            found = json.loads(text or "null")
        except ValueError:
            found = text
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise SovereignError(
                f"`{self.binary} {' '.join(words)}`", "what it prints is no JSON object", "Look at its version."
            )
        return found

    def status(self) -> Status:
        """The state of the node and its peers."""
        return Status(self._json("status", "--json"))

    def prefs(self) -> dict[str, Any]:
        """The settings in force. They hold keys in some versions: never to be shown whole."""
        return self._json("debug", "prefs")

    def serve(self) -> Serve:
        """What the client serves."""
        return parse_serve(self._json("serve", "status", "--json"))


def _remedy(said: str) -> str:
    if "failed to connect to local" in said or ("tailscaled" in said and "running" in said):
        return "Start the daemon: systemctl status tailscaled."
    if "invalid key" in said or "API key" in said:
        return "The key is spent, expired, revoked or of another control server: make a new one."
    return "Look at: tailscale status; journalctl -u tailscaled."


def parse_serve(config: Mapping[str, Any]) -> Serve:
    """What a ServeConfig opens. Configurations of foreground sessions and of services count, too."""
    parts = [config, *(config.get("Foreground") or {}).values()]
    web: dict[int, str | None] = {}
    other: list[str] = []
    funnel: list[str] = []
    for part in parts:
        sites = part.get("Web") or {}
        for port_text, handler in sorted((part.get("TCP") or {}).items()):
            port = int(port_text)
            handlers = [
                (site.get("Handlers") or {}) for name, site in sites.items() if name.rpartition(":")[2] == port_text
            ]
            if handler.get("HTTPS") and len(handlers) == 1 and set(handlers[0]) == {"/"}:
                web[port] = handlers[0]["/"].get("Proxy") or None
            elif handler.get("HTTPS") or handler.get("HTTP"):
                web[port] = None
            else:
                other.append(f"TCP port {port} to {handler.get('TCPForward') or 'somewhere'}")
        other += [f"the service {name}" for name in sorted(part.get("Services") or {})]
        funnel += [name for name, on in sorted((part.get("AllowFunnel") or {}).items()) if on]
    return Serve(web, tuple(other), tuple(funnel))


@dataclass(frozen=True)
class Status:
    """The node as ``tailscale status --json`` has it."""

    raw: Mapping[str, Any]

    @property
    def state(self) -> str:
        """NoState, NeedsLogin, NeedsMachineAuth, Stopped, Starting or Running."""
        return str(self.raw.get("BackendState") or "NoState")

    @property
    def _self(self) -> Mapping[str, Any]:
        return self.raw.get("Self") or {}

    @property
    def has_key(self) -> bool:
        """Whether the node was logged in once: a login is then a renewal."""
        return bool(self.raw.get("HaveNodeKey"))

    @property
    def addresses(self) -> list[str]:
        """Its addresses on the tailnet."""
        return [str(address) for address in self.raw.get("TailscaleIPs") or []]

    @property
    def missing_families(self) -> list[str]:
        """``IPv4``, ``IPv6``, both or neither: what it has no address of."""
        have = {"IPv6" if ":" in address else "IPv4" for address in self.addresses}
        return [family for family in ("IPv4", "IPv6") if family not in have]

    @property
    def name(self) -> str:
        """Its full name on the tailnet, without the dot at the end."""
        return str(self._self.get("DNSName") or "").rstrip(".")

    @property
    def tags(self) -> list[str]:
        """The tags that the control server gave it."""
        return sorted(str(tag) for tag in self._self.get("Tags") or [])

    @property
    def health(self) -> list[str]:
        """What the client complains about."""
        return [str(line) for line in self.raw.get("Health") or []]

    @property
    def peer_api(self) -> list[str]:
        """Where the client's own server for peers listens. No packet filter of the machine sees it."""
        return [str(url) for url in self._self.get("PeerAPIURL") or []]

    @property
    def version(self) -> str:
        """The daemon's version, without the part after the hyphen."""
        return str(self.raw.get("Version") or "").partition("-")[0]

    @property
    def key_expiry(self) -> str:
        """When the node's key expires, as it says it; empty when never."""
        return str(self._self.get("KeyExpiry") or "")

    def days_left(self, now: datetime) -> float | None:
        """Days until the key expires, negative when it has; None when it never does.

        Raises:
            SovereignError: the time cannot be read.
        """
        if self._self.get("Expired"):
            return -0.1
        if not self.key_expiry:
            return None
        try:
            moment = datetime.fromisoformat(self.key_expiry)
        except ValueError:
            raise SovereignError(
                "`tailscale status --json`", f"KeyExpiry {self.key_expiry!r} is no time", "Look at its version."
            ) from None
        return (moment - now).total_seconds() / 86400

    def paths(self) -> tuple[list[str], dict[str, str]]:
        """The active peers that are reached directly, and those that only a relay reaches, with its name."""
        direct: list[str] = []
        relayed: dict[str, str] = {}
        for peer in (self.raw.get("Peer") or {}).values():
            if not peer.get("Active"):
                continue
            name = str(peer.get("DNSName") or peer.get("HostName") or "?").rstrip(".")
            if peer.get("CurAddr"):
                direct.append(name)
            elif peer.get("PeerRelay") or peer.get("Relay"):
                relayed[name] = str(peer.get("PeerRelay") or peer.get("Relay"))
        return sorted(direct), dict(sorted(relayed.items()))
