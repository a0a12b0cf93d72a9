# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""A node of a tailnet: what is wanted, what is there, and the few commands from one to the other.

A login is made only when one is needed. Everything else is set by itself, so that a run which changes one setting
touches no other, and so that nobody has to log in again for it.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._diff import Differences
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._tokens import clean_token
from ansible_collections.mushishi.sovereign.plugins.module_utils.tailnet.client import (
    NETFILTER_MODES,
    Client,
    Serve,
    Status,
    server_name,
)

# A client secret of an OAuth client: it makes a key by itself, for tagged nodes alone.
_OAUTH = "tskey-client-"
# A tag as the policy file has it.
_TAG = re.compile(r"tag:[a-z][a-z0-9-]{0,62}")
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SERVER = re.compile(r"https?://[A-Za-z0-9.:_\[\]-]+(/[A-Za-z0-9._/-]*)?")
_TARGET = re.compile(r"http://(127\.0\.0\.1|localhost):([0-9]{1,5})")

# How often a state that will pass by itself is looked at, in seconds.
POLL_SECONDS = 0.5
_PASSING = ("NoState", "Starting")


@dataclass(frozen=True)
class Wanted:
    """The node as the task wants it."""

    login_server: str
    tags: tuple[str, ...]
    hostname: str
    accept_dns: bool
    accept_routes: bool
    shields_up: bool
    netfilter_mode: str
    serve: Mapping[int, str]
    auth_key: str | None = field(repr=False)
    auth_key_file: str | None
    reauth: bool
    timeout: int
    key_expiry_days: int


@dataclass(frozen=True)
class Setting:
    """One setting: the flag of ``tailscale set``, its place in the preferences, the value there, and in the flag."""

    flag: str
    place: tuple[str, ...]
    value: Any
    text: str
    # A client that does not have the setting does not write its place; it then needs nothing.
    optional: bool = False
    # Whether ``tailscale up`` knows the flag, too.
    in_up: bool = False

    def found(self, prefs: Mapping[str, Any]) -> Any:
        """The value in force; None when the preferences do not hold it."""
        value: Any = prefs
        for name in self.place:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def differs(self, prefs: Mapping[str, Any]) -> bool:
        """Whether it has to be set. Nothing, no list and an empty word are the same."""
        found = self.found(prefs)
        if found is None and self.optional:
            return False
        if self.value in ("", []):
            return bool(found)
        return bool(found != self.value)


def _switch(flag: str, place: str, value: bool, *, optional: bool = False, in_up: bool = False) -> Setting:
    return Setting(flag, tuple(place.split(".")), value, str(value).lower(), optional, in_up)


def settings(wanted: Wanted) -> list[Setting]:
    """All settings. What a task cannot choose is off: each would be a door or a way out that nobody declared here."""
    mode = wanted.netfilter_mode
    return [
        _switch("accept-dns", "CorpDNS", wanted.accept_dns, in_up=True),
        _switch("accept-routes", "RouteAll", wanted.accept_routes, in_up=True),
        _switch("shields-up", "ShieldsUp", wanted.shields_up, in_up=True),
        Setting("hostname", ("Hostname",), wanted.hostname, wanted.hostname, in_up=True),
        Setting("netfilter-mode", ("NetfilterMode",), NETFILTER_MODES[mode], mode, in_up=True),
        # Its own SSH server and web page are answered inside the client, past every packet filter.
        _switch("ssh", "RunSSH", False, in_up=True),
        _switch("webclient", "RunWebClient", False, optional=True),
        # The control server may not change what stands here.
        _switch("remote-config", "RemoteConfig", False, optional=True),
        _switch("report-posture", "PostureChecking", False, optional=True, in_up=True),
        # The package is pinned; not set is "as the tailnet says".
        _switch("auto-update", "AutoUpdate.Apply", False),
        _switch("update-check", "AutoUpdate.Check", False),
        # No router, no exit, no relay for others.
        Setting("advertise-routes", ("AdvertiseRoutes",), [], "", in_up=True),
        _switch("advertise-connector", "AppConnector.Advertise", False, optional=True, in_up=True),
        Setting("exit-node", ("ExitNodeID",), "", "", in_up=True),
        Setting("relay-server-port", ("RelayServerPort",), None, "", optional=True),
        # Root alone gives it orders.
        Setting("operator", ("OperatorUser",), "", "", in_up=True),
    ]


