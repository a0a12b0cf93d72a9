# SPDX-License-Identifier: MIT
"""A stand-in for tailscale and tailscaled: the commands, the JSON, and what the daemon does to the packet filter.

No tunnel, no account, no key. The interface ``tailscale0`` is somebody else's (in the lab a network of Docker); this
says that it is Tailscale's, and does to iptables and ip6tables what the real daemon does to them:

* netfilter mode ``on``: the chains ts-input and ts-forward, called first in INPUT and FORWARD. Everything that comes in
  by the interface is accepted there, before UFW is asked;
* ``nodivert``: the chains, called from nowhere;
* ``off``: neither.

The words and shapes are those of tailscale 1.102.3 (github.com/tailscale/tailscale): ipn/ipnstate/ipnstate.go (Status),
ipn/prefs.go (Prefs, NewPrefs), ipn/serve.go (ServeConfig), cmd/tailscale/cli/{up,set,status,ip,version,serve_v2}.go,
util/linuxfw/iptables_runner.go (AddBase, AddHooks, AddExternalCGNATRules), wgengine/router/osrouter/router_linux.go.

Everything it knows is in one JSON file, ``$TAILSCALE_STANDIN_STATE`` or /var/lib/tailscale/standin.json. The verb
``standin`` steers it and is no command of the real client::

    tailscale standin keys KEY...              the keys that the control server accepts
    tailscale standin set PATH JSON            any value of the state, for example: status.BackendState '"NeedsLogin"'
    tailscale standin firewall on|off          whether iptables is touched
    tailscale standin daemon                   what tailscaled.service runs
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

VERSION = "1.102.3"
LONG = f"{VERSION}-tstandin-gstandin"
DEFAULT_SERVER = "https://controlplane.tailscale.com"
SYNONYMS = ("", "https://login.tailscale.com", DEFAULT_SERVER)
MODES = {"off": 0, "nodivert": 1, "on": 2}
#: tsconst: the mark of packets that came in by the tunnel, and its mask.
MARK, CGNAT, CHROME = "0x40000/0xff0000", "100.64.0.0/10", "100.115.92.0/23"
PORT = "41641"
State = dict[str, Any]


class Refused(Exception):
    """What the real client would print before it ends with 1."""


def new_prefs() -> dict[str, Any]:
    """ipn.NewPrefs on Linux, as ``tailscale debug prefs`` prints it."""
    return {
        "ControlURL": "",
        "RouteAll": False,
        "ExitNodeID": "",
        "ExitNodeIP": "",
        "InternalExitNodePrior": "",
        "ExitNodeAllowLANAccess": False,
        "CorpDNS": True,
        "RunSSH": False,
        "RunWebClient": False,
        "WantRunning": False,
        "LoggedOut": False,
        "ShieldsUp": False,
        "AdvertiseTags": None,
        "Hostname": "",
        "NotepadURLs": False,
        "AdvertiseRoutes": None,
        "AdvertiseServices": None,
        "Sync": None,
        "NoSNAT": False,
        "NoStatefulFiltering": True,
        "NetfilterMode": MODES["on"],
        "AutoUpdate": {"Check": True, "Apply": None},
        "AppConnector": {"Advertise": False},
        "PostureChecking": False,
        "NetfilterKind": "",
        "RemoteConfig": False,
        "DriveShares": None,
        "Config": None,
    }


def new_state() -> State:
    """A machine on which the package was installed, and nobody has logged in."""
    return {
        "status": {"BackendState": "NeedsLogin", "HaveNodeKey": False, "Health": []},
        "self": {"KeyExpiry": None, "Tags": [], "Relay": "fra"},
        "peers": {},
        "prefs": new_prefs(),
        "serve": None,
        "keys": [],
        "addresses": [],
        "firewall": True,
        "device": "tailscale0",
        "applied": 0,
    }


def _bool(word: str) -> bool:
    if word not in ("true", "false"):
        raise Refused(f'invalid boolean value "{word}"')
    return word == "true"


def _mode(word: str) -> int:
    if word not in MODES:
        raise Refused(f'invalid value --netfilter-mode="{word}"')
    return MODES[word]


def _list(word: str) -> list[str] | None:
    return word.split(",") if word else None


#: Path in the preferences, and how a flag's word becomes its value (cli/up.go addPrefFlagMapping).
Flag = tuple[str, Callable[[str], Any]]
BOTH: dict[str, Flag] = {
    "accept-dns": ("CorpDNS", _bool),
    "accept-routes": ("RouteAll", _bool),
    "advertise-connector": ("AppConnector.Advertise", _bool),
    "advertise-routes": ("AdvertiseRoutes", _list),
    "exit-node": ("ExitNodeID", str),
    "hostname": ("Hostname", str),
    "netfilter-mode": ("NetfilterMode", _mode),
    "operator": ("OperatorUser", str),
    "report-posture": ("PostureChecking", _bool),
    "shields-up": ("ShieldsUp", _bool),
    "ssh": ("RunSSH", _bool),
}
SET: dict[str, Flag] = BOTH | {
    "auto-update": ("AutoUpdate.Apply", _bool),
    "relay-server-port": ("RelayServerPort", lambda word: int(word) if word else None),
    "remote-config": ("RemoteConfig", _bool),
    "update-check": ("AutoUpdate.Check", _bool),
    "webclient": ("RunWebClient", _bool),
}
UP: dict[str, Flag] = BOTH | {"advertise-tags": ("AdvertiseTags", _list), "login-server": ("ControlURL", str)}
UP_ALONE = {"auth-key", "force-reauth", "reset", "timeout", "accept-risk", "json"}


def place(values: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at a dotted path. A preference that Go leaves out when it is empty is left out."""
    *folders, name = path.split(".")
    for folder in folders:
        values = values.setdefault(folder, {})
    values[name] = value
    if name in ("OperatorUser", "RelayServerPort") and value in ("", None):
        del values[name]


