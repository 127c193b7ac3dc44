"""Static copies of composed weights, as the model's weights are when a run begins.

A write through `.data` leaves no mark in PyTorch, and nobody waits for the device: so it is the
device that compares the bits of the long skips' weights, and composes anew where they differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from l2c_rt.backends.composed_linears import Weight, compose, own_half
from l2c_rt.kernels._launch import MOST_NUMBERS

Group = tuple[Weight, ...]
"""Weights side by side in one tensor, for one kernel."""


class ComposedWeights:
    """Of each group, [D, k D]: the model's own weight where that is all, or a copy.

    Weights of 32 bits are composed in float64, and before every run.
    """

    def __init__(
        self, groups: Iterable[Group], named: Mapping[str, nn.Linear], kernels: Any
    ) -> None:
        self._named, self._kernels = named, kernels
        self._of: dict[Group, Tensor] = {}
        self.copies: dict[Group, Tensor] = {}
        for group in dict.fromkeys(groups):
            own = _own(group, named)
            if own is None:
                rows = len(like := named[group[0].nodes[0]].weight)
                own = self.copies[group] = like.new_empty(rows, rows * len(group))
            self._of[group] = own
        nodes = {node for group in self.copies for weight in group for node in weight.nodes}
        self._read = [linear for node, linear in named.items() if node in nodes]
        device = next(iter(self.copies.values())).device if self.copies else None
        # One more, so that the first time they differ.
        self._now = torch.zeros(len(self._read) + 1, dtype=torch.int64, device=device)
        self._known = self._now - 1

    def of(self, group: Group) -> Tensor:
        """The weights of a group."""
        return self._of[group]

    def refresh(self) -> None:
        """Take the weights as they are now; capturable."""
        parts: dict[Weight, list[Tensor]] = {}
        for group, room in self.copies.items():
            for weight, part in zip(group, room.chunk(len(group), 1), strict=True):
                parts.setdefault(weight, []).append(part)
        if not parts:
            return
        if self._asks_the_device:
            self._compose_what_changed(parts)
            return
        for weight, matrix in compose(parts, self._named):
            for part in parts[weight]:
                part.copy_(matrix)

    @property
    def nbytes(self) -> int:
        """Of the copies."""
        return sum(copy.nbytes for copy in self.copies.values())

    @property
    def _asks_the_device(self) -> bool:
        narrow = all(linear.weight.dtype.itemsize == 2 for linear in self._read)
        return narrow and len(self._now) <= MOST_NUMBERS

    def _compose_what_changed(self, parts: Mapping[Weight, list[Tensor]]) -> None:
        self._now.zero_()
        for i, linear in enumerate(self._read):
            self._kernels.weight_bits(linear.weight.detach(), self._now, i)

        def product(weight: Weight, passed: Tensor, before: Tensor, taken: Tensor | None) -> Tensor:
            rounded = parts[weight][0] if weight in parts else None
            changed = self._now, self._known
            out = torch.empty_like(before)
            self._kernels.composed_product(passed, before, taken, *changed, out, rounded)
            return out

        for weight, matrix in compose(parts, self._named, torch.float32, product):
            first, *others = parts[weight]
            if len(weight.nodes) == 1:
                first.copy_(matrix)
            for part in others:
                part.copy_(first)
        self._known.copy_(self._now)


def _own(group: Group, linears: Mapping[str, nn.Linear]) -> Tensor | None:
    """The model's own weight, where a group is one long skip alone, or a half of it."""
    if any(own_half(weight, linears) is None for weight in group):
        return None
    if len(group) == 1:
        return own_half(group[0], linears)
    return linears[group[0].nodes[0]].weight.detach()
