"""Which tensor of what a module takes or gives is observed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from l2c_rt.adapters.bound_model import State
from l2c_rt.adapters.own.observe import Stream, named_arguments
from l2c_rt.adapters.own.probe import streams_by_shape
from l2c_rt.backends.own_calls import LaneCalls


def first_tensor(path: str, value: object) -> Tensor:
    """The first tensor of a value.  Raises ValueError where it has none."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            return leaf
    raise ValueError(f"{path} has no tensor, so there is nothing to observe")


class WholeCall:
    """A model's call as a method sees it that looks at what goes in and comes out: the first
    tensors, or with `all_images`, where the first argument is a list of images, all of them."""

    def __init__(self, *, all_images: bool) -> None:
        self._all_images, self._is_list = all_images, False

    def taken(self, state: State) -> Tensor:
        """The model's input."""
        if self._all_images:
            arguments = (*state.options["args"], *state.options["kwargs"].values())
            images = [v for v in arguments if isinstance(v, list) and v and v[0] is state.x]
            self._is_list = bool(images)
            if images:
                return _in_a_row(images[0])
        return state.x

    def given(self, out: object) -> Tensor:
        """Its output, of the call whose input was taken last."""
        return _in_a_row(out) if self._is_list else first_tensor("the model", out)


def _in_a_row(value: object) -> Tensor:
    return torch.cat([leaf.flatten() for leaf in tree_leaves(value) if isinstance(leaf, Tensor)])


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


def streams_of(lane: LaneCalls, path: str) -> tuple[Stream | None, ...]:
    """The streams of a block's outputs; by shape while a first evaluation is observed."""
    if lane.planned is None:
        return streams_by_shape(lane.last_call)
    return lane.planned.probe.sites[path].streams
