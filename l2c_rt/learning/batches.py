"""Batches of a data set, over and over, checked as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

Batch = tuple[Tensor, Tensor | None]
"""Latents [B, C, H, W], and labels [B] where the model has any."""


def endless(data: Iterable[Any], labelled: bool, skip: int = 0) -> Iterator[Batch]:
    """(latents, labels) batch after batch, over and over, without the first `skip`.

    Labels are None where the model has none (`labelled` False).
    Raises ValueError for batches of another kind, or where `data` cannot be gone through again.
    """
    while True:
        empty = True
        for batch in data:
            empty = False
            if skip:
                skip -= 1
                continue
            yield _checked(batch, labelled)
        if empty:
            raise ValueError(
                "learn: data gave no batch; give a list or a DataLoader, which can be gone through "
                "again, not a generator that ends"
            )


def _checked(batch: Any, labelled: bool) -> Batch:
    tensors = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if all(isinstance(value, Tensor) for value in tensors) and len(tensors) in (1, 2):
        clean, labels = tensors[0], tensors[-1]
        if clean.dim() == 4 and clean.is_floating_point():
            if not labelled:
                return clean, None
            if labels.shape == clean.shape[:1] and not labels.is_floating_point():
                return clean, labels.long()
    got = ", ".join(
        str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
        for value in tensors
    )
    expected = "latents [B, C, H, W]" + (", integer labels [B]" if labelled else "")
    raise ValueError(f"learn: a batch of data is ({got}), wanted ({expected})")
