"""Gram matrices of what a branch gave before, for its regressions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l2c_rt.regression.least_squares import Array, differences

Parts = list[Tensor]
"""The tensors that a branch gives."""


def gram_of(before: Sequence[Parts], value: Parts) -> Array:
    """[m + 1, m + 1] float64 of the differences of m earlier values and the change since the first.

    Products are summed in float64, of numbers in float32.
    """
    rows = torch.from_numpy(differences(len(before))).float().to(value[0].device)
    total = torch.zeros(len(rows) + 1, len(rows) + 1, dtype=torch.float64, device=rows.device)
    for i, part in enumerate(value):
        values = torch.stack([earlier[i].float().flatten() for earlier in before])
        change = part.float().flatten() - values[0]
        columns = torch.cat([rows @ values, change[None]]).double()
        total += columns @ columns.T
    gram: Array = total.cpu().numpy()
    return gram
