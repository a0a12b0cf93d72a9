# SPDX-License-Identifier: MIT
"""Runs in a Python that has vLLM: what its own parser knows, and what that parser says to command lines.

``read_flags.py know`` prints the version, every flag and every environment variable as one JSON document.
``read_flags.py parse`` reads ``{name: [word, …]}`` and prints ``{name: {"error": …, "values": …}}``: each command line
as ``vllm serve`` would take it, up to the moment where it would look for the model.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Where ``make_arg_parser`` lies: it moved from release to release. The newest first.
PLACES = ("entrypoints.common.cli_args", "entrypoints.launchers.cli_args", "entrypoints.openai.cli_args")
#: Flags whose values are names in a register, checked after parsing: the register's class and module.
REGISTERS = {
    "--tool-call-parser": ("vllm.tool_parsers", "ToolParserManager"),
    "--reasoning-parser": ("vllm.reasoning", "ReasoningParserManager"),
}


def cli_args() -> Any:
    """vLLM's module of the server's command line."""
    for place in PLACES:
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(f"vllm.{place}")
    raise SystemExit(f"vLLM {version()} has no make_arg_parser in any of {', '.join(PLACES)}: say where it is now")


def version() -> str:
    """As the package itself says it."""
    return str(importlib.import_module("vllm.version").__version__).split("+")[0]


def parser() -> argparse.ArgumentParser:
    """The parser of ``vllm serve``."""
    utilities = importlib.import_module("vllm.utils.argparse_utils")
    made: argparse.ArgumentParser = cli_args().make_arg_parser(utilities.FlexibleArgumentParser(prog="vllm serve"))
    return made


def registered(flag: str) -> list[str]:
    """Names in the register behind a flag."""
    module, name = REGISTERS[flag]
    return sorted(getattr(importlib.import_module(module), name).list_registered())


def on_the_way_out() -> set[str]:
    """Flags that the parser takes without a word, and of which the engine says later that they are deprecated."""
    place = importlib.import_module("vllm.engine.arg_utils").__file__
    return set(re.findall(r"(--[a-z][a-z0-9-]*)\)? is deprecated", Path(place or "").read_text(encoding="utf-8")))


def know() -> dict[str, Any]:
    """Flags with their values, whether they are on their way out, and the variables of ``vllm.envs``."""
    made = parser()
    old: set[argparse.Action] = getattr(made, "_deprecated", set())
    going_too = on_the_way_out()
    flags = {}
    for action in made._actions:
        going = action in old or bool(getattr(action, "deprecated", False))
        for name in action.option_strings:
            choices = registered(name) if name in REGISTERS else action.choices
            flags[name] = {
                "value": action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction),
                "old": going or name.replace("--no-", "--") in going_too,
                "choices": None if choices is None else sorted(map(str, choices)),
            }
    variables = sorted(importlib.import_module("vllm.envs").environment_variables)
    return {"version": version(), "flags": flags, "variables": variables}


def parsed(made: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    """What the parser makes of one command line: its values, or its complaint."""
    module = cli_args()
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            found = made.parse_args(list(words))
            module.validate_parsed_serve_args(found)
    except SystemExit:
        return {"error": told.getvalue().strip() or "it ended without a word", "values": {}}
    except (TypeError, ValueError, KeyError) as error:
        return {"error": f"{type(error).__name__}: {error}", "values": {}}
    values = vars(found)
    for flag in REGISTERS:
        given = values.get(flag.lstrip("-").replace("-", "_"))
        if given and given not in registered(flag):
            return {"error": f"{flag} {given} is none of {', '.join(registered(flag))}", "values": {}}
    return {"error": "", "values": values}


def parse(lines: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Every command line by name."""
    made = parser()
    return {name: parsed(made, words) for name, words in lines.items()}


def main() -> int:
    # Without a card the platform is not guessed.
    os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
    # Its own messages go to standard output, which is this program's answer.
    logging.disable(logging.CRITICAL)
    real = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        answer = know() if sys.argv[1:] == ["know"] else parse(json.load(sys.stdin))
    json.dump(answer, real, default=str, sort_keys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
