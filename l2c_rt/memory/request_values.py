"""Kept outputs of many requests, read and written as those of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from l2c_rt.memory.kept_values import KeptValues, Size, ValueKey


class RequestValues:
    """By key, the parts of an output: a tensor of `rows` samples for each tensor among them.

    The first dimension of what is kept is that of the samples.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.kept: dict[ValueKey, tuple[type | None, list[Any]]] = {}

    def of(self, rows: Sequence[int]) -> BatchValues:
        """The values of a batch whose samples are at `rows`."""
        return BatchValues(self, rows)

    def poison(self) -> None:
        """Fill all with NaN, so that a stale read would show."""
        for tensor in self._tensors():
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors())

    def _tensors(self) -> list[Tensor]:
        # A copy: other threads ask for the memory.
        parts = [part for _, parts in list(self.kept.values()) for part in parts]
        return [part for part in parts if isinstance(part, Tensor)]


class BatchValues(KeptValues):
    """The values of the samples of one evaluation.  What is handed out is a copy."""

    def __init__(self, home: RequestValues, rows: Sequence[int]) -> None:
        super().__init__()
        self._all, self._count = home, len(rows)
        self._rows = torch.tensor(rows)

    def expect(self, counts: Mapping[Size, int]) -> None:
        """Memory is taken by what is kept."""

    def keep(
        self,
        key: ValueKey,
        value: object,
        alike: int,
        *,
        may_change: bool,
        bases: Sequence[Tensor | None] = (),
    ) -> None:
        """As `KeptValues.keep`.  Raises ValueError for a tensor that is not of one sample after
        another, and for another shape than other requests have kept."""
        container = type(value) if isinstance(value, tuple | list) else None
        parts = list(value) if isinstance(value, tuple | list) else [value]
        known = self._all.kept.setdefault(key, (container, [None] * len(parts)))[1]
        for i, part in enumerate(parts):
            if not isinstance(part, Tensor):
                known[i] = part
                continue
            base = bases[i] if bases else None
            if base is not None:
                part = part - base
            place = known[i] = self._samples(part, known[i])
            place.index_copy_(0, self._rows.to(part.device), part)

    def get(self, key: ValueKey) -> Any:
        container, parts = self._all.kept[key]
        values = [
            part.index_select(0, self._rows.to(part.device)) if isinstance(part, Tensor) else part
            for part in parts
        ]
        return values[0] if container is None else container(values)

    def not_kept(self, value: Any) -> Any:
        """The value: what was handed out is a copy already."""
        return value

    def _samples(self, part: Tensor, known: Any) -> Tensor:
        if part.dim() == 0 or part.shape[0] != self._count:
            raise ValueError(
                f"{list(part.shape)} is not one sample after another for {self._count} samples, so "
                "requests cannot share evaluations of this model"
            )
        if not isinstance(known, Tensor):
            return part.new_empty((self._all.rows, *part.shape[1:]))
        if known.shape[1:] != part.shape[1:] or known.dtype != part.dtype:
            raise ValueError(
                f"{list(part.shape[1:])} {part.dtype} for each sample, but other requests have "
                f"{list(known.shape[1:])} {known.dtype}; give all requests inputs of one size"
            )
        return known