def wanted_from(params: Mapping[str, Any]) -> Wanted:
    """Checks the options.

    Raises:
        SovereignError: one that no node can have.
    """
    server = params["login_server"]
    if server and not _SERVER.fullmatch(server):
        raise SovereignError("login_server", f"{server!r} is no address of a server", "Write https://headscale.example.")
    for tag in params["tags"]:
        if not _TAG.fullmatch(tag):
            raise SovereignError(f"tag {tag!r}", "that is no tag", 'Write it as in "tag:sovereign".')
    if params["hostname"] and not _HOSTNAME.fullmatch(params["hostname"]):
        raise SovereignError("hostname", f"{params['hostname']!r} is no name", "Use a-z, 0-9 and -, up to 63 of them.")
    if params["auth_key"] and params["auth_key_file"]:
        raise SovereignError("auth_key", "there is auth_key_file, too", "Give one of them.")
    key = clean_token(params["auth_key"].encode("utf-8"), "auth_key") if params["auth_key"] else None
    if key and key.startswith("file:"):
        raise SovereignError("auth_key", "it names a file", "Put the path into auth_key_file.")
    _check_oauth(key, params["tags"])
    if not 1 <= params["timeout"] <= 3600:
        raise SovereignError("timeout", f"{params['timeout']} is out of range", "Use 1 to 3600 seconds.")
    return Wanted(
        server_name(server),
        tuple(sorted(set(params["tags"]))),
        params["hostname"],
        params["accept_dns"],
        params["accept_routes"],
        params["shields_up"],
        params["netfilter_mode"],
        _serve_from(params["serve"]),
        key,
        params["auth_key_file"],
        params["reauth"],
        params["timeout"],
        params["key_expiry_days"],
    )


def _check_oauth(key: str | None, tags: Sequence[str]) -> None:
    if key and key.startswith(_OAUTH) and not tags:
        raise SovereignError(
            "auth_key",
            "the secret of an OAuth client makes keys for tagged nodes alone, and no tag is given",
            "Set tags (tailscale_tags) to tags that the OAuth client owns.",
        )