def flags_of(words: Sequence[str], known: Mapping[str, object]) -> dict[str, str]:
    """``--name=value`` and ``--name`` as Go's flag package reads them."""
    given = {}
    for word in words:
        if not word.startswith("-"):
            raise Refused(f'too many non-flag arguments: ["{word}"]')
        name, equals, value = word.lstrip("-").partition("=")
        if name not in known:
            raise Refused(f"flag provided but not defined: -{name}")
        given[name] = value if equals else "true"
    return given


class Node:
    """The state, and what each command does to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: State = new_state()
        if path.is_file():
            self.state |= json.loads(path.read_text(encoding="utf-8"))

    def save(self) -> None:
        """Write the state whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(self.state, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.path)

    # -- what it says

    def addresses(self) -> list[str]:
        """Its addresses, once it is logged in: those of the state, else those of the interface."""
        if self.state["status"]["BackendState"] not in ("Running", "Stopped"):
            return []
        if self.state["addresses"]:
            return list(self.state["addresses"])
        argv = ["ip", "-j", "addr", "show", "dev", self.state["device"]]
        done = subprocess.run(argv, capture_output=True, check=False)
        found = json.loads(done.stdout or "[]")
        return [each["local"] for link in found for each in link["addr_info"] if each["scope"] == "global"]

    def status(self) -> dict[str, Any]:
        """ipnstate.Status."""
        addresses = self.addresses()
        name = self.state["prefs"]["Hostname"] or socket.gethostname()
        running = self.state["status"]["BackendState"] == "Running"
        myself = {
            "ID": "nSTANDIN",
            "NodeID": 1,
            "PublicKey": "nodekey:" + "0" * 64,
            "HostName": name,
            "DNSName": f"{name}.standin.ts.net." if addresses else "",
            "OS": "linux",
            "UserID": 1,
            "TailscaleIPs": addresses or None,
            "Addrs": [] if running else None,
            "CurAddr": "",
            "PeerRelay": "",
            "Online": running,
            "Active": False,
            "PeerAPIURL": None,
            **self.state["self"],
        }
        for optional in ("KeyExpiry", "Tags"):
            if not myself[optional]:
                del myself[optional]
        return {
            "Version": LONG,
            "TUN": True,
            **self.state["status"],
            "AuthURL": "",
            "TailscaleIPs": addresses or None,
            "Self": myself,
            "MagicDNSSuffix": "standin.ts.net" if addresses else "",
            "CurrentTailnet": {"Name": "standin", "MagicDNSSuffix": "standin.ts.net", "MagicDNSEnabled": True}
            if running
            else None,
            "CertDomains": None,
            "Peer": self.state["peers"] or None,
            "User": None,
            "ClientVersion": None,
        }

    # -- what it does

    def _apply(self, prefs: dict[str, Any]) -> None:
        self.state["prefs"] = prefs
        self.state["status"]["BackendState"] = "Running" if prefs["WantRunning"] else "Stopped"
        self.filter(prefs["NetfilterMode"] if prefs["WantRunning"] else MODES["off"])

    def up(self, words: Sequence[str]) -> None:
        """cli/up.go runUp."""
        given = flags_of(words, UP | dict.fromkeys(UP_ALONE))
        prefs, status = self.state["prefs"], self.state["status"]
        if not given and status["BackendState"] == "Stopped":
            self._apply({**prefs, "WantRunning": True})
            return
        wanted = new_prefs() | {"ControlURL": DEFAULT_SERVER, "WantRunning": True}
        for name, word in given.items():
            if name in UP:
                place(wanted, UP[name][0], UP[name][1](word))
        if "reset" not in given and prefs["ControlURL"]:
            self._accident(given, wanted)
        force = "force-reauth" in given
        servers = {prefs["ControlURL"], wanted["ControlURL"]}
        changed = len(servers) > 1 and not servers <= {*SYNONYMS}
        if changed and status["BackendState"] == "Running" and not force:
            raise Refused("can't change --login-server without --force-reauth")
        if status["BackendState"] == "NeedsLogin" or force:
            self._login(given, wanted)
        self._apply(wanted)

    def _accident(self, given: Mapping[str, str], wanted: Mapping[str, Any]) -> None:
        """checkForAccidentalSettingReverts."""
        prefs = self.state["prefs"]
        unsaid = [(name, path) for name, (path, _word) in UP.items() if name not in given]
        missing = [name for name, path in unsaid if _at(prefs, path) != _at(wanted, path)]
        if missing:
            flags = " ".join(f"--{name}" for name in sorted(missing))
            raise Refused(
                "Error: changing settings via 'tailscale up' requires mentioning all\nnon-default flags. To proceed, "
                f"either re-run your command with --reset or\nuse the command below: tailscale up {flags}"
            )

    def _login(self, given: Mapping[str, str], wanted: Mapping[str, Any]) -> None:
        word = given.get("auth-key", "")
        key = Path(word[5:]).read_text(encoding="ascii").strip() if word.startswith("file:") else word
        if not key:
            raise Refused("timeout waiting for Tailscale service to enter a Running state")
        if key.partition("?")[0] not in self.state["keys"]:
            raise Refused("backend error: invalid key: unable to validate API key")
        if key.startswith("tskey-client-") and not wanted["AdvertiseTags"]:
            raise Refused("oauth authkeys require --advertise-tags")
        self.state["status"]["HaveNodeKey"] = True
        self.state["self"]["Tags"] = wanted["AdvertiseTags"] or []
        self.state["self"].pop("Expired", None)
        self.state["logins"] = self.state.get("logins", 0) + 1

    def set(self, words: Sequence[str]) -> None:
        """cli/set.go runSet."""
        prefs = json.loads(json.dumps(self.state["prefs"]))
        for name, word in flags_of(words, SET).items():
            place(prefs, SET[name][0], SET[name][1](word))
        self.state["prefs"] = prefs
        if self.state["status"]["BackendState"] == "Running":
            self.filter(prefs["NetfilterMode"])

    def serve(self, words: Sequence[str]) -> str:
        """cli/serve_v2.go, for web servers on the loopback."""
        if words[:1] == ["status"]:
            return json.dumps(self.state["serve"], indent=2)
        if words == ["reset"]:
            self.state["serve"] = None
            return ""
        options = [word for word in words if word.startswith("--")]
        (target,) = [word for word in words if not word.startswith("--")]
        (port,) = [word.partition("=")[2] for word in options if word.startswith("--https=")]
        config = self.state["serve"] or {}
        site = f"{self.status()['Self']['DNSName'].rstrip('.')}:{port}"
        config.setdefault("TCP", {})[port] = {"HTTPS": True}
        config.setdefault("Web", {})[site] = {"Handlers": {"/": {"Proxy": target}}}
        self.state["serve"] = config
        return ""

    # -- the packet filter

    def filter(self, mode: int) -> None:
        """setNetfilterModeLocked: from whatever is there to ``mode``."""
        self.state["applied"] = mode
        if not self.state["firewall"]:
            return
        device = self.state["device"]
        for program in ("iptables", "ip6tables"):
            tables = [(program, "filter", "INPUT"), (program, "filter", "FORWARD"), (program, "nat", "POSTROUTING")]
            for at in tables:
                while run(*at[:1], "-t", at[1], "-D", at[2], "-j", chain(at[2])):
                    pass
                run(program, "-t", at[1], "-F", chain(at[2]))
                run(program, "-t", at[1], "-X", chain(at[2]))
            if mode == MODES["off"]:
                continue
            for _program, table, name in tables:
                need(program, "-t", table, "-N", chain(name))
                if mode == MODES["on"]:
                    need(program, "-t", table, "-I", name, "1", "-j", chain(name))
            for address in self.addresses():
                if (":" in address) == (program == "ip6tables"):
                    need(program, "-A", "ts-input", "-i", "lo", "-s", address, "-j", "ACCEPT")
            need(program, "-A", "ts-input", "-i", device, "-j", "ACCEPT")
            need(program, "-A", "ts-input", "-p", "udp", "--dport", PORT, "-j", "ACCEPT")
            if program == "iptables":
                need(program, "-A", "ts-input", "!", "-i", device, "-s", CHROME, "-j", "RETURN")
                need(program, "-A", "ts-input", "!", "-i", device, "-s", CGNAT, "-j", "DROP")
            need(program, "-A", "ts-forward", "-i", device, "-j", "MARK", "--set-mark", MARK)
            need(program, "-A", "ts-forward", "-m", "mark", "--mark", MARK, "-j", "ACCEPT")
            if program == "iptables":
                need(program, "-A", "ts-forward", "-o", device, "-s", CGNAT, "-j", "DROP")
            need(program, "-A", "ts-forward", "-o", device, "-j", "ACCEPT")


