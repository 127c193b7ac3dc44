"""Modulation linears for the few rows of a run, on the weights as they lie: these come at the speed
of memory, while a product that packs them first takes twice as long."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2c_rt._C import few_rows


def can_tabulate(linears: Sequence[nn.Linear], c: Tensor) -> bool:
    """Whether the extension takes these: plain float32, and columns in fours."""
    parts = [c, *(part for linear in linears for part in (linear.weight, linear.bias))]
    return bool(linears) and all(map(_is_plain, parts)) and not any(
        linear.out_features % 4 for linear in linears
    )  # fmt: skip


def _is_plain(part: Tensor | None) -> bool:
    if part is None:
        return True
    plain = type(part) in (Tensor, nn.Parameter) and part.dtype is torch.float32
    return plain and part.is_cpu and part.is_contiguous()


def tabulated(linears: Sequence[nn.Linear], c: Tensor) -> Tensor:
    """Every linear of silu(c), side by side, a row for each of c: its bits depend on no other row.

    Shapes: c [rows, D], result [rows, sum of the linears' columns].
    """
    x = F.silu(c)
    out = c.new_empty(len(c), sum(linear.out_features for linear in linears))
    column = 0
    for linear in linears:
        bias = linear.bias
        few_rows(
            (x.data_ptr(), linear.weight.data_ptr(), 0 if bias is None else bias.data_ptr(),
             out[:, column:].data_ptr()),
            (len(x), linear.in_features, linear.out_features),
            out.shape[1],
            torch.get_num_threads(),
        )  # fmt: skip
        column += linear.out_features
    return out
