# SPDX-License-Identifier: MIT
"""Reports that cannot be changed unseen: each carries the hash of the one before and a signature by the machine's key.

Signatures are OpenSSH's (``ssh-keygen -Y``), so that a reader elsewhere needs nothing of ours. What is signed is the
JSON, in one canonical form; it holds the hash of the Markdown, line by line. ``HEAD.json``, signed too, names the last
record.

Not to be found out from a folder alone: that its end was cut off *and* an old ``HEAD.json`` put back, or that somebody
with the key (root) wrote the whole anew. A report that was handed out earlier shows both: ``holds`` of :func:`verify`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

FOLDER = Path("/var/lib/mushishi/audit")
KEY = Path("/etc/mushishi/secrets/audit.key")
NAMESPACE = "mushishi-audit@sovereign"
PRINCIPAL = "mushishi-audit"
PUBLIC, SIGNERS, HEAD = "audit.pub", "allowed_signers", "HEAD.json"
REPORT, ROTATION = "report", "rotation"
PREFIXES = {REPORT: "AUDIT", ROTATION: "KEY"}
NAME = re.compile(r"(AUDIT|KEY)-\d{8}T\d{6}Z")
BEGIN, END = b"-----BEGIN SSH SIGNATURE-----\n", b"-----END SSH SIGNATURE-----\n"
LINE_DIGITS = 16  # of a line's sha256: it only names the line; the whole is held by the full hash

Document = dict[str, Any]
#: Gets what the chain says of the new report, gives the report's own fields and its Markdown.
Maker = Callable[[Mapping[str, Any]], tuple[Document, str]]


class ChainError(Exception):
    """Nothing was written: what is in the way, and the remedy."""


@dataclass(frozen=True)
class Fault:
    """What is wrong, in which file, at which line or field."""

    file: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}{', ' if self.where else ''}{self.where}: {self.what}"


@dataclass
class Verified:
    """A chain that was looked at: ``records`` in their order, the key in force at its end, and what is wrong."""

    records: list[Document] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all of it holds."""
        return not self.faults


