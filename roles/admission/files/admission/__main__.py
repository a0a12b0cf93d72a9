# SPDX-License-Identifier: MIT
"""python -m admission: run the service (default), check its configuration, or probe the running one."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from admission.app import Admission
from admission.config import ConfigError, load_config, load_gateway_key, load_keys
from admission.journal import FILE, JournalError
from admission.log import Log, quiet_libraries
from admission.probe import probe
from admission.server import server_for
from admission.upstream import Gateway

DEFAULT_CONFIG = Path("/etc/mushishi/admission/config.json")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="admission", description="The endpoint of the sovereign plane.")
    parser.add_argument("command", nargs="?", choices=("serve", "check", "probe"), default="serve")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="path of config.json")
    return parser.parse_args(argv)


def _credentials() -> Path:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise ConfigError("CREDENTIALS_DIRECTORY is not set; the unit hands credentials over with LoadCredential=")
    return Path(directory)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 ended as asked, 1 the probe failed, 70 a part of it has died (the journal ends it), 74 the queue's

    file cannot be used, 78 the configuration is wrong (EX_SOFTWARE, EX_IOERR and EX_CONFIG of sysexits.h).
    """
    arguments = _arguments(argv)
    log = Log()
    try:
        config = load_config(arguments.config)
        if arguments.command == "check":
            return 0
        if arguments.command == "probe":
            wrong = probe(config.listen)
            if wrong:
                print(wrong, file=sys.stderr)
            return 1 if wrong else 0
        directory = _credentials()
        gateway_key = load_gateway_key(directory)
        keys = load_keys(directory, frozenset(config.rules.profiles))
    except ConfigError as error:
        print(f"admission: {error}", file=sys.stderr)
        return 78
    quiet_libraries(log)
    gateway = Gateway(config.upstream.url, gateway_key)
    try:
        app = Admission(config, keys, gateway_key, gateway, log)
    except JournalError as error:
        where = config.queue.directory if config.queue else ""
        print(f"admission: {where}/{FILE}: {error}; nothing was changed in it. See docs/queue.md.", file=sys.stderr)
        return 74
    log.event("start", host=config.listen.host, port=config.listen.port, profiles=len(config.rules.profiles))
    server_for(app, config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
