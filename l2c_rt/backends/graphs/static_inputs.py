"""The arguments of a call: what a graph is made for, and the buffers that it reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from l2c_rt.adapters.own.observe import write_count

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, Enum)
"""Arguments that a graph may hold on to: another value is another graph."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a tensor must share with another one that takes its place; `strides` may differ.

    They are those of a copy of it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    strides: tuple[int, ...]

    @staticmethod
    def of(tensor: Tensor) -> Kind:
        strides = torch.empty_like(tensor, device="meta").stride()
        return Kind(tuple(tensor.shape), tensor.dtype, tensor.device, strides)

    def empty(self) -> Tensor:
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=self.device)

    def stand_in(self) -> Tensor:
        """For what nothing reads: NaN where it can be, so that it shows, without memory."""
        fill = torch.nan if self.dtype.is_floating_point or self.dtype.is_complex else 0
        one = torch.full((), fill, dtype=self.dtype, device=self.device)
        return one.expand(self.shape)


@dataclass(frozen=True, slots=True)
class Arguments:
    """Positional and keyword arguments, flattened; tensors, or in their place their kinds."""

    leaves: list[Any]
    structure: TreeSpec

    @staticmethod
    def of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
        return Arguments(*tree_flatten((args, dict(kwargs))))

    def difference(self, other: Arguments) -> str:
        """In what a graph for these arguments does not fit others; "" where it fits."""
        if self.structure != other.structure:
            return "other arguments are given"
        for mine, theirs in zip(self.leaves, other.leaves, strict=True):
            a, b = _mark(mine), _mark(theirs)
            if a != b:
                return f"{_spell(mine)} became {_spell(theirs)}"
        return ""

    def without_tensors(self) -> Arguments:
        """What `difference` compares, with no tensor kept alive."""
        leaves = [Kind.of(x) if isinstance(x, Tensor) else x for x in self.leaves]
        return Arguments(leaves, self.structure)

    def opaque(self) -> str:
        """The type of an argument whose contents nobody can follow; "" where there is none."""
        for leaf in self.leaves:
            if not isinstance(leaf, PLAIN) and type(leaf) not in (Tensor, torch.nn.Parameter):
                return type(leaf).__name__
        return ""


def _mark(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.dtype, leaf.device
    if isinstance(leaf, Kind):
        return leaf.shape, leaf.dtype, leaf.device
    return type(leaf), leaf


def _spell(leaf: Any) -> str:
    if isinstance(leaf, Tensor | Kind):
        return f"{list(leaf.shape)} {str(leaf.dtype)[6:]} on {leaf.device}"
    return f"{leaf!r:.40}"


class StaticInputs:
    """A buffer on the device for every tensor of a call, also for those on the host, made at the
    first `load`.

    The arguments in `changing` are copied at every call; the others only where the tensor is
    another one, or was written to, since the last time.  `copies` counts.
    """

    def __init__(
        self, arguments: Arguments, device: torch.device, changing: Collection[int]
    ) -> None:
        self._structure, self._kinds, self._device = arguments.structure, arguments.leaves, device
        self._tensors = [i for i, kind in enumerate(self._kinds) if isinstance(kind, Kind)]
        self._buffers: list[Any] = []
        self._changing = frozenset(changing)
        self._last: dict[int, tuple[Tensor, int]] = {}
        self._versions: list[int] = []
        hosts = [self._kinds[i].device.type == "cpu" for i in self._tensors]
        self.from_host = any(hosts) and device.type != "cpu"
        self.copies = 0

    def load(self, arguments: Arguments) -> None:
        """Copy what is not there yet."""
        if not self._buffers:
            self._buffers = [self._buffer(kind) for kind in self._kinds]
        for i in self._tensors:
            leaf = arguments.leaves[i]
            count = write_count(leaf)
            last = self._last.get(i)
            if last is not None and last[0] is leaf and last[1] == count:
                continue
            # What is pinned is read later, when its owner may have written to it.
            waits = leaf.device.type == "cpu" and leaf.is_pinned()
            self._buffers[i].copy_(leaf, non_blocking=not waits)
            self.copies += 1
            if i not in self._changing and count >= 0:
                self._last[i] = (leaf, count)
        self._versions = [self._buffers[i]._version for i in self._tensors]

    def _buffer(self, kind: Any) -> Any:
        if not isinstance(kind, Kind):
            return kind
        device = self._device if kind.device.type == "cpu" else kind.device
        return replace(kind, device=device).empty()

    def call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments made of the buffers."""
        args, kwargs = tree_unflatten(self._buffers, self._structure)
        return args, kwargs

    def buffer(self, index: int) -> Any:
        """What stands for a flattened argument."""
        return self._buffers[index]

    def written(self) -> list[int]:
        """The arguments to which the forward wrote since `load`."""
        pairs = zip(self._tensors, self._versions, strict=True)
        return [i for i, version in pairs if self._buffers[i]._version != version]

    def addresses(self) -> set[int]:
        """Those of the buffers' memory."""
        return {self._buffers[i].untyped_storage().data_ptr() for i in self._tensors}

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers if isinstance(buffer, Tensor))


def index_of(value: object, leaves: Sequence[Any]) -> int | None:
    """Where in the flattened arguments a tensor stands."""
    if not isinstance(value, Tensor):
        return None
    return next((i for i, leaf in enumerate(leaves) if leaf is value), None)