# ---- the canonical form
def clean(value: Any) -> Any:
    """The same with text for keys, lists for sequences, and no half characters, which UTF-8 cannot hold."""
    if isinstance(value, Mapping):
        return {clean(str(key)): clean(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(one) for one in value]
    if isinstance(value, str):
        return str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def canonical(value: Any) -> bytes:
    """The one way to write a value: sorted keys, fixed separators, one field a line, UTF-8, a line's end at the end.

    Raises:
        ValueError: a number that JSON has no word for.
    """
    text = json.dumps(value, sort_keys=True, indent=1, separators=(",", ": "), ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")


def sha256(data: bytes) -> str:
    """In hex."""
    return hashlib.sha256(data).hexdigest()


def line_marks(text: str) -> list[str]:
    """The beginning of each line's hash."""
    return [sha256(line.encode("utf-8"))[:LINE_DIGITS] for line in text.split("\n")]


def field_marks(document: Mapping[str, Any]) -> Document:
    """The beginning of each field's hash, of each row's where a field is a list: they name what was edited."""
    marks: Document = {}
    for name, value in document.items():
        if name != "marks":
            each = value if isinstance(value, list) else [value]
            found = [sha256(canonical(one))[:LINE_DIGITS] for one in each]
            marks[name] = found if isinstance(value, list) else found[0]
    return marks


def edited(document: Mapping[str, Any]) -> list[str]:
    """Fields that are not as they were when they were marked."""
    said, found = document.get("marks"), field_marks(document)
    if not isinstance(said, dict):
        return ["marks"]
    names = [name for name in sorted({*said, *found}) if said.get(name) != found.get(name)]
    places = []
    for name in names:
        old, new = said.get(name), found.get(name)
        if isinstance(old, list) and isinstance(new, list):
            length = max(len(old), len(new))
            places += [f"{name}[{i}]" for i in range(length) if old[i : i + 1] != new[i : i + 1]]
        else:
            places.append(name)
    return places


# ---- OpenSSH
def ssh_keygen(*argv: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run it without a terminal and without an agent.

    Raises:
        ChainError: there is no such program.
    """
    given = {name: value for name, value in os.environ.items() if not name.startswith("SSH_")}
    words = ["ssh-keygen", *(str(word) for word in argv)]
    try:
        return subprocess.run(words, input=stdin, capture_output=True, check=False, timeout=60, env=given)
    except FileNotFoundError:
        raise ChainError("ssh-keygen is not installed. Install the package openssh-client.") from None


def parse_public(text: str) -> str:
    """Type and body of a public key's line, its comment left out.

    Raises:
        ChainError: it is none, or not of the kind that is used here.
    """
    words = text.split()
    try:
        blob = base64.b64decode(words[1], validate=True)
        whole = words[0] == "ssh-ed25519" and len(blob) == 51 and blob.startswith(b"\0\0\0\x0bssh-ed25519\0\0\0 ")
    except (IndexError, binascii.Error):
        whole = False
    if not whole:
        raise ChainError("This is no public key of the kind ssh-ed25519.")
    return f"{words[0]} {words[1]}"


def fingerprint(public: str) -> str:
    """As OpenSSH prints it."""
    blob = base64.b64decode(public.split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def public_of(key: Path) -> str:
    """The public half of a private key.

    Raises:
        ChainError: it cannot be read, or others can read it.
    """
    try:
        mode = key.stat().st_mode & 0o077
    except OSError as error:
        raise ChainError(f"The key {key} cannot be read ({error.strerror}). Run the role audit, or be root.") from None
    if mode:
        raise ChainError(f"The key {key} can be read by others than its owner. chmod 600 it, and rotate it.")
    done = ssh_keygen("-y", "-P", "", "-f", key)
    if done.returncode != 0:
        raise ChainError(f"The key {key} is unusable ({done.stderr.decode('utf-8', 'replace').strip()[:200]}).")
    return parse_public(done.stdout.decode("ascii", "replace"))


def make_key(key: Path) -> str:
    """Make a key where none is; its public half. A key that is there stays."""
    if not key.exists():
        with tempfile.TemporaryDirectory(prefix=".audit-key-", dir=key.parent) as folder:
            made = Path(folder) / "key"
            done = ssh_keygen("-q", "-t", "ed25519", "-N", "", "-C", PRINCIPAL, "-f", made)
            if done.returncode != 0:
                raise ChainError(f"No key could be made: {done.stderr.decode('utf-8', 'replace').strip()[:200]}")
            with contextlib.suppress(FileExistsError):
                os.link(made, key)
        sync(key.parent)
    return public_of(key)


def armour(blob: bytes) -> bytes:
    """A signature in the one way that is accepted here."""
    body = base64.b64encode(blob).decode()
    lines = "".join(f"{body[i : i + 70]}\n" for i in range(0, len(body), 70))
    return BEGIN + lines.encode() + END


def signer(signature: bytes) -> str:
    """The public key that a signature says it was made with. Every byte of it must be as ssh-keygen writes it.

    Raises:
        ValueError: it is no signature of ours, or has more in it than is signed.
    """
    if not (signature.startswith(BEGIN) and signature.endswith(END)):
        raise ValueError("it is no SSH signature")
    try:
        blob = base64.b64decode(signature[len(BEGIN) : -len(END)].replace(b"\n", b""), validate=True)
    except binascii.Error:
        raise ValueError("it is no SSH signature") from None
    if armour(blob) != signature or blob[:10] != b"SSHSIG\0\0\0\1":
        raise ValueError("it is not written as ssh-keygen writes it")
    rest, parts = blob[10:], []
    while rest:
        length = int.from_bytes(rest[:4], "big")
        if len(rest) < 4 + length:
            raise ValueError("it is cut off")
        parts.append(rest[4 : 4 + length])
        rest = rest[4 + length :]
    if len(parts) != 5 or parts[1:4] != [NAMESPACE.encode(), b"", b"sha512"]:
        raise ValueError(f"it was made for something else than {NAMESPACE}")
    try:
        return parse_public("ssh-ed25519 " + base64.b64encode(parts[0]).decode())
    except ChainError:
        raise ValueError("it was made with a key of another kind") from None


def sign(key: Path, data: bytes) -> bytes:
    """A signature over ``data``."""
    done = ssh_keygen("-Y", "sign", "-q", "-f", key, "-n", NAMESPACE, stdin=data)
    if done.returncode != 0:
        raise ChainError(f"Nothing could be signed with {key}: {done.stderr.decode('utf-8', 'replace').strip()[:200]}")
    body = done.stdout.replace(BEGIN, b"").replace(END, b"").replace(b"\n", b"")
    signature = armour(base64.b64decode(body))
    signer(signature)
    return signature


def signers(publics: Sequence[str]) -> str:
    """The file that ``ssh-keygen -Y verify -f`` reads."""
    return "".join(f'{PRINCIPAL} namespaces="{NAMESPACE}" {public}\n' for public in publics)


def check_signature(data: bytes, signature: bytes, public: str) -> str:
    """What is wrong with a signature over ``data`` by ``public``; empty when nothing is."""
    try:
        by = signer(signature)
    except ValueError as error:
        return str(error)
    if by != public:
        return f"it was made with another key, {fingerprint(by)}, where {fingerprint(public)} is in force"
    with tempfile.TemporaryDirectory(prefix="mushishi-verify-") as name:
        folder = Path(name)
        (folder / "signers").write_text(signers([public]), encoding="ascii")
        (folder / "sig").write_bytes(signature)
        words = ("-Y", "verify", "-f", folder / "signers", "-I", PRINCIPAL, "-n", NAMESPACE, "-s", folder / "sig")
        done = ssh_keygen(*words, stdin=data)
    return "" if done.returncode == 0 else "it does not fit what was signed"


# ---- files
def sync(folder: Path) -> None:
    """Make what was renamed in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def place(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    part.rename(path)
    sync(path.parent)


def stamp(moment: float) -> str:
    """A moment in UTC, as it stands in names."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment))


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """One writer at a time."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_head(folder: Path) -> Document | None:
    """What the head says, as it stands there; None where there is none.

    Raises:
        ValueError: it is not written as it must be.
    """
    try:
        data = (folder / HEAD).read_bytes()
    except FileNotFoundError:
        return None
    head = json.loads(data)
    if not isinstance(head, dict) or set(head) != {"record", "signature"} or canonical(head) != data:
        raise ValueError("it is not in the canonical form")
    if not isinstance(head["record"], dict) or set(head["record"]) != {"key", "name", "sequence", "sha256"}:
        raise ValueError("it has other fields than a head")
    return head


def files_of(name: str, kind: str) -> list[str]:
    """The files of one record; the JSON, which makes it whole, last."""
    return [f"{name}.md" if kind == REPORT else f"{name}.new.sig", f"{name}.sig", f"{name}.json"]


class Chain:
    """A folder of reports and the key that signs them, for the one who writes."""

    def __init__(self, folder: Path = FOLDER, key: Path = KEY, now: Callable[[], float] = time.time) -> None:
        self.folder, self.key, self._now = folder, key, now

    # ---- what is there
    def _head(self) -> Document | None:
        """The signed end of the chain, in force with the key that is here; None before the first report."""
        try:
            head = read_head(self.folder)
        except ValueError as error:
            raise self._broken(f"{HEAD}: {error}") from None
        if head is None:
            if any(NAME.match(path.name) for path in self.folder.iterdir()):
                raise self._broken(f"{HEAD} is missing")
            return None
        public = public_of(self.key)
        # A change of the key that was killed before its last step: the record and the head are there.
        if str(head["record"]["name"]).startswith(PREFIXES[ROTATION]) and public not in self._signers():
            self._publish(public)
        wrong = check_signature(canonical(head["record"]), str(head["signature"]).encode("ascii", "replace"), public)
        if wrong:
            raise self._broken(f"{HEAD}: the signature: {wrong}")
        return dict(head["record"]) if head["record"]["sequence"] else None

    def _broken(self, what: str) -> ChainError:
        return ChainError(
            f"The chain in {self.folder} is broken ({what}), so nothing was added to it. `mushishi-audit verify` says "
            "where; to begin a new chain, move the folder away and keep it."
        )

    def _recover(self) -> None:
        """What a killed run left: a rotation whose record is there is finished, half a report is set aside."""
        following = self.key.with_name(f"{self.key.name}.next")
        head = self._raw_head()
        for path in sorted(self.folder.glob(".*.part")):
            path.unlink()
        known = self._names_until(head)
        for path in sorted(self.folder.glob("KEY-*.json")):
            document = json.loads(path.read_bytes()) if path.stem not in known else {}
            if following.exists() and document.get("new", {}).get("public") == public_of(following):
                self._take_over(document, following)
                return
        if following.exists() and head and head["record"]["key"] == fingerprint(public_of(following)):
            following.replace(self.key)
            sync(self.key.parent)
            self._publish(public_of(self.key))
            return
        following.unlink(missing_ok=True)
        strays = [path for path in self.folder.iterdir() if (m := NAME.match(path.name)) and m[0] not in known]
        if strays and head is not None:
            aside = self.folder / f"unfinished-{stamp(self._now())}"
            aside.mkdir(mode=0o700, exist_ok=True)
            for path in strays:
                path.rename(aside / path.name)

    def _begin(self) -> None:
        """A head that says that nothing was written yet, so that reports without a head are always a fault."""
        if self._raw_head() is None and not any(NAME.match(path.name) for path in self.folder.iterdir()):
            self._publish(public_of(self.key))
            self._set_head({"name": "", "sequence": 0}, "", self.key)

    def _raw_head(self) -> Document | None:
        try:
            return read_head(self.folder)
        except ValueError as error:
            raise self._broken(f"{HEAD}: {error}") from None

    def _names_until(self, head: Document | None) -> set[str]:
        """The names of the records that the head leads to, as far as they can be followed."""
        names: set[str] = set()
        name = str(head["record"]["name"]) if head else ""
        while name and name not in names:
            names.add(name)
            try:
                before = json.loads((self.folder / f"{name}.json").read_bytes())["chain"]["previous"]
                name = str(before["name"]) if before else ""
            except (OSError, ValueError, KeyError, TypeError):
                # The chain is broken here. Nothing that may belong to it is set aside.
                return {m[0] for path in self.folder.iterdir() if (m := NAME.match(path.name))}
        return names

    # ---- what is added
    def _link(self, kind: str, head: Document | None) -> Document:
        moment = self._now()
        while (self.folder / f"{PREFIXES[kind]}-{stamp(moment)}.json").exists():
            moment += 1
        public = public_of(self.key)
        return {
            "name": f"{PREFIXES[kind]}-{stamp(moment)}",
            "sequence": head["sequence"] + 1 if head else 1,
            "genesis": head is None,
            "previous": {"name": head["name"], "sha256": head["sha256"]} if head else None,
            "key": {"fingerprint": fingerprint(public), "public": public},
            "namespace": NAMESPACE,
        }

    def _write(self, document: Document, others: Mapping[str, bytes], head_key: Path) -> Document:
        """Place a record: what stands beside the JSON, then the JSON, then the head."""
        link = document["chain"]
        document = clean({**document, "marks": {}})
        document["marks"] = field_marks(document)
        data = canonical(document)
        for suffix, content in others.items():
            place(self.folder / f"{link['name']}{suffix}", content)
        place(self.folder / f"{link['name']}.sig", sign(self.key, data))
        if document["kind"] == ROTATION:
            place(self.folder / f"{link['name']}.new.sig", sign(head_key, data))
        place(self.folder / f"{link['name']}.json", data)
        self._set_head(link, sha256(data), head_key)
        return document

    def _set_head(self, link: Mapping[str, Any], digest: str, key: Path) -> None:
        by = fingerprint(public_of(key))
        record = {"name": link["name"], "sequence": link["sequence"], "sha256": digest, "key": by}
        place(self.folder / HEAD, canonical({"record": record, "signature": sign(key, canonical(record)).decode()}))

    def _publish(self, public: str) -> None:
        """The public key, and every key of the chain for who has ssh-keygen alone."""
        known: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            known = [parse_public(line.split(" ", 2)[2]) for line in self._signers().splitlines()]
        place(self.folder / PUBLIC, f"{public} {PRINCIPAL}\n".encode(), 0o644)
        place(self.folder / SIGNERS, signers([*(one for one in known if one != public), public]).encode(), 0o644)

    def _signers(self) -> str:
        return (self.folder / SIGNERS).read_text(encoding="ascii")

    def open(self) -> str:
        """Make folder and key where there are none; the public key."""
        with held(self.folder):
            public = make_key(self.key)
            if not (self.folder / PUBLIC).exists() and self._raw_head() is None:
                self._publish(public)
        return public

    def append(self, make: Maker) -> Document:
        """Add a report.

        Raises:
            ChainError: the chain is broken, or its key is not the one here.
        """
        make_key(self.key)
        with held(self.folder):
            self._begin()
            self._recover()
            link = self._link(REPORT, self._head())
            fields, markdown = make(link)
            markdown = str(clean(markdown))
            about = {"file": f"{link['name']}.md", "sha256": sha256(markdown.encode()), "lines": line_marks(markdown)}
            document = {**fields, "format": 1, "kind": REPORT, "chain": link, "markdown": about}
            return self._write(document, {".md": markdown.encode()}, self.key)

    def rotate(self, reason: str) -> Document:
        """Replace the key: the old one signs that the new one follows it, and the new one that it is there."""
        with held(self.folder):
            self._recover()
            head = self._head()
            if head is None:
                raise ChainError(f"There is no report in {self.folder} yet, so there is no key to replace.")
            following = self.key.with_name(f"{self.key.name}.next")
            public = make_key(following)
            new = {"fingerprint": fingerprint(public), "public": public}
            written = self._moment()
            document = {"format": 1, "kind": ROTATION, "chain": self._link(ROTATION, head), "new": new}
            document = self._write({**document, "reason": reason, "written": written}, {}, following)
            self._take_over(document, following)
            return document

    def _moment(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now()))

    def _take_over(self, document: Document, following: Path) -> None:
        data = (self.folder / f"{document['chain']['name']}.json").read_bytes()
        self._set_head(document["chain"], sha256(data), following)
        following.replace(self.key)
        sync(self.key.parent)
        self._publish(document["new"]["public"])

    def last(self, kind: str = REPORT) -> Document | None:
        """The newest report, where it can be read; for what is counted since. Nothing is verified."""
        for path in sorted(self.folder.glob(f"{PREFIXES[kind]}-*.json"), reverse=True):
            with contextlib.suppress(OSError, ValueError):
                found = json.loads(path.read_bytes())
                if isinstance(found, dict):
                    return found
        return None


# ---- the one who reads
def load(data: bytes) -> tuple[Document | None, str, str]:
    """A record, or where and why it is none."""
    try:
        document = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return None, f"line {data[: error.start].count(10) + 1}", "it is no UTF-8"
    except ValueError as error:
        return None, f"line {getattr(error, 'lineno', 1)}", "it is no JSON"
    except RecursionError:
        return None, "", "it is no JSON of ours"
    if not isinstance(document, dict) or not isinstance(document.get("chain"), dict):
        return None, "chain", "the field is missing"
    link, before = document["chain"], document["chain"].get("previous")
    whole = (
        document.get("kind") in PREFIXES
        and isinstance(link.get("sequence"), int)
        and isinstance(link.get("name"), str)
        and isinstance(link.get("key"), dict)
        and (before is None or (isinstance(before, dict) and set(before) == {"name", "sha256"}))
        and isinstance(document.get("markdown", {}), dict)
        and isinstance(document.get("new", {}), dict)
    )
    if not whole:
        return None, "chain", "a field is missing or of another kind"
    with contextlib.suppress(ValueError):
        wanted = canonical(document)
        if wanted == data:
            return document, "", ""
        pairs = zip(data.split(b"\n"), wanted.split(b"\n"))
        line = next((n for n, (a, b) in enumerate(pairs, 1) if a != b), min(data.count(10), wanted.count(10)) + 1)
        return None, f"line {line}", "it is not in the canonical form"
    return None, "", "it holds a number that JSON has no word for"


def check_markdown(document: Mapping[str, Any], text: bytes, file: str) -> list[Fault]:
    """What is wrong with a report's Markdown: the lines that differ."""
    about = document.get("markdown", {})
    if sha256(text) == about.get("sha256"):
        return []
    said = [str(one) for one in about.get("lines") or []]
    found = line_marks(text.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode())
    lines = [n for n in range(1, max(len(said), len(found)) + 1) if said[n - 1 : n] != found[n - 1 : n]]
    first = lines[0] if lines else 1
    more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
    return [Fault(file, f"line {first}{more}", "it is not as it was when it was signed")]


def check_record(folder: Path, document: Document, data: bytes, public: str) -> list[Fault]:
    """What is wrong with one record by itself: its signature, its Markdown, its name."""
    name, kind = str(document["chain"]["name"]), str(document["kind"])
    faults = []
    names = files_of(name, kind)
    missing = [file for file in names if not (folder / file).is_file()]
    faults += [Fault(file, "", "it is missing") for file in missing]
    if f"{name}.sig" not in missing:
        wrong = check_signature(data, (folder / f"{name}.sig").read_bytes(), public)
        if wrong:
            places = edited(document)
            faults += [Fault(f"{name}.json", f"field {one}", "it was edited after it was signed") for one in places]
            faults.append(Fault(f"{name}.sig", "", f"the signature: {wrong}"))
    if document["chain"]["key"] != {"fingerprint": fingerprint(public), "public": public}:
        faults.append(Fault(f"{name}.json", "field chain.key", f"the key in force is {fingerprint(public)}"))
    if kind == REPORT and f"{name}.md" not in missing:
        faults += check_markdown(document, (folder / f"{name}.md").read_bytes(), f"{name}.md")
    if kind == ROTATION and f"{name}.new.sig" not in missing:
        try:
            following = parse_public(str(document["new"]["public"]))
            wrong = check_signature(data, (folder / f"{name}.new.sig").read_bytes(), following)
        except (ChainError, KeyError):
            wrong = "the record names no new key"
        if wrong:
            faults.append(Fault(f"{name}.new.sig", "", f"the signature: {wrong}"))
    return faults


def verify(folder: Path = FOLDER, trusted: str = "", holds: Sequence[str] = ()) -> Verified:
    """Look at a whole chain.

    Args:
        folder: where it lies.
        trusted: the public key that the reader was given; without one the folder's own is believed.
        holds: sha256 of reports that were handed out earlier and must be in it.
    """
    result = Verified()
    faults = result.faults
    if not folder.is_dir():
        faults.append(Fault(str(folder), "", "there is no such folder"))
        return result
    by_sequence: dict[int, list[tuple[Document, bytes]]] = {}
    belongs = {PUBLIC, SIGNERS, HEAD}
    for path in sorted(folder.glob("*.json")):
        if not NAME.fullmatch(path.stem):
            continue
        data = path.read_bytes()
        document, where, what = load(data)
        belongs |= {f"{path.stem}{suffix}" for suffix in (".json", ".md", ".sig", ".new.sig")}
        if document is None:
            faults.append(Fault(path.name, where, what))
        elif document["chain"]["name"] != path.stem or not path.stem.startswith(PREFIXES[document["kind"]]):
            faults.append(Fault(path.name, "field chain.name", f"the record is called {document['chain']['name']}"))
        else:
            by_sequence.setdefault(document["chain"]["sequence"], []).append((document, data))
            kept = set(files_of(path.stem, document["kind"]))
            belongs -= {f"{path.stem}{suffix}" for suffix in (".md", ".new.sig")} - kept
    for path in sorted(folder.iterdir()):
        if path.name not in belongs and not path.is_dir():
            ours = NAME.match(path.name)
            faults.append(Fault(path.name, "", f"it belongs to {'no report that is here' if ours else 'no chain'}"))
    _walk(folder, by_sequence, result)
    _ends(folder, result)
    if trusted and result.keys and trusted not in result.keys:
        given = fingerprint(trusted)
        faults.append(Fault(PUBLIC, "", f"no report is signed with the key that you were given, {given}"))
    digests = {sha256(canonical(document)) for document in result.records}
    gone = [one for one in holds if one not in digests]
    faults += [Fault(str(folder), "", f"the report with the sha256 {one} is not in it") for one in gone]
    return result


def _walk(folder: Path, by_sequence: Mapping[int, Sequence[tuple[Document, bytes]]], result: Verified) -> None:
    """Each record by itself and against the one before."""
    faults = result.faults
    if not by_sequence:
        faults.append(Fault(str(folder), "", "there is no report in it, so nothing was verified"))
        return
    before: tuple[Document, bytes] | None = None
    public = ""
    for sequence in range(1, max(by_sequence) + 1):
        found = by_sequence.get(sequence, [])
        if not found:
            known = by_sequence[sequence + 1][0][0]["chain"]["previous"] if sequence + 1 in by_sequence else None
            name = str(known["name"]) if known else "its name is not known"
            faults.append(Fault(str(folder), "", f"record {sequence} is missing or broken ({name})"))
            before = None
            continue
        if len(found) > 1:
            names = ", ".join(str(one[0]["chain"]["name"]) for one in found)
            said = f"record {sequence} is there {len(found)} times: {names}"
            faults.append(Fault(str(folder), "field chain.sequence", said))
        document, data = found[0]
        name, link = str(document["chain"]["name"]), document["chain"]
        if not public:
            # Where the beginning is missing, what is left can still be looked at.
            try:
                public = parse_public(str(link["key"].get("public", "")))
            except ChainError:
                faults.append(Fault(f"{name}.json", "field chain.key", "it names no key"))
                continue
            result.keys.append(public)
        if link.get("genesis") is not (sequence == 1) or (link.get("previous") is None) is not (sequence == 1):
            said = f"it stands at place {sequence} and says otherwise"
            faults.append(Fault(f"{name}.json", "field chain.genesis", said))
        elif before and link["previous"] != {"name": before[0]["chain"]["name"], "sha256": sha256(before[1])}:
            said = f"{before[0]['chain']['name']} is not the report that it follows, or was changed since"
            faults.append(Fault(f"{name}.json", "field chain.previous", said))
        faults += check_record(folder, document, data, public)
        result.records.append(document)
        before = document, data
        if document["kind"] == ROTATION:
            with contextlib.suppress(ChainError):
                public = parse_public(str(document.get("new", {}).get("public", "")))
                result.keys.append(public)


def _ends(folder: Path, result: Verified) -> None:
    """The head and the published keys against the chain."""
    if not result.keys:
        return
    public, faults = result.keys[-1], result.faults
    wanted = {PUBLIC: f"{public} {PRINCIPAL}\n", SIGNERS: signers(result.keys)}
    for name, text in wanted.items():
        try:
            if (folder / name).read_bytes() != text.encode():
                faults.append(Fault(name, "", f"it does not hold the key of the chain, {fingerprint(public)}"))
        except FileNotFoundError:
            faults.append(Fault(name, "", "it is missing"))
    try:
        head = read_head(folder)
    except ValueError as error:
        faults.append(Fault(HEAD, "", str(error)))
        return
    if head is None:
        faults.append(Fault(HEAD, "", "it is missing, so the end of the chain may be, too"))
        return
    record = head["record"]
    wrong = check_signature(canonical(record), str(head["signature"]).encode("utf-8", "replace"), public)
    if wrong:
        faults.append(Fault(HEAD, "field signature", wrong))
    found: Document = {}
    if result.records:
        last = result.records[-1]
        found = {"sha256": sha256(canonical(last)), **{name: last["chain"][name] for name in ("name", "sequence")}}
    if {key: record[key] for key in ("name", "sequence", "sha256")} != found:
        said = f"the chain ends at {found.get('name')} ({found.get('sequence')}); the last that was written is"
        faults.append(Fault(HEAD, "field record", f"{said} {record['name']} ({record['sequence']})"))
    elif record["key"] != fingerprint(public):
        faults.append(Fault(HEAD, "field record.key", f"the key in force is {fingerprint(public)}"))


def verify_files(markdown: Path, report: Path, signature: Path, public: Path) -> Verified:
    """Look at one report that was handed out, on any machine. ``public``: the key's file, handed out before."""
    result = Verified()
    try:
        key = parse_public(public.read_text(encoding="ascii"))
    except (ChainError, UnicodeDecodeError) as error:
        result.faults.append(Fault(public.name, "", str(error)))
        return result
    data = report.read_bytes()
    document, where, what = load(data)
    if document is None:
        result.faults.append(Fault(report.name, where, what))
        return result
    wrong = check_signature(data, signature.read_bytes(), key)
    if wrong:
        said = "it was edited after it was signed"
        result.faults += [Fault(report.name, f"field {one}", said) for one in edited(document)]
        result.faults.append(Fault(signature.name, "", f"the signature: {wrong}"))
    result.faults += check_markdown(document, markdown.read_bytes(), markdown.name)
    result.records, result.keys = [document], [key]
    return result
