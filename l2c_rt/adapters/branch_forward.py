"""One evaluation of a bound model with a say in every branch's output: record, full, soft mix.

Nothing here patches the model: its own submodules run, in the order of the program.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.plan.program import Branch

OnBranch = Callable[[int, Tensor], Tensor]
"""(branch, its output before the gate) -> what is added in its place."""


def evaluate(
    bound_model: BoundModel, x: Tensor, t: Tensor, y: Tensor | None, on_branch: OnBranch
) -> Tensor:
    """The model's output in the dtype of x, every branch output passed through `on_branch`.

    The model runs in its own dtype.
    """
    dtype = next(bound_model.model.parameters()).dtype
    state = bound_model.begin(**bound_model.arguments(x.to(dtype), t, y))
    k = 0
    for node in bound_model.program.nodes:
        if isinstance(node, Branch):
            code = bound_model.branches[node.name]
            code.add(state, on_branch(k, code.compute(state)))
            k += 1
        else:
            bound_model.fixed[node.name](state)
    return bound_model.to_tensor(bound_model.finish(state)).to(x.dtype)


@torch.no_grad()
def full_pass(bound_model: BoundModel, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    """The teacher: everything computed."""
    return evaluate(bound_model, x, t, y, lambda k, out: out)


@torch.no_grad()
def recording_pass(
    bound_model: BoundModel, x: Tensor, t: Tensor, y: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """The model's output, and every branch's output before the gate, in execution order."""
    previous_outputs: list[Tensor] = []

    def keep(k: int, out: Tensor) -> Tensor:
        previous_outputs.append(out)
        return out

    return evaluate(bound_model, x, t, y, keep), previous_outputs


def mixed_pass(
    bound_model: BoundModel,
    previous_outputs: Sequence[Tensor],
    weights: Tensor,
    x: Tensor,
    t: Tensor,
    y: Tensor | None,
) -> Tensor:
    """The student: branch k gives w_k f_k(x) + (1 - w_k) kept_k.

    Differentiable in `weights` [K], through every later branch as well.
    """
    shares = weights.to(previous_outputs[0].dtype).unbind()
    return evaluate(
        bound_model, x, t, y, lambda k, out: torch.lerp(previous_outputs[k], out, shares[k])
    )


class _Flags:
    """Those of a model before it was frozen, and who holds it so."""

    def __init__(self, model: nn.Module) -> None:
        self.holders: set[object] = set()
        self._parameters = [(p, p.requires_grad) for p in model.parameters()]
        self._modules = [(module, module.training) for module in model.modules()]

    def put_back(self) -> None:
        for parameter, flag in self._parameters:
            parameter.requires_grad_(flag)
        for module, mode in self._modules:
            module.training = mode


_frozen: dict[nn.Module, _Flags] = {}  # Of the process, as models and their flags are.
_alone = threading.Lock()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The model without gradients and random drops; flags and modes are put back at the end, where
    several threads hold it by the last of them."""
    holder = object()
    try:
        with _alone:
            _frozen.setdefault(model, _Flags(model)).holders.add(holder)
            model.requires_grad_(False)
            model.eval()
        yield
    finally:
        with _alone:
            flags = _frozen.get(model)
            if flags is not None:
                flags.holders.discard(holder)
                if not flags.holders:
                    flags.put_back()
                    del _frozen[model]
