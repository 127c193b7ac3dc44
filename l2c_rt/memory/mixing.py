"""Weighted sums of kept outputs: what a prediction is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Operand(NamedTuple):
    """What a corrector multiplies a predicted value by, less one, and what it adds; both broadcast
    to the value."""

    scale: Tensor | None = None
    shift: Tensor | None = None


def mixed(
    values: Sequence[Tensor],
    coefficients: Sequence[float] | Sequence[Tensor],
    operand: Operand | None = None,
) -> Tensor:
    """The sum of coefficients times values, then times `1 + scale`, plus `shift`; a new tensor.

    Summed in float32 where the values are in half precision, since neighbouring differences of
    high order cancel, and in the order given.  Shapes: values all alike, and the result;
    coefficients that are tensors have none.
    """
    first = values[0]
    wide = first.dtype if first.dtype.itemsize >= 4 else torch.float32
    total = first.to(wide) * coefficients[0]
    for value, coefficient in zip(values[1:], coefficients[1:], strict=True):
        if isinstance(coefficient, Tensor):
            total.addcmul_(value.to(wide), coefficient)
        else:
            total.add_(value.to(wide), alpha=coefficient)
    if operand is not None:
        if operand.scale is not None:
            total.addcmul_(total, operand.scale.to(total))
        if operand.shift is not None:
            total.add_(operand.shift.to(total))
    return total.to(first.dtype)


def mixed_values(
    values: Sequence[Any],
    coefficients: Sequence[float] | Sequence[Tensor],
    operand: Operand | None = None,
) -> Any:
    """The same of outputs that are tensors, or tuples and lists of them, part by part.

    What is no tensor of floating point is taken from the last value given.  Raises ValueError for
    an operand of an output of several parts.
    """
    last = values[-1]
    if isinstance(last, tuple | list):
        if operand is not None:
            raise ValueError("a corrector's tensors are for outputs of one tensor, got several")
        columns = zip(*values, strict=True)
        return type(last)([mixed_values(column, coefficients) for column in columns])
    if isinstance(last, Tensor) and last.dtype.is_floating_point:
        return mixed(values, coefficients, operand)
    return last