def _at(values: Mapping[str, Any], path: str) -> Any:
    found: Any = values
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found or None


def chain(name: str) -> str:
    """tsChain: the chain that a main chain calls."""
    return f"ts-{name.lower()}"


def run(*words: str) -> bool:
    """A command that may fail: the chain or rule may not be there."""
    return subprocess.run([words[0], "-w", *words[1:]], capture_output=True, check=False).returncode == 0


def need(*words: str) -> None:
    """A command that must not."""
    done = subprocess.run([words[0], "-w", *words[1:]], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(f"{' '.join(words)}: {done.stderr.strip()}")


def steer(node: Node, words: Sequence[str]) -> None:
    """The verb that the real client does not have."""
    verb, *rest = words
    if verb == "keys":
        node.state["keys"] = rest
    elif verb == "firewall":
        node.state["firewall"] = rest == ["on"]
    elif verb == "set":
        place(node.state, rest[0], json.loads(rest[1]))
    elif verb == "daemon":
        daemon(node)
    else:
        raise Refused(f"standin: no verb {verb}")


def daemon(node: Node) -> None:
    """tailscaled: the rules while it runs, none afterwards (``tailscaled --cleanup``)."""
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    prefs = node.state["prefs"]
    node.filter(prefs["NetfilterMode"] if node.state["status"]["BackendState"] == "Running" else MODES["off"])
    node.save()
    if address := os.environ.get("NOTIFY_SOCKET", ""):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.sendto(b"READY=1", address.replace("@", "\0", 1))
    signal.sigwait(ends)
    again = Node(node.path)
    again.filter(MODES["off"])
    node.state = again.state


def command(node: Node, words: Sequence[str]) -> str:
    """Do one command; what it prints."""
    verb, rest = (words[0] if words else ""), list(words[1:])
    if verb == "status":
        if "--json" in rest:
            return json.dumps(node.status(), indent=2)
        state = node.state["status"]["BackendState"]
        if state != "Running":
            raise Refused({"NeedsLogin": "Logged out.", "Stopped": "Tailscale is stopped."}.get(state, state))
        return "\n".join(f"{address}\t{socket.gethostname()}" for address in node.addresses())
    if verb == "debug" and rest == ["prefs"]:
        return json.dumps(node.state["prefs"], indent="\t")
    if verb == "version":
        meta = {"majorMinorPatch": VERSION, "short": VERSION, "long": LONG, "cap": 141}
        return json.dumps(meta, indent="\t") if "--json" in rest else VERSION
    if verb == "ip":
        families = {"-4": lambda address: ":" not in address, "-6": lambda address: ":" in address}
        found = [address for address in node.addresses() if all(families[word](address) for word in rest)]
        if not found:
            raise Refused(f"no current Tailscale IPs; state: {node.state['status']['BackendState']}")
        return "\n".join(found)
    if verb == "serve":
        return node.serve(rest)
    simple: dict[str, Callable[[], None]] = {
        "up": lambda: node.up(rest),
        "set": lambda: node.set(rest),
        "down": lambda: node._apply({**node.state["prefs"], "WantRunning": False}),
        "logout": lambda: node.state["status"].update(BackendState="NeedsLogin", HaveNodeKey=False),
        "standin": lambda: steer(node, rest),
    }
    if verb not in simple:
        raise Refused(f"tailscale: unknown subcommand: {verb}")
    simple[verb]()
    return ""


def main(words: Sequence[str]) -> int:
    """Entry point."""
    node = Node(Path(os.environ.get("TAILSCALE_STANDIN_STATE", "/var/lib/tailscale/standin.json")))
    try:
        text = command(node, words)
        node.save()
    except (Refused, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if text:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
