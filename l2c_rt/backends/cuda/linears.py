"""Products with a bias and a GELU, each by the implementation that was chosen for its shape."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from l2c_rt.backends.cuda.tuning.candidates import run_linear, run_split
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.tuning.problems import AttentionConfig, LinearConfig, LinearProblem
from l2c_rt.kernels import reference


class Linears:
    """Chosen once for each shape; `kernels` and `tuner` are the backend's."""

    def __init__(self, kernels: Any, tuner: Tuner) -> None:
        self._kernels, self._tuner = kernels, tuner
        self.choices: dict[LinearProblem, LinearConfig] = {}

    def run(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gelu: str | None,
        out: Tensor,
        choice: LinearConfig | None = None,
    ) -> None:
        """Write gelu(x weight^T + bias) to `out`, by `choice` or the one that its shape has."""
        choice = choice or self.choices[problem_of(x, weight, bias, gelu)]
        run_linear(choice, self._kernels, x, weight, bias, gelu, out)

    def tune(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gelu: str | None,
        out: Tensor,
        *,
        splittable: bool = False,
    ) -> LinearConfig:
        """The choice for this shape, measured on these tensors where it is not known yet."""
        problem = problem_of(x, weight, bias, gelu, splittable=splittable)
        if problem in self.choices:
            return self.choices[problem]

        def make(choice: LinearConfig) -> Callable[[], None]:
            if choice.kind == "split":
                partial_sums = x.new_empty(choice.splits, x.numel() // x.shape[-1], len(weight),
                                    dtype=torch.float32)  # fmt: skip

                def split() -> None:
                    # Charge the split variant for the extra reads of its consumer.
                    run_split(choice, self._kernels, x, weight, bias, partial_sums)
                    self._kernels.split_sum(partial_sums, out=out)

                return split
            return lambda: run_linear(choice, self._kernels, x, weight, bias, gelu, out)

        expected = reference.linear(x, weight, bias, gelu)
        check = partial(agrees, make, out, expected)
        self.choices[problem] = self._tuner.linear(problem, make, check)
        return self.choices[problem]


C = TypeVar("C", LinearConfig, AttentionConfig)


def agrees(
    make: Callable[[C], Callable[[], None]], out: Tensor, expected: Tensor, choice: C
) -> bool:
    """Whether a choice computes what PyTorch does, up to rounding."""
    out.fill_(float("nan"))
    make(choice)()
    error = (out.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-20)
    return bool(error < 2e-2)


def problem_of(
    x: Tensor, weight: Tensor, bias: Tensor | None, gelu: str | None, *, splittable: bool = False
) -> LinearProblem:
    """The shape of a product."""
    n, k = weight.shape
    rows = x.numel() // x.shape[-1]
    return LinearProblem(rows, n, k, bias is not None, gelu, dtype_name(x), splittable)


def weight_and_bias(linear: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Without their gradients."""
    return linear.weight.detach(), None if linear.bias is None else linear.bias.detach()


def narrowed(buffer: Tensor, width: int, tokens: int | None = None) -> Tensor:
    """The start of a buffer [B, T, D] as [B, tokens, width], T tokens where it is not said."""
    b, t, _ = buffer.shape
    t = t if tokens is None else tokens
    return buffer.view(-1)[: b * t * width].view(b, t, width)


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
