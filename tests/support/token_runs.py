"""Runs of token methods with the tokens that they choose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from taped_graphs import TapedKernels
from torch import Tensor

from l2c_rt.backends import reference as reference_backend
from l2c_rt.backends.cpu import fused
from l2c_rt.backends.token_states import Choose
from l2c_rt.kernels import reference
from l2c_rt.plan.ops import Plan
from l2c_rt.plan.tokens import Refresh


@contextmanager
def chosen_tokens(tokens: int) -> Iterator[list[Tensor]]:
    """While it lasts, the tokens of each choice in order, bool [B, tokens]."""
    masks: list[Tensor] = []

    def noted(choose: Choose, *args: Any) -> tuple[Tensor, Tensor]:
        chosen, older = choose(*args)
        masks.append(torch.zeros(len(chosen), tokens, dtype=torch.bool).scatter(1, chosen, True))
        return chosen, older

    with pytest.MonkeyPatch.context() as patch:
        for backend in (reference_backend, fused):
            patch.setattr(backend, "choose_and_age", partial(noted, backend.choose_and_age))
        yield masks


def noted_kernels(tokens: int, masks: list[Tensor]) -> TapedKernels:
    """Kernels on tapes that put the tokens of each choice into `masks`, bool [B, tokens]."""

    def noted(*args: Any, out: Tensor, **kwargs: Any) -> Tensor:
        chosen = reference.choose_tokens(*args, out=out, **kwargs)
        masks.append(torch.zeros(len(chosen), tokens, dtype=torch.bool).scatter(1, chosen, True))
        return chosen

    functions = {op: getattr(reference, op) for op in reference.__all__}
    return TapedKernels(SimpleNamespace(**(functions | {"choose_tokens": noted})))


def by_block(plan: Plan, masks: list[Tensor]) -> dict[tuple[int, int], Tensor]:
    """The choices of one run by evaluation and block."""
    places = [
        (s, int(op.branch.partition("-")[2]))
        for s in range(plan.num_evaluations) for op in plan.at(s) if isinstance(op, Refresh)
    ]  # fmt: skip
    return dict(zip(places, masks, strict=True))
