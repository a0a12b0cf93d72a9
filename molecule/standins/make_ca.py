# SPDX-License-Identifier: MIT
"""The lab's certificate authority, made with openssl: ``python3 -m standins.make_ca DIR [--name HOST]…``."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from .providers import PROVIDERS

CLIENT_HOSTS = (
    "api.openai.com",
    "api.anthropic.com",
    "api.cohere.com",
    "api.mistral.ai",
    "generativelanguage.googleapis.com",
    "huggingface.co",
    "raw.githubusercontent.com",
)
"""Hosts that LLM clients are known to call by themselves."""
DAYS_CA, DAYS_SERVER = 3650, 365
RENEW_SECONDS = 7 * 24 * 3600
"""A certificate with less life than this is made again."""
CA_SUBJECT = "/CN=Lab stand-in CA, not for any real machine"
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST = re.compile(rf"(?=.{{1,253}}$)({_LABEL}\.)*{_LABEL}")


class OpensslError(RuntimeError):
    """The openssl program is missing, too old, or refused."""


def openssl(*arguments: str) -> str:
    """Run openssl and return its stdout. Raises OpensslError with its own words."""
    try:
        done = subprocess.run(
            ["openssl", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OpensslError(f"cannot run openssl: {error}") from error
    if done.returncode != 0:
        raise OpensslError(f"openssl {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def ensure(folder: Path, names: Iterable[str]) -> list[str]:
    """Make what is missing or stale; returns the names of the files written (empty: nothing changed).

    Raises OpensslError, and ValueError for something that is no host name.
    """
    wanted = sorted(set(names))
    for name in wanted:
        check_host(name)
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    written: list[str] = []
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    server, server_key = folder / "server.pem", folder / "server.key"
    if not (ca_key.exists() and _alive(ca)):
        _new_key(ca_key)
        extensions = (
            "basicConstraints=critical,CA:TRUE,pathlen:0",
            "keyUsage=critical,keyCertSign,cRLSign",
        )
        _certificate(ca, ca_key, CA_SUBJECT, extensions, DAYS_CA, None)
        written += ["ca.key", "ca.pem"]
    if not (
        server_key.exists()
        and _alive(server)
        and _signed(server, ca)
        and set(wanted) <= covered(server)
        and (folder / "server.names").exists()
    ):
        if not server_key.exists():
            _new_key(server_key)
            written.append("server.key")
        mint(folder, wanted, server)
        (folder / "server.names").write_text("\n".join(wanted) + "\n")
        written += ["server.pem", "server.names"]
    return written


def mint(folder: Path, names: Sequence[str], out: Path) -> None:
    """Sign a server certificate for `names` with what `folder` holds. Raises OpensslError, ValueError."""
    for name in names:
        check_host(name)
    extensions = (
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=serverAuth",
        "subjectAltName=" + ",".join(f"DNS:{name}" for name in names),
    )
    _certificate(
        out, folder / "server.key", "/CN=lab stand-in", extensions, DAYS_SERVER, folder
    )


def check_host(name: str) -> None:
    """Raise ValueError when `name` is no host name; it ends up in an argument of openssl."""
    if not HOST.fullmatch(name):
        raise ValueError(f"{name!r} is not a host name")


def covered(certificate: Path) -> set[str]:
    """The DNS names in a certificate."""
    text = openssl("x509", "-in", str(certificate), "-noout", "-ext", "subjectAltName")
    return set(re.findall(r"DNS:([^,\s]+)", text))


def _new_key(path: Path) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    )


def _certificate(
    out: Path,
    key: Path,
    subject: str,
    extensions: Sequence[str],
    days: int,
    ca_folder: Path | None,
) -> None:
    # A configuration of our own: the system's adds extensions, which would then stand in the certificate twice.
    with tempfile.NamedTemporaryFile("w", suffix=".cnf") as config:
        config.write("[req]\ndistinguished_name=dn\n[dn]\n")
        config.flush()
        arguments = [
            "req",
            "-x509",
            "-new",
            "-config",
            config.name,
            "-sha256",
            "-key",
            str(key),
            "-subj",
            subject,
        ]
        arguments += ["-days", str(days)]
        if ca_folder is not None:
            arguments += [
                "-CA",
                str(ca_folder / "ca.pem"),
                "-CAkey",
                str(ca_folder / "ca.key"),
            ]
        for extension in (
            *extensions,
            "subjectKeyIdentifier=hash",
            "authorityKeyIdentifier=keyid",
        ):
            arguments += ["-addext", extension]
        text = openssl(*arguments)
    partial = out.with_suffix(".new")
    partial.write_text(text)
    partial.chmod(0o644)
    partial.replace(out)


def _alive(certificate: Path) -> bool:
    try:
        openssl(
            "x509", "-in", str(certificate), "-noout", "-checkend", str(RENEW_SECONDS)
        )
    except OpensslError:
        return False
    return True


def _signed(certificate: Path, ca: Path) -> bool:
    try:
        openssl("verify", "-CAfile", str(ca), str(certificate))
    except OpensslError:
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Make the CA and print what was done as JSON."""
    parser = argparse.ArgumentParser(prog="standins.make_ca", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--name", action="append", default=[], help="a further host name"
    )
    options = parser.parse_args(argv)
    names = [*(p.host for p in PROVIDERS.values()), *CLIENT_HOSTS, *options.name]
    try:
        written = ensure(options.folder, names)
    except (OpensslError, ValueError, OSError) as error:
        print(json.dumps({"error": str(error)}))
        return 1
    print(
        json.dumps(
            {
                "changed": bool(written),
                "written": written,
                "ca": str(options.folder / "ca.pem"),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
