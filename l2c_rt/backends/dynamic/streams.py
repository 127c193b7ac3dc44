"""Which tensor of what a module takes or gives is observed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from l2c_rt.adapters.own.observe import Stream, named_arguments


def image_stream(streams: tuple[Stream | None, ...]) -> tuple[int, Stream]:
    """The output that continues the image, and what it continues."""
    known = [(j, stream) for j, stream in enumerate(streams) if stream is not None]
    if not known:
        raise ValueError("a block's outputs continue none of its arguments, so nothing is added")
    named = [pair for pair in known if pair[1].name in ("hidden_states", "x")]
    return (named or sorted(known, key=lambda pair: pair[1].position))[0]


def first_tensor(path: str, value: object) -> Tensor:
    """The first tensor of a value.  Raises ValueError where it has none."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            return leaf
    raise ValueError(f"{path} has no tensor, so there is nothing to observe")


def in_a_row(value: object) -> Tensor:
    """All numbers of the tensors in a value."""
    return torch.cat([leaf.flatten() for leaf in tree_leaves(value) if isinstance(leaf, Tensor)])


def list_with(first: Tensor, arguments: Iterable[object]) -> list[Tensor] | None:
    """The argument that is a list of images, of which this is the first one, if one is."""
    for value in arguments:
        if isinstance(value, list) and value and value[0] is first:
            return value
    return None


def part_of(path: str, out: object, index: int) -> Tensor:
    """Tensor `index` of an output.  Raises ValueError where it has fewer."""
    tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    if index >= len(tensors):
        raise ValueError(f"{path} gives {len(tensors)} tensors, and tensor {index} is observed")
    return tensors[index]


def copied_arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Tensor]:
    """Copies of the tensors among the arguments of a module, by their names."""
    named = named_arguments(type(module), args, kwargs)
    return {stream.name: v.clone() for stream, v in named if isinstance(v, Tensor)}


def with_first(
    change: Callable[[Tensor], Tensor],
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a module with the first one changed."""
    stream, value = next(iter(named_arguments(type(module), args, kwargs)))
    value = change(value)
    if stream.name in kwargs:
        return args, kwargs | {stream.name: value}
    return (value, *args[1:]), kwargs
