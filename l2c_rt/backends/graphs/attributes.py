"""Plain attributes of a model's modules, and of the objects they hold: a graph has frozen them."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

TENSORS = ("_parameters", "_buffers")
"""Compared elsewhere, and not to be kept alive."""

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
            (name, own, {key: _contents(value) for key, value in own.items() if key not in TENSORS})
            for name, own in _owners(models)
        ]

    def difference(self, ignored: Collection[str] = ()) -> str:
        """The path of the first attribute that is another now; "" where none is."""
        for name, own, before in self._owners:
            names = [key for key in own if key not in TENSORS]
            for key in dict.fromkeys((*before, *names)):
                same = key in own and key in before and _are_same(before[key], _contents(own[key]))
                if not same and f"{name}.{key}" not in ignored:
                    return f"{name}.{key}"
        return ""


def _owners(models: Iterable[nn.Module]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Modules, then the plain objects that they hold, with their attributes."""
    waiting: list[tuple[str, Any]] = [
        (name or type(model).__name__, module)
        for model in models
        for name, module in model.named_modules()
    ]
    seen = {id(owner) for _, owner in waiting}
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
