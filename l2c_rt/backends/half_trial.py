"""The conditional half of a batch run by itself, before a whole one: whether both give the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from l2c_rt.adapters.own.stage import OpenStage
from l2c_rt.backends.halves import sample_of

EXACT, ROUGH = 0.01, 0.1
"""How far rounding takes two batch sizes apart, relative: of float32, and of narrower types."""

REMEDY = (
    "; give every keyword argument with a row for each image in halved_arguments=, or use a method "
    "that runs no half of a batch, such as PAB or FORA"
)


class HalfTrial:
    """What one forward of the conditional half gives at the paths, and as its result.

    Kept is a number for each vector of an output: its product with a fixed vector.
    Raises ValueError where the model's forward does not take the half.
    """

    def __init__(
        self,
        open_stage: OpenStage,
        paths: Collection[str],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self._paths = frozenset(paths)
        self._given: dict[tuple[str, int], list[Tensor]] = {}
        self._calls: Counter[str] = Counter()
        try:
            out = open_stage(self._visit)(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            told = str(error).partition("\n")[0][:200]
            raise ValueError(
                f"the model's forward does not take the conditional half of the batch: {told}"
                f"{REMEDY}"
            ) from error
        self._sample = sample_of(out).clone()

    def _visit(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        out = module(*args, **kwargs)
        if path in self._paths:
            self._given[path, self._calls[path]] = [_sketch(leaf) for leaf in _tensors(out)]
            self._calls[path] += 1
        return out

    def check_site(self, path: str, call: int, conditional: object) -> None:
        """Raise ValueError where what would be kept of a whole batch is not what the half gives."""
        if path not in self._paths:
            return
        given, kept = self._given.get((path, call), []), list(_tensors(conditional))
        pairs = zip(given, kept, strict=False)
        if len(given) == len(kept) and all(_alike(a, _sketch(b), b.dtype) for a, b in pairs):
            return
        raise ValueError(
            f"the output of {path} for the conditional half of the batch is not half of that for "
            "the whole one: it has no row, or equal part, for each image, or depends on the other "
            f"half{REMEDY}"
        )

    def check_result(self, sample: Tensor) -> None:
        """Raise ValueError where the half's result is not that half of the whole batch's."""
        if not _alike(self._sample, sample, sample.dtype):
            raise ValueError(
                "the model gives another result for the conditional half of the batch alone than "
                f"in the whole batch{REMEDY}"
            )


def _tensors(out: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]


def _sketch(value: Tensor) -> Tensor:
    """One number for each vector.  Shapes: [..., D] -> [...]."""
    wide = value.float() if value.dim() else value.float().reshape(1)
    numbers = torch.arange(wide.shape[-1], device=wide.device, dtype=wide.dtype)
    return wide @ torch.cos(numbers)


def _alike(half: Tensor, whole: Tensor, dtype: torch.dtype) -> bool:
    if half.shape != whole.shape:
        return False
    bound = EXACT if dtype.itemsize >= 4 else ROUGH
    difference, size = (half - whole).float().norm(), whole.float().norm()
    return not bool(difference > bound * size)
