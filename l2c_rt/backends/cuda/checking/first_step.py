"""The first step of a plan by the kernels, against the model's own functions on the same input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends.backend import WrongResultError

ROUNDING = {torch.float8_e4m3fn: 2**-5, torch.bfloat16: 2**-8, torch.float16: 2**-11,
            torch.float32: 2**-13}  # fmt: skip
"""Of one branch; that of float32 is TF32's with its sums."""


@dataclass(slots=True)
class FirstStep:
    """`meaning` computes what `result` should hold after the step, from the buffers before it.

    Raises, from `after`: WrongResultError with the difference.
    """

    model: BoundModel
    meaning: Callable[[], Tensor]
    result: Tensor
    dtype: torch.dtype
    _expected: list[Tensor] = field(default_factory=list)

    def before(self) -> None:
        """The buffers hold the step's input."""
        self._expected[:] = [self.meaning()]

    def after(self) -> None:
        """The step has run."""
        expected = self._expected.pop().double()
        error = float((self.result.double() - expected).norm() / expected.norm().clamp_min(1e-30))
        branches = len(self.model.program.branches)
        allowed = 4 * ROUNDING[self.dtype] * branches**0.5
        if not error <= allowed:
            raise WrongResultError(
                f"the kernels agree with their meaning one by one, but the first step differs from "
                f"the model by {error:.2g} of its size, where {allowed:.2g} is rounding"
            )


def model_output(model: BoundModel, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    """The model's own functions in its own order.  Shapes: x [B, C, H, W]; t [B]; y [B]."""
    state = model.begin(**model.arguments(x, t, y))
    for node in model.program.nodes:
        if node.name in model.branches:
            code = model.branches[node.name]
            code.add(state, code.compute(state))
        else:
            model.fixed[node.name](state)
    return state.x
