"""Tiny models and programs for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from weights import fill_deterministic

from l2c_rt.models import DiT, UViT
from l2c_rt.plan.program import (
    BlockProgram,
    attention_branch,
    conditioning_node,
    linear_node,
    mlp_branch,
)
from l2c_rt.schedule.cache_schedule import CacheSchedule


def toy_dit(depth: int = 3, **options: Any) -> DiT:
    """A DiT of 16 tokens whose gates are not zero."""
    settings = {"input_size": 8, "hidden_size": 32, "num_heads": 2, "num_classes": 10}
    model = DiT(depth=depth, **(settings | options))
    fill_deterministic(model, 0)
    return model.eval()


def toy_uvit(depth: int = 2, **options: Any) -> UViT:
    """A U-ViT of depth + 1 blocks and 18 tokens."""
    settings = {"img_size": 8, "patch_size": 2, "in_chans": 4, "embed_dim": 32, "num_heads": 2}
    settings["num_classes"] = 11
    model = UViT(depth=depth, **(settings | options))
    fill_deterministic(model, 0)
    return model.eval()


def toy_program(blocks: int) -> BlockProgram:
    """A DiT's nodes without a model."""
    nodes: list[Any] = [linear_node("embed", 16, 16, 32, role="embed")]
    for i in range(blocks):
        nodes.append(conditioning_node(f"modulation-{i}", 32, 192))
        nodes.append(attention_branch(i, 16, 32, gated=True))
        nodes.append(mlp_branch(i, 16, 32, 128, gated=True))
    nodes.append(linear_node("final", 16, 32, 32, role="final"))
    return BlockProgram("dit", tuple(nodes), 16, 32)


def random_schedule(
    steps: int, branches: int, seed: int = 0, share: float = 0.5, **header: Any
) -> CacheSchedule:
    """Each cell computed with probability 1 - share; row 0 full."""
    compute = np.random.default_rng(seed).random((steps, branches)) >= share
    compute[0] = True
    return CacheSchedule(compute, **header)


def timesteps(steps: int) -> list[int]:
    """Falling, whole, never twice the same."""
    return [990 - 7 * k for k in range(steps)]


def drive(model: Any, steps: int, seed: int = 0, batch: int = 2, start: int = 0) -> list[Tensor]:
    """`steps` calls of a loop whose inputs depend on (seed, step) only; what they returned."""
    results = []
    for k in range(start, steps):
        x, t, y = call_inputs(k, seed, batch)
        with torch.no_grad():
            results.append(model(x, t, y))
    return results


LABELS = {batch: torch.arange(batch) % 10 for batch in range(1, 9)}
"""The same tensor for every call and run, as a loop has one: what a backend has tabulated for it is
used again.  Written to by nobody."""


def call_inputs(step: int, seed: int = 0, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """x, t and y of one call.  The inputs of a seed follow from each other, as a solver's do."""
    x = noise(seed, batch) * (1 + step / 8)
    return x, torch.full((batch,), timesteps(step + 1)[step]), LABELS[batch]


def noise(seed: int = 0, images: int = 2) -> Tensor:
    """Noise for `sample`, the same for the same seed."""
    return torch.randn(images, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def count_branches(model: nn.Module) -> int:
    """Attentions and MLPs of a toy."""
    return 2 * sum(1 for name, _ in model.named_modules() if name.endswith("attn"))
