"""The bound that a kernel in Triton's interpreter is held to: twice the error of eager PyTorch in
the same dtype, plus a rounding, since the interpreter truncates where it stores bf16.

Outputs are poisoned first, and every argument that a call may write (slots, anchor, counter) is
compared as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.runtime import interpreter

from l2c_rt.doctor.kernel_calls import kernel, truth
from l2c_rt.doctor.kernel_operands import Arguments
from l2c_rt.doctor.tensor_trees import cloned, float64, poisoned_like, tensors

WARNINGS = [
    # A sigmoid far out; it is 0 or 1 there, as it should be.
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
]


class _Scope:
    """Where the interpreter puts the methods of tensors, with bounds of loops that are numbers.

    Triton 3.6 takes them from arrays of one element, which numpy 2.5 no longer converts.
    """

    def __init__(self, scope: Any) -> None:
        self._scope = scope

    def set_attr(self, owner: Any, name: str, value: Any) -> None:
        if name == "__index__":
            value = lambda tensor: int(tensor.handle.data.item())  # noqa: E731
        self._scope.set_attr(owner, name, value)


def _patched(owner: Any, scope: Any, patch: Any = interpreter._patch_lang_tensor) -> None:
    patch(owner, _Scope(scope))


interpreter._patch_lang_tensor = _patched

ROUNDING = {torch.float32: 2.0**-21, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
DTYPES = pytest.mark.parametrize("dtype", ROUNDING, ids=["fp32", "fp16", "bf16"])


def dtypes_in_turn(names: str, *axes: Sequence[Any]) -> pytest.MarkDecorator:
    """Every combination of the axes with one of the dtypes, and each value with all of them."""
    cases = []
    for numbered in product(*map(enumerate, axes)):
        turn = sum(number for number, _ in numbered)
        dtype = list(ROUNDING)[turn % len(ROUNDING)]
        cases.append((*(value for _, value in numbered), dtype))
    return pytest.mark.parametrize(f"{names}, dtype", cases)


def check(op: str, operands: Arguments, tile: Any = None) -> None:
    """Hold the kernel's results, and what it made of its arguments, to the bound."""
    eager, true, compiled = cloned(operands), float64(operands), cloned(operands)
    eager["out"], true["out"] = truth(op)(**eager), truth(op)(**true)
    compiled["out"] = poisoned_like(eager["out"])
    got = kernel(op)(**compiled, tile=tile)
    assert [id(t) for _, t in tensors(got)] == [id(t) for _, t in tensors(compiled["out"])]
    for (path, g), (_, e), (_, t) in zip(
        tensors(compiled), tensors(eager), tensors(true), strict=True
    ):
        close(op + path, g, e, t)


def close(label: str, got: Tensor, eager: Tensor, true: Tensor) -> None:
    assert got.shape == true.shape, label
    assert got.dtype == eager.dtype, label
    if not got.is_floating_point():
        assert torch.equal(got, true), label
        return
    assert not got.isnan().any(), f"{label}: not written everywhere"
    if not got.numel():
        return
    error = (got.double() - true).abs().max().item()
    yardstick = (eager.double() - true).abs().max().item()
    rounding = ROUNDING[got.dtype] * max(1.0, true.abs().max().item())
    assert error <= 2 * yardstick + rounding, f"{label}: {error:.3g} against {yardstick:.3g}"
