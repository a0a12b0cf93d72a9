# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""Would the login that runs this program still work under stricter rules?"""

from __future__ import annotations

import base64
import binascii
import grp
import ipaddress
import os
import pwd
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.mushishi.sovereign.plugins.module_utils._login import Login

# Key types that the role's settings accept, as an authorized_keys line names them.
ACCEPTED = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)
RSA_BITS = 3072


@dataclass(frozen=True)
class Rules:
    """What will hold for logins."""

    networks: tuple[str, ...]
    users: tuple[str, ...]
    groups: tuple[str, ...]


def rsa_bits(blob: bytes) -> int:
    """Length of an RSA key's modulus; 0 for a blob that is none."""
    fields = []
    try:
        while blob:
            (length,) = struct.unpack_from(">I", blob)
            fields.append(blob[4 : 4 + length])
            blob = blob[4 + length :]
    except struct.error:
        return 0
    return int.from_bytes(fields[2], "big").bit_length() if len(fields) == 3 and fields[0] == b"ssh-rsa" else 0


def usable_keys(text: str) -> int:
    """How many lines of an authorized_keys file hold a key that is accepted."""
    count = 0
    for line in text.splitlines():
        words = line.split()
        kind = next((at for at, word in enumerate(words) if word in ACCEPTED), None)
        if line.lstrip().startswith("#") or kind is None or kind + 1 >= len(words):
            continue
        # An authority signs certificates and is no key of a person; options stand before the type.
        if "cert-authority" in " ".join(words[:kind]):
            continue
        try:
            blob = base64.b64decode(words[kind + 1], validate=True)
        except (binascii.Error, ValueError):
            continue
        if words[kind] != "ssh-rsa" or rsa_bits(blob) >= RSA_BITS:
            count += 1
    return count


def effective(text: str) -> dict[str, str]:
    """Keyword → value of what ``sshd -T`` prints; of a keyword that comes twice the last."""
    pairs = (line.partition(" ") for line in text.splitlines() if line)
    return {keyword: value for keyword, _space, value in pairs}


def asked(login: Login, run: Callable[[Sequence[str]], tuple[int, str, str]], sshd: str) -> dict[str, str]:
    """What sshd does now for this login; nothing where there is no sshd."""
    for option in (["-C", f"user={login.user},host={login.address},addr={login.address}"], []):
        status, out, _err = run([sshd, "-T", *option])
        if status == 0:
            return effective(out)
    return {}


def key_files(pattern: str, user: str, home: str, uid: int) -> list[str]:
    """The files behind AuthorizedKeysFile for a user."""
    found = []
    for word in pattern.split():
        if word == "none":
            continue
        path = word.replace("%%", "\0").replace("%h", home).replace("%u", user).replace("%U", str(uid))
        path = path.replace("\0", "%")
        found.append(path if path.startswith("/") else os.path.join(home, path))
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(1 << 20)
    except OSError:
        return ""


def allowed_from(address: str, networks: Iterable[str]) -> bool:
    """Whether an address is the machine's own loopback or in one of the networks."""
    one = ipaddress.ip_address(address.split("%")[0])
    mapped = getattr(one, "ipv4_mapped", None)
    one = one if mapped is None else mapped
    if one.is_loopback:
        return True
    ranges = [ipaddress.ip_network(network, strict=False) for network in networks]
    return any(one.version == each.version and one in each for each in ranges)


def _groups_of(user: str, gid: int) -> set[str]:
    names = set()
    for number in os.getgrouplist(user, gid):
        try:
            names.add(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    return names


def key_reason(login: Login, settings: Mapping[str, str]) -> str:
    """Why a login would not be let in by its keys; empty when it would, or when nobody can tell."""
    try:
        account = pwd.getpwnam(login.user)
    except KeyError:
        return f"there is no user {login.user!r} on the machine"
    pattern = settings.get("authorizedkeysfile", ".ssh/authorized_keys")
    files = key_files(pattern, login.user, account.pw_dir, account.pw_uid)
    # Another program, or an authority, may answer for the keys; nobody can tell what it would say.
    elsewhere = [settings.get(name, "none") for name in ("authorizedkeyscommand", "trustedusercakeys")]
    if any(word not in ("none", "") for word in elsewhere) or any(usable_keys(_read(path)) for path in files):
        return ""
    return (
        f"{login.user} has no key that would be accepted (ed25519, ecdsa, or RSA of {RSA_BITS} bits) in "
        f"{' or '.join(files)}"
    )


def reasons(login: Login | None, rules: Rules, settings: Mapping[str, str]) -> list[str]:
    """Why this login would not work under the rules, one sentence each. ``settings``: what sshd does now."""
    if login is None:
        return []
    found = []
    if login.user == "root":
        found.append("it is root's, and root does not log in: connect as another user and use become")
    try:
        account = pwd.getpwnam(login.user)
    except KeyError:
        return [*found, f"there is no user {login.user!r} on the machine"]
    if reason := key_reason(login, settings):
        found.append(reason)
    if rules.users and login.user not in rules.users:
        found.append(f"{login.user} is not in ssh_allow_users")
    if rules.groups and not _groups_of(login.user, account.pw_gid) & set(rules.groups):
        found.append(f"{login.user} is in none of ssh_allow_groups")
    if not allowed_from(login.address, rules.networks):
        found.append(f"it comes from {login.address}, which is in none of ssh_client_networks")
    return found
