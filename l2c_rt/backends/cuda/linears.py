"""Products with a bias and a GELU, each by the implementation that was chosen for its shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from l2c_rt.backends.cuda.branch_tuning import LinearTask
from l2c_rt.backends.cuda.cublas_lt import workspace_on
from l2c_rt.backends.cuda.tuning.runs import run_linear
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.tuning.problems import LinearConfig, LinearProblem


class Linears:
    """Chosen once for each shape; `kernels` and `tuner` are the backend's."""

    def __init__(self, kernels: Any, tuner: Tuner) -> None:
        self._kernels, self._tuner = kernels, tuner
        self.choices: dict[LinearProblem, LinearConfig] = {}
        self._workspace: Tensor | None = None

    def choose(self, problem: LinearProblem, choice: LinearConfig, device: torch.device) -> None:
        """Compute a shape this way from now on."""
        self.choices[problem] = choice
        if choice.kind == "lt" and self._workspace is None:
            # Taken now: memory allocated in a capture would belong to one graph.  A program's own:
            # it runs on one stream at a time, and its graphs keep the address.
            self._workspace = workspace_on(device)

    @property
    def nbytes(self) -> int:
        """Of the workspace."""
        return 0 if self._workspace is None else self._workspace.numel()

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
        run_linear(choice, self._kernels, x, weight, bias, gelu, out, workspace=self._workspace)

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
        task = LinearTask(problem, x, [(weight, bias)], out)
        self.choose(problem, task.settle(self._tuner, self._kernels), x.device)
        return self.choices[problem]


def problem_of(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gelu: str | None,
    *,
    splittable: bool = False,
    sources: int = 1,
) -> LinearProblem:
    """The shape of a product."""
    n, k = weight.shape
    rows = x.numel() // x.shape[-1]
    return LinearProblem(rows, n, k, bias is not None, gelu, dtype_name(x), splittable, sources)


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
