"""Tiny models of diffusers, one per family, and inputs for them.

The tables are data: a family is a class name, a config and inputs, whose tensors are written as
marks that `inputs` turns into tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only


@dataclass(frozen=True)
class Mark:
    """A tensor to be made: of (generator, evaluation)."""

    make: Callable[[torch.Generator, int], Tensor]


def latents(*shape: int) -> Mark:
    """Normal values, which grow from evaluation to evaluation: each follows from the one before."""
    return Mark(
        lambda g, step: (
            (1 + step / 8) * torch.randn(shape, generator=torch.Generator().manual_seed(1000))
        )
    )


def normal(*shape: int) -> Mark:
    return Mark(lambda g, step: torch.randn(shape, generator=g))


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Mark:
    return Mark(lambda g, step: torch.ones(shape, dtype=dtype))


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Mark:
    return Mark(lambda g, step: torch.zeros(shape, dtype=dtype))


def count(size: int) -> Mark:
    return Mark(lambda g, step: torch.arange(size))


def whole(*values: Any) -> Mark:
    """These whole numbers."""
    return Mark(lambda g, step: torch.tensor(values))


def time(*shape: int, first: float = 500.0) -> Mark:
    """A timestep that falls from `first` on."""
    return Mark(lambda g, step: torch.full(shape, first * (1 - 0.04 * step)))


@dataclass(frozen=True)
class Family:
    """One model of diffusers; `inputs` are keyword arguments, with marks for tensors."""

    model: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Any]

    def build(self) -> Any:
        """The model, all of whose weights matter: layers that start at zero do not here."""
        diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
        if not hasattr(diffusers, self.model):
            pytest.skip(f"this diffusers has no {self.model}")
        torch.manual_seed(0)
        model: nn.Module = getattr(diffusers, self.model)(**self.config)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
        return model.eval()

    def at(self, step: int) -> dict[str, Any]:
        """The inputs of an evaluation."""
        generator = torch.Generator().manual_seed(7)
        made: dict[str, Any] = tree_map_only(
            Mark, lambda mark: mark.make(generator, step), dict(self.inputs)
        )
        return made | {"return_dict": False}


def first_tensor(out: Any) -> Tensor:
    """All tensors of a return value, as one."""
    tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    return tensors[0] if len(tensors) == 1 else torch.cat([t.flatten() for t in tensors])
