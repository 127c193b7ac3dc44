"""Plain attributes of a model's modules, and of the objects they hold: a graph has frozen them."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

OF_ALL_MODULES = frozenset(vars(nn.Module()))
"""Parameters, children, hooks: compared elsewhere, and not to be kept alive."""

SIMPLE = (bool, int, float, complex, str, bytes, type(None))
CONTAINERS = (dict, list, tuple, set, frozenset)
DEPTH = 3
"""How deep containers are followed."""


class Attributes:
    """Every attribute as it is now: LoRA's scales, attention processors, tables that are cached.

    `models` may share modules.
    """

    def __init__(self, *models: nn.Module) -> None:
        self._owners = [
            _Owner(name, own, {k: v for k, v in own.items() if k not in OF_ALL_MODULES}, len(own))
            for name, own in _owners(models)
        ]
        self._contents = [
            (f"{owner.name}.{key}", owner.own, key, _contents(value))
            for owner in self._owners
            for key, value in owner.before.items()
            if isinstance(value, CONTAINERS)
        ]

    def difference(self, ignored: Collection[str] = ()) -> str:
        """The path of the first attribute that is another now; "" where none is."""
        for name, own, before, size in self._owners:
            # All that most of them cost.
            if len(own) == size and all(own.get(key) is value for key, value in before.items()):
                continue
            for key in dict.fromkeys((*before, *own)):
                if key in OF_ALL_MODULES or f"{name}.{key}" in ignored:
                    continue
                value = own.get(key)
                alike = isinstance(value, CONTAINERS) or _are_same(before.get(key), value)
                if not alike or (key in own) != (key in before):
                    return f"{name}.{key}"
        for path, own, key, contents in self._contents:
            if path not in ignored and not _are_same(contents, _contents(own.get(key))):
                return path
        return ""


class _Owner(NamedTuple):
    """Something with attributes: now, as they were, and how many they were with those of every
    module."""

    name: str
    own: dict[str, Any]
    before: dict[str, Any]
    size: int


def _owners(models: Iterable[nn.Module]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Modules, then the plain objects that they hold, with their attributes."""
    modules: dict[int, tuple[str, Any]] = {
        id(module): (name or type(model).__name__, module)
        for model in models
        for name, module in model.named_modules()
    }
    waiting, seen = list(modules.values()), set(modules)
    while waiting:
        name, owner = waiting.pop()
        yield name, vars(owner)
        for key, value in vars(owner).items():
            if _has_attributes(value) and id(value) not in seen:
                seen.add(id(value))
                waiting.append((f"{name}.{key}", value))


def _has_attributes(value: object) -> bool:
    if isinstance(value, (type, nn.Module, Tensor, *CONTAINERS)) or not hasattr(value, "__dict__"):
        return False
    module = type(value).__module__.partition(".")[0]
    return module != "torch" and module not in sys.stdlib_module_names


def _contents(value: Any, depth: int = DEPTH) -> Any:
    """The value; a container as (its type, its contents)."""
    if not isinstance(value, CONTAINERS):
        return value
    if not depth:
        return (type(value), len(value))
    inner: tuple[Any, ...]
    if isinstance(value, dict):
        inner = tuple((key, _contents(item, depth - 1)) for key, item in value.items())
    elif isinstance(value, (set, frozenset)):
        inner = (frozenset(value),)
    else:
        inner = tuple(_contents(item, depth - 1) for item in value)
    return (type(value), inner)


def _are_same(before: Any, now: Any) -> bool:
    """Whether two contents are the same, part by part."""
    if before is now:
        return True
    if isinstance(now, tuple) and isinstance(before, tuple):
        pairs = zip(before, now, strict=False)
        return len(before) == len(now) and all(_are_same(a, b) for a, b in pairs)
    return isinstance(now, (*SIMPLE, frozenset)) and type(before) is type(now) and before == now
