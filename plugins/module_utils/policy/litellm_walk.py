# SPDX-License-Identifier: MIT
"""Reads a rendered LiteLLM configuration the way LiteLLM does, and walks every way a request could take through it.

Independent of the compiler on purpose: it knows nothing of what ``litellm.py`` meant to write, only what LiteLLM would
do with what stands in the text. Where its reading is uncertain (it differs between releases, or depends on the order
of two look-ups) *both* readings are followed.

What is known about LiteLLM here, from its source at 1.108.5 and from measurements (docs/decisions):

- several deployments that share a ``model_name`` are one group, and any of them may answer;
- a deployment without ``api_base`` is called at its provider's own host;
- a name that is no group is tried as an alias, then as a wildcard (``*``, ``openai/*``), then as ``provider/model``;
- a comma in a name is a batch: every part is called;
- ``fallbacks``, ``context_window_fallbacks``, ``content_policy_fallbacks`` and ``default_fallbacks`` are read from
  ``router_settings``, ``litellm_settings``, from a deployment's own parameters and from settings of keys and teams; the
  source ``*`` means every group; a target may be a name or a mapping with parameters of its own; a source may also be
  the *model* of a deployment, with or without its provider prefix;
- aliases stand in ``model_group_alias`` (text or ``{model, hidden}``) and ``model_alias_map``;
- pass-through endpoints and callbacks send what a request holds to an address of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ._yaml import SafeLoader, yaml
from .errors import ProofError, arrow

#: Keys whose value sends a failed request to other groups.
FALLBACK_KEYS = frozenset(
    {"fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "default_fallbacks", "model_fallbacks"}
    | {"context_window_fallback_dict"}
)
#: Keys whose value gives a group another name.
ALIAS_KEYS = frozenset({"model_group_alias", "model_alias_map", "model_alias", "model_aliases", "aliases"})
#: Keys whose value sends every request to one model.
FORCE_KEYS = frozenset({"completion_model", "default_model", "default_deployment"})
#: Keys whose value names code or services that see each request.
CALLBACK_KEYS = frozenset(
    {"callbacks", "success_callback", "failure_callback", "service_callback", "input_callback", "audit_log_callbacks"}
    | {"default_in_memory_callbacks", "alerting", "post_call_rules", "pre_call_rules"}
)
#: Parameters that give a deployment a destination.
BASE_KEYS = ("api_base", "base_url", "azure_endpoint", "endpoint")

EVERY_GROUP = "*"


@dataclass(frozen=True)
class Destination:
    """Where a request ends: the address (None where the provider's own is meant), and where the document says so."""

    address: str | None
    label: str
    where: str


@dataclass(frozen=True)
class Edge:
    """A way from a group (or from every group) to a name that LiteLLM would look up next."""

    source: str
    target: str
    where: str


@dataclass(frozen=True)
class Way:
    """How a request gets to a destination: the names it passes, and the last destination."""

    steps: tuple[str, ...]
    destination: Destination

    def __str__(self) -> str:
        return arrow([*self.steps, self.destination.label])


def read_document(text: str) -> dict[str, Any]:
    """Parse strictly: one mapping, no key twice, no anchors, merges or tags. Raises :class:`.errors.ProofError`."""
    try:
        _refuse_indirection(text)
        document = yaml.load(text, Loader=_StrictLoader)  # a SafeLoader
    except yaml.YAMLError as exc:
        raise ProofError("document", f"is no plain YAML ({exc})") from exc
    if not isinstance(document, dict):
        raise ProofError("document", "is not one mapping")
    for path, _unused in scalars(document):
        if not isinstance(path, str):
            raise ProofError("document", "has a key that is no text")
    return document


def scalars(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every key and every scalar of a document with its key path, in order. A key is reported as its own value."""
    if isinstance(value, dict):
        for key, item in value.items():
            here = f"{path}.{key}" if path else str(key)
            yield here, key
            yield from scalars(item, here)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from scalars(item, f"{path}[{position}]")
    else:
        yield path, value


class Graph:
    """The groups of a document and every edge between them.

    ``ignored_callbacks`` are hooks known to keep what they see on this machine.
    """

    def __init__(self, document: dict[str, Any], ignored_callbacks: frozenset[str] = frozenset()) -> None:
        self.deployments: dict[str, list[Destination]] = {}
        self.models: dict[str, set[str]] = {}
        self.edges: list[Edge] = []
        self.aliases: set[str] = set()
        self.sinks: list[Destination] = []
        self._ignored_callbacks = ignored_callbacks
        entries = document.get("model_list")
        for position, entry in enumerate(entries if isinstance(entries, list) else []):
            self._add_entry(entry, f"model_list[{position}]")
        self._add_edges(document, "", EVERY_GROUP)

    def ways(self, start: str) -> Iterator[Way]:
        """Every destination that a request for ``start`` could reach, each with one shortest way to it."""
        seen = {start}
        queue: list[tuple[str, ...]] = [(start,)]
        while queue:
            steps = queue.pop(0)
            for destination in [*self._destinations(steps[-1]), *self.sinks]:
                yield Way(steps, destination)
            for target in self._next(steps[-1]):
                if target not in seen:
                    seen.add(target)
                    queue.append((*steps, target))

    def _add_entry(self, entry: object, path: str) -> None:
        if not isinstance(entry, dict):
            self.sinks.append(Destination(None, f"an entry that is no mapping ({path})", path))
            return
        group = str(entry.get("model_name"))
        params = entry.get("litellm_params")
        params = params if isinstance(params, dict) else {}
        self.deployments.setdefault(group, []).extend(_deployment_destinations(params, f"{path}.litellm_params"))
        model = str(params.get("model"))
        self.models.setdefault(group, set()).update({model, model.split("/", 1)[-1]})

    def _add_edges(self, value: object, path: str, source: str) -> None:
        """Look for routing keys at every depth: settings of keys, teams and deployments hold them too."""
        if isinstance(value, list):
            for position, item in enumerate(value):
                inner = str(item.get("model_name")) if path == "model_list" and isinstance(item, dict) else source
                self._add_edges(item, f"{path}[{position}]", inner)
        if not isinstance(value, dict):
            return
        for key, item in value.items():
            here = f"{path}.{key}" if path else str(key)
            if key in FALLBACK_KEYS:
                self._add_fallbacks(item, here, source)
            elif key in ALIAS_KEYS:
                self._add_aliases(item, here)
            elif key in FORCE_KEYS and item:
                self.edges.append(Edge(source, str(item), here))
            elif key in CALLBACK_KEYS:
                self._add_callbacks(item, here)
            elif key == "pass_through_endpoints":
                self._add_pass_through(item, here)
            self._add_edges(item, here, source)

    def _add_fallbacks(self, value: object, path: str, source: str) -> None:
        if isinstance(value, str):
            self.edges.append(Edge(source, value, path))
        elif isinstance(value, dict) and "model" in value:
            self._add_target(source, value, path)
        elif isinstance(value, dict):
            for name, targets in value.items():
                for position, target in enumerate(targets if isinstance(targets, list) else [targets]):
                    self._add_target(str(name), target, f"{path}.{name}[{position}]")
        elif isinstance(value, list):
            for position, item in enumerate(value):
                self._add_fallbacks(item, f"{path}[{position}]", source)

    def _add_target(self, source: str, target: object, path: str) -> None:
        if isinstance(target, dict):
            inline = f"{target.get('model')} (inline, {path})"
            self.edges.append(Edge(source, inline, path))
            self.deployments.setdefault(inline, []).extend(_deployment_destinations(target, path))
            self.edges.append(Edge(source, str(target.get("model")), path))
        else:
            self.edges.append(Edge(source, str(target), path))

    def _add_aliases(self, value: object, path: str) -> None:
        for name, target in value.items() if isinstance(value, dict) else []:
            real = target.get("model") if isinstance(target, dict) else target
            self.aliases.add(str(name))
            self.edges.append(Edge(str(name), str(real), f"{path}.{name}"))

    def _add_callbacks(self, value: object, path: str) -> None:
        for item in value if isinstance(value, list) else [value]:
            if item is not None and str(item) not in self._ignored_callbacks:
                self.sinks.append(Destination(None, f"callback {item} ({path})", path))

    def _add_pass_through(self, value: object, path: str) -> None:
        for position, item in enumerate(value if isinstance(value, list) else [value]):
            target = item.get("target") if isinstance(item, dict) else item
            self.sinks.append(Destination(str(target), f"{target} ({path}[{position}])", f"{path}[{position}]"))

    def _groups(self, name: str) -> list[str]:
        """The groups that a name may mean: itself, and every wildcard that takes it."""
        exact = [name] if name in self.deployments else []
        return exact + sorted(
            group for group in self.deployments if "*" in group and group != name and fnmatchcase(name, group)
        )

    def _destinations(self, name: str) -> Iterator[Destination]:
        groups = self._groups(name)
        for group in groups:
            yield from self.deployments[group]
        parts = [part.strip() for part in name.split(",")] if "," in name else []
        if not groups and not parts and name not in self.aliases:
            yield Destination(None, f"{name} (no group of this document: LiteLLM would call a provider)", name)

    def _next(self, name: str) -> Iterator[str]:
        also = {name}.union(*(self.models.get(group, set()) for group in self._groups(name)), self._groups(name))
        if "," in name:
            yield from (part.strip() for part in name.split(","))
        for edge in self.edges:
            if edge.source in also or edge.source == EVERY_GROUP or fnmatchcase(name, edge.source):
                yield edge.target


def _deployment_destinations(params: dict[str, Any], path: str) -> list[Destination]:
    """Where one deployment's parameters lead: each base they name, or the provider's own host."""
    bases = [(key, params[key]) for key in BASE_KEYS if params.get(key) is not None]
    if not bases:
        model = params.get("model")
        return [Destination(None, f"{model} (no api_base: LiteLLM would call the provider's own host)", path)]
    return [Destination(str(base), str(base), f"{path}.{key}") for key, base in bases]


def _refuse_indirection(text: str) -> None:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        anchor = getattr(event, "anchor", None)
        if anchor:
            raise ProofError("document", f"uses the YAML anchor {anchor}: what it means is not what it shows")
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag:
            raise ProofError("document", f"uses the YAML tag {event.tag}")
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<":
            raise ProofError("document", "uses a YAML merge key")


class _StrictLoader(SafeLoader):
    """A safe loader that refuses a key written twice (the last one would win) and keys that are no text."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise ProofError("document", f"has the key {key!r}, which is no text")
        if key in result:
            raise ProofError(key, "is written twice in one mapping")
        result[key] = loader.construct_object(value_node, deep=True)
    return result


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)
