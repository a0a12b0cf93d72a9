# SPDX-License-Identifier: MIT
"""What the prober is told, read from one JSON file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prober.judge import Settings

VLLM = "vllm"
LLAMA_CPP = "llama.cpp"


@dataclass(frozen=True)
class Engine:
    """One engine: where it answers, how it is called, how it is judged.

    ``unit`` is the systemd unit whose CPU time shows work, where there is one.
    """

    name: str
    kind: str
    host: str
    port: int
    model: str
    settings: Settings
    unit: str = ""


@dataclass(frozen=True)
class Config:
    """The door's control channel and the engines."""

    control: tuple[str, int]
    engines: tuple[Engine, ...]


def read_config(path: Path) -> Config:
    """Read the file. Raises :class:`ValueError` that names the file and what is wrong, :class:`OSError` without one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        host, _colon, port = str(data["control"]).rpartition(":")
        engines = tuple(_engine(entry) for entry in data["engines"])
        if len({engine.name for engine in engines}) != len(engines):
            raise ValueError("an engine is named twice")
        return Config((host, int(port)), engines)
    except (ValueError, KeyError, TypeError) as exc:
        raise ValueError(f"{path}: {type(exc).__name__}: {exc}") from exc


def _engine(entry: dict[str, Any]) -> Engine:
    kind = str(entry["kind"])
    if kind not in (VLLM, LLAMA_CPP):
        raise ValueError(f"engines.{entry['name']}.kind is {kind!r}; it is {VLLM} or {LLAMA_CPP}")
    idle, patience = float(entry["idle_seconds"]), float(entry["patience_seconds"])
    if min(idle, patience) <= 0:
        raise ValueError(f"engines.{entry['name']}: idle_seconds and patience_seconds must be above 0")
    return Engine(
        name=str(entry["name"]),
        kind=kind,
        host=str(entry["host"]),
        port=int(entry["port"]),
        model=str(entry["model"]),
        settings=Settings(idle=idle, patience=patience, work_first=kind == LLAMA_CPP),
        unit=str(entry["unit"]),
    )
