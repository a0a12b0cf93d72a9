# SPDX-License-Identifier: MIT
"""Start one LiteLLM gateway: turn systemd credentials into what LiteLLM reads, then become LiteLLM.

No key is ever an argument, in a unit, or in a file that others may read: systemd puts each into
``$CREDENTIALS_DIRECTORY``, this program puts it into the environment of the process that it turns into. The environment
is built from nothing: what the unit or the machine had set reaches LiteLLM only where it is named here.

Credentials: ``clients.json`` (hybrid: SHA-256 of profile keys) or ``client.key`` (sovereign: admission's key);
``llama.key``; ``cloud-<name>.key`` for each cloud key of the policy (hybrid only).
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

#: EX_CONFIG of sysexits.h: the unit does not restart on it.
EXIT_CONFIG = 78

#: Passed on as they are, if set. Everything else of the environment is dropped.
PASSED_ON = ("CREDENTIALS_DIRECTORY", "LANG", "RUNTIME_DIRECTORY", "SSL_CERT_FILE", "STATE_DIRECTORY", "TMPDIR")

#: What keeps LiteLLM from opening connections of its own (price list, header list, presets, tokenizers) and from
#: showing its admin pages. Measured: with these it opens none at start, and at a request none but the one asked for.
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "DISABLE_ADMIN_UI": "True",
    "NO_DOCS": "True",
    "NO_REDOC": "True",
    "NO_OPENAPI": "True",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}

#: Keys that both gateways read.
OWN_KEYS = frozenset({"LITELLM_MASTER_KEY", "LLAMA_API_KEY"})

_REFERENCE = re.compile(r"os\.environ/([A-Za-z0-9_]+)")
_CLOUD = re.compile(r"cloud-([a-z0-9][a-z0-9_-]*)\.key")


class LaunchError(Exception):
    """What is missing or does not belong, with the remedy."""


def cloud_variable(name: str) -> str:
    """The variable of a cloud key, as the configuration names it: ``nvidia`` → ``CLOUD_KEY_NVIDIA``."""
    return "CLOUD_KEY_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


def read_secret(path: Path) -> str:
    """One line of text. Raises :class:`LaunchError` when it is missing, empty or more than a line."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise LaunchError(f"credential {path.name}: cannot be read ({exc.strerror}); run site.yml again") from exc
    if not text or len(text.split()) != 1:
        raise LaunchError(f"credential {path.name}: expected one word on one line; write the key and nothing else")
    return text


def build_environment(
    plane: str, config: Path, credentials: Path, given: Mapping[str, str], program: Path
) -> dict[str, str]:
    """The whole environment of LiteLLM.

    ``program`` is the folder of this file (the hooks lie beside it), ``given`` the environment of the unit. Raises
    :class:`LaunchError` when a key is missing, and in the sovereign plane when a cloud key is *there*.
    """
    cloud = {match[1]: path for path in sorted(credentials.iterdir()) if (match := _CLOUD.fullmatch(path.name))}
    if plane == "sovereign" and cloud:
        raise LaunchError(
            f"credential cloud-{min(cloud)}.key: no cloud key may exist in the sovereign plane; remove it"
        )
    environment = {name: given[name] for name in PASSED_ON if given.get(name)}
    environment |= QUIET | {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": given.get("RUNTIME_DIRECTORY") or "/nonexistent",
        "PYTHONPATH": str(program),
        "LITELLM_MASTER_KEY": "sk-" + secrets.token_hex(32),
        "LLAMA_API_KEY": read_secret(credentials / "llama.key"),
        "MUSHISHI_GATEWAY_CONFIG": str(config),
        "CONFIG_FILE_PATH": str(config),
    }
    if plane == "sovereign":
        read_secret(credentials / "client.key")
        environment["MUSHISHI_GATEWAY_KEY"] = str(credentials / "client.key")
    else:
        environment["MUSHISHI_GATEWAY_INDEX"] = str(credentials / "clients.json")
        environment["MUSHISHI_GATEWAY_LEDGER"] = str(Path(given.get("STATE_DIRECTORY", "")) / "budgets.sqlite3")
        environment |= {cloud_variable(name): read_secret(path) for name, path in cloud.items()}
        if not given.get("STATE_DIRECTORY"):
            raise LaunchError("STATE_DIRECTORY is not set: the budget ledger needs it; give the unit a StateDirectory=")
    check_references(config.read_text(encoding="utf-8"), environment)
    return environment


def check_references(text: str, environment: Mapping[str, str]) -> None:
    """Raise :class:`LaunchError` for a key the configuration names and nobody gave. LiteLLM would send ``None``."""
    missing = sorted(set(_REFERENCE.findall(text)) - set(environment))
    if missing:
        raise LaunchError(f"the configuration names {missing[0]}, but the unit was given no credential for it")


def check(plane: str, config: Path) -> None:
    """Let LiteLLM build its router from the configuration, with words in place of keys. Raises what LiteLLM raises."""
    text = config.read_text(encoding="utf-8")
    names = set(_REFERENCE.findall(text))
    foreign = sorted(name for name in names if name not in OWN_KEYS and not name.startswith("CLOUD_KEY_"))
    if plane == "sovereign":
        foreign = sorted(names - OWN_KEYS)
    if foreign:
        raise LaunchError(f"the configuration names {foreign[0]}, which does not belong in the {plane} plane")
    os.environ.update(QUIET | dict.fromkeys(names, "check"))
    import yaml
    from litellm import Router

    data = yaml.safe_load(text)
    Router(model_list=data["model_list"], **data["router_settings"])


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="mushishi_gateway_launch", description="Start one LiteLLM gateway.")
    parser.add_argument("--plane", choices=("sovereign", "hybrid"), required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--check", action="store_true", help="only say whether LiteLLM takes the configuration")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:  # noqa: RET503 - execve does not come back
    """Become LiteLLM. Returns when something is missing, and after ``--check``."""
    given = arguments(argv)
    try:
        if given.check:
            check(given.plane, given.config)
            return 0
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        if not credentials:
            raise LaunchError("CREDENTIALS_DIRECTORY is not set: start this from its unit")
        program = Path(__file__).resolve().parent
        environment = build_environment(given.plane, given.config, Path(credentials), os.environ, program)
    except (LaunchError, OSError, ValueError, KeyError, TypeError) as exc:
        print(f"mushishi gateway {given.plane}: {exc}", file=sys.stderr)
        return EXIT_CONFIG
    serve = [
        sys.executable,
        str(program / "mushishi_gateway_serve.py"),
        "--host",
        given.host,
        "--port",
        str(given.port),
    ]
    os.execve(sys.executable, serve, environment)  # noqa: S606  # no shell: this process becomes that program


if __name__ == "__main__":
    sys.exit(main())