def _serve_from(entries: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    serve: dict[int, str] = {}
    for entry in entries:
        port, target = entry["port"], entry["target"]
        found = _TARGET.fullmatch(target)
        if not 1 <= port <= 65535 or found is None or not 1 <= int(found[2]) <= 65535:
            raise SovereignError(
                f"serve {port} → {target}",
                "only a port of the tailnet and a service on this machine's loopback can be joined",
                "Write {port: 443, target: 'http://127.0.0.1:6006'}.",
            )
        if port in serve:
            raise SovereignError(f"serve {port}", "the port is named twice", "Name it once.")
        serve[port] = target
    return serve


@dataclass(frozen=True)
class Plan:
    """What has to be done: each part may be empty."""

    differences: Differences
    login: bool
    force: bool
    start: bool
    set: Sequence[Setting]
    serve: Sequence[int]

    @property
    def changed(self) -> bool:
        """Whether anything has to be done."""
        return self.differences.changed


def plan(wanted: Wanted, status: Status, prefs: Mapping[str, Any], serve: Serve) -> Plan:
    """Compares, once, for both ``changed`` and ``diff``.

    Raises:
        SovereignError: it cannot be had without an order that was not given, or is refused whatever the order.
    """
    _refuse_serve(wanted, serve)
    differences = Differences()
    login, force = _login(wanted, status, prefs)
    differences.compare("state", status.state, "Running")
    if force or (login and prefs.get("ControlURL")):
        differences.compare("login server", server_name(str(prefs.get("ControlURL") or "")), wanted.login_server)
    if force:
        differences.compare("tags", _tags(status, prefs), list(wanted.tags))
        differences.compare("login", "as it is", "anew")
    changes = []
    for setting in settings(wanted):
        if setting.differs(prefs):
            differences.compare(setting.flag, setting.found(prefs), setting.value)
            changes.append(setting)
    ports = []
    for port, target in sorted(wanted.serve.items()):
        if differences.compare(f"serve {port}", serve.web.get(port, "nothing"), target):
            ports.append(port)
    return Plan(differences, login, force, status.state == "Stopped" and not login, changes, ports)


def _refuse_serve(wanted: Wanted, serve: Serve) -> None:
    if serve.funnel:
        raise SovereignError(
            "the tailnet client",
            f"funnel opens {', '.join(serve.funnel)} to the whole internet",
            "Close it: tailscale funnel reset. Nothing of this machine is served to the internet.",
        )
    unknown = [port for port in serve.ports if port not in wanted.serve]
    strangers = [f"port {port} to {serve.web[port] or 'several places'}" for port in unknown]
    if strangers or serve.other:
        raise SovereignError(
            "the tailnet client",
            f"it serves what nobody declared: {', '.join([*strangers, *serve.other])}. That passes by the guard and "
            "UFW, because the client answers by itself",
            "Declare it in tailscale_serve, or take it away: tailscale serve reset.",
        )


def _tags(status: Status, prefs: Mapping[str, Any]) -> list[str]:
    """The tags in force: those that the control server gave, else those that were asked for."""
    return status.tags or sorted(prefs.get("AdvertiseTags") or [])


def _login(wanted: Wanted, status: Status, prefs: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a login is needed, and whether it takes the place of one that is there.

    Raises:
        SovereignError: it would take a place, and nobody has ordered that.
    """
    if status.state == "NeedsLogin":
        return True, status.has_key
    if status.state == "NeedsMachineAuth":
        raise SovereignError(
            "this node", "the control server waits until an admin approves it", "Approve it there, then run again."
        )
    if status.state in _PASSING:
        raise SovereignError(
            "this node",
            f"its state is {status.state} after {wanted.timeout} seconds",
            "Can it reach its control server? journalctl -u tailscaled.",
        )
    there = server_name(str(prefs.get("ControlURL") or ""))
    reasons = []
    if there != wanted.login_server:
        reasons.append(f"it is logged in at {there} and {wanted.login_server} is wanted")
    if wanted.tags and set(_tags(status, prefs)) != set(wanted.tags):
        has = ", ".join(_tags(status, prefs)) or "none"
        reasons.append(f"its tags are {has} and {', '.join(wanted.tags)} are wanted")
    if reasons and not wanted.reauth:
        raise SovereignError(
            "this node",
            f"{'; '.join(reasons)}. That takes a new login: the node gets a new key, and with another server new "
            "addresses and a new name; every connection over the tailnet ends, this one too if it is one, and if the "
            "login fails the machine is off the tailnet until somebody stands before it",
            "If that is wanted and there is another way to the machine, run once with -e tailscale_reauth=true and a "
            "key.",
        )
    return bool(reasons), bool(reasons)


def check_key(wanted: Wanted) -> None:
    """Is there a key to log in with?

    Raises:
        SovereignError: there is none, or the given file is no place for one.
    """
    if wanted.auth_key_file is not None:
        _check_file(wanted.auth_key_file, wanted.tags)
    elif wanted.auth_key is None:
        raise SovereignError(
            "this node",
            "it needs a login and no key is given",
            "Set tailscale_auth_key (vault), tailscale_oauth_secret with tailscale_tags, or tailscale_auth_key_file.",
        )


@contextlib.contextmanager
def key_file(wanted: Wanted, folder: str) -> Iterator[str]:
    """The path of a file with the key. A key that was given is in a file of root's alone for as long as this lasts."""
    if wanted.auth_key_file is not None:
        yield wanted.auth_key_file
        return
    # mkstemp makes it 0600; the folder is in memory, so that no disk keeps the key.
    descriptor, path = tempfile.mkstemp(prefix="mushishi-tailnet-", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write((wanted.auth_key or "").encode("ascii"))
        yield path
    finally:
        os.unlink(path)


def _check_file(path: str, tags: Sequence[str]) -> None:
    thing = f"auth_key_file {path}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise SovereignError(thing, f"it cannot be read ({error.strerror})", "Put the key there, mode 0600.") from None
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid != os.geteuid():
            remedy = f"chown root {path}; chmod 600 {path}"
            raise SovereignError(thing, "others may read it, or it is not root's own", remedy)
        key = clean_token(stream.read(4096), thing)
    if not key:
        raise SovereignError(thing, "it is empty", "Put the key there.")
    _check_oauth(key, tags)


def up_command(wanted: Wanted, binary: str, path: str, *, force: bool) -> list[str]:
    """The login. ``up`` takes what is not said for its default, so everything that it knows is said."""
    words = [binary, "up", "--reset", f"--auth-key=file:{path}", f"--login-server={wanted.login_server}"]
    words += [f"--advertise-tags={','.join(wanted.tags)}"] if wanted.tags else []
    words += [f"--{setting.flag}={setting.text}" for setting in settings(wanted) if setting.in_up]
    # Asked for by name, so it does not ask once more.
    words += ["--force-reauth", "--accept-risk=lose-ssh"] if force else []
    return [*words, f"--timeout={wanted.timeout}s"]


def set_command(binary: str, changes: Sequence[Setting]) -> list[str]:
    """The settings that differ, and no other."""
    return [binary, "set", *(f"--{setting.flag}={setting.text}" for setting in changes)]


def settled(client: Client, timeout: int, sleep: Any = time.sleep, clock: Any = time.monotonic) -> Status:
    """The status once the client has made up its mind: just after its start it has not. Bounded by ``timeout``."""
    end = clock() + timeout
    while True:
        status = client.status()
        if status.state not in _PASSING or clock() >= end:
            return status
        # The client tells its state to programs that ask, and to no other.
        sleep(POLL_SECONDS)


def ensure(
    wanted: Wanted,
    client: Client,
    *,
    check_mode: bool,
    key_folder: str = "/run",
    now: datetime | None = None,
) -> dict[str, Any]:
    """Brings the node to what is wanted, and returns the module's result with ``warnings`` in it.

    Raises:
        SovereignError: it is refused, cannot be had, or did not become what was wanted.
    """
    status = settled(client, wanted.timeout)
    made = plan(wanted, status, client.prefs(), client.serve())
    if made.login:
        check_key(wanted)
    if made.changed and not check_mode:
        # A node that was stopped is put right before it is on the tailnet again.
        if made.set and not made.login:
            client.call(*set_command(client.binary, made.set)[1:], what="set")
        if made.login:
            with key_file(wanted, key_folder) as path:
                client.call(*up_command(wanted, client.binary, path, force=made.force)[1:], what="up")
            # A login leaves what `up` does not know at its default.
            after = client.prefs()
            late = [setting for setting in settings(wanted) if setting.differs(after)]
            if late:
                client.call(*set_command(client.binary, late)[1:], what="set")
        elif made.start:
            status_code, out, err = client.run(["timeout", str(wanted.timeout), client.binary, "up"])
            if status_code != 0:
                said = (err or out).strip() or f"it ended with {status_code}"
                raise SovereignError("`tailscale up`", said, "Look at: tailscale status.")
        for port in made.serve:
            client.call("serve", "--bg", "--yes", f"--https={port}", wanted.serve[port], what="serve")
        status = settled(client, wanted.timeout)
        _confirm(wanted, status, client)
    return {
        "changed": made.changed,
        "diff": made.differences.diff("tailnet node"),
        **report(wanted, status, now or datetime.now(timezone.utc)),
    }


def _confirm(wanted: Wanted, status: Status, client: Client) -> None:
    """Raises an error when what was done did not bring what is wanted."""
    left = plan(wanted, status, client.prefs(), client.serve())
    if left.changed:
        before = left.differences.diff("")["before"]
        shown = ", ".join(f"{name} is {before[name]!r}" for name in left.differences.names)
        raise SovereignError("this node", f"after all was set, {shown}", "Look at: tailscale debug prefs.")


def report(wanted: Wanted, status: Status, now: datetime) -> dict[str, Any]:
    """What is worth knowing of the node, and what a person should be told about it."""
    days = status.days_left(now)
    direct, relayed = status.paths()
    # Without an active peer nobody can say how peers are reached.
    relay_only = None if not direct and not relayed else not direct
    return {
        "backend_state": status.state,
        "addresses": status.addresses,
        "name": status.name,
        "tags": status.tags,
        "version": status.version,
        "key_expires": status.key_expiry,
        "key_days_left": None if days is None else round(days, 1),
        "relay_only": relay_only,
        "relayed_peers": relayed,
        "peer_api": status.peer_api,
        "health": status.health,
        "warnings": _warnings(wanted, status, days, relay_only, relayed),
    }


def _warnings(
    wanted: Wanted, status: Status, days: float | None, relay_only: bool | None, relayed: Mapping[str, str]
) -> list[str]:
    found = []
    if days is not None and days <= 0:
        found.append(
            "The key of this node on the tailnet has expired: the machine has no door until it is renewed "
            "(-e tailscale_reauth=true with a key)."
        )
    elif days is not None and days <= wanted.key_expiry_days:
        found.append(
            f"The key of this node on the tailnet expires in {days:.0f} days ({status.key_expiry}); then the machine "
            "has no door. Tag the node (then it never expires), switch the expiry off in the admin console, or log in "
            "again."
        )
    if status.state == "Running":
        found += [f"This node has no {family} address on the tailnet." for family in status.missing_families]
    if relay_only:
        through = ", ".join(sorted(set(relayed.values())))
        found.append(
            f"Every active peer is reached through a relay alone ({through}): slower, and still end-to-end encrypted. "
            "A direct way needs UDP out of both networks."
        )
    found += [f"The tailnet client says: {line}" for line in status.health]
    return found
