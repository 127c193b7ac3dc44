"""Structures of tensors (dataclasses, tuples, dicts), changed or listed as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def mapped(value: Any, change: Callable[[Tensor], Tensor], seen: dict[int, Tensor]) -> Any:
    """The same structure with every tensor changed; what was one tensor stays one."""
    if isinstance(value, Tensor):
        return seen.setdefault(id(value), change(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (f.name for f in dataclasses.fields(value))
        return type(value)(*(mapped(getattr(value, name), change, seen) for name in fields))
    if isinstance(value, tuple):
        return tuple(mapped(item, change, seen) for item in value)
    if isinstance(value, dict):
        return {key: mapped(item, change, seen) for key, item in value.items()}
    return value


def cloned(value: Any) -> Any:
    return mapped(value, torch.clone, {})


def float64(value: Any) -> Any:
    return mapped(value, lambda t: t.double() if t.is_floating_point() else t.clone(), {})


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in the structure, with its path."""
    if isinstance(value, Tensor):
        yield path, value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, dict | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from tensors(item, f"{path}[{key}]")


def poisoned_like(result: Any) -> Any:
    """Outputs to write into, so that what is left unwritten shows."""

    def poisoned(tensor: Tensor) -> Tensor:
        return torch.full_like(tensor, float("nan") if tensor.is_floating_point() else -1)

    return mapped(result, poisoned, {})
