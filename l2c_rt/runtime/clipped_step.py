"""Was an input made by a first-order step that clips its prediction?  (DDIM with clip_sample.)

    x' = a clip(p x + q e) + b e        e: a combination of the outputs, under guidance

So every element is of one of three kinds: not clipped, a combination of x and outputs; clipped
above or below, a combination of outputs and +a or -a.  Elements of another image are of none.
"""

from __future__ import annotations

import torch
from torch import Tensor

TRIALS = 256
"""Combinations tried: one in 32 at worst is made of elements of one kind, clipped to one side."""

ELEMENTS = 512
"""Elements that are looked at."""

FEW = 8
"""Fewer elements than these show nothing: a combination may fit them by chance."""

SHARE = 0.9
"""Of the elements, at least, that must be of one of the kinds."""


def is_clipped_step(part: Tensor, x: Tensor, outs: Tensor, tolerance: float) -> bool:
    """Whether `part` is such a step from `x`.  Shapes: part, x [d]; outs [d, m], all float64."""
    if len(part) < 8 * FEW:
        return False
    near = tolerance * float(part.norm()) / len(part) ** 0.5
    count = min(len(part), ELEMENTS)
    rest = torch.arange(count, device=part.device) * (len(part) // count)
    # The larger kind first: it is found surely, and then the other is alone.
    for _ in range(2):
        if len(rest) < FEW:
            break
        free = _unclipped(part[rest], x[rest], outs[rest], near)
        bounded = _clipped(part[rest], outs[rest], near)
        larger = max(free, bounded, key=lambda kind: int(kind.sum()))
        if int(larger.sum()) < FEW:
            break
        rest = rest[~larger]
    return len(rest) <= max(FEW, (1 - SHARE) * count)


def _unclipped(part: Tensor, x: Tensor, outs: Tensor, near: float) -> Tensor:
    met, _ = _best_fit(part, torch.cat([x[:, None], outs], dim=1), near)
    return met


def _clipped(part: Tensor, outs: Tensor, near: float) -> Tensor:
    one = torch.ones_like(part)[:, None]
    above, weights = _best_fit(part, torch.cat([outs, one], dim=1), near)
    below = (part - torch.cat([outs, -one], dim=1) @ weights).abs() <= near
    return above | below


def _best_fit(part: Tensor, basis: Tensor, near: float) -> tuple[Tensor, Tensor]:
    """The combination that meets most elements: which it meets, and its weights."""
    count, terms = basis.shape
    # The same picks every time, so that the same run is judged alike.
    generator = torch.Generator().manual_seed(0)
    # One element twice makes the combination singular, which is left out.
    picks = torch.randint(count, (TRIALS, terms), generator=generator).to(part.device)
    weights, singular = torch.linalg.solve_ex(basis[picks], part[picks][..., None])
    weights = torch.where((singular == 0)[:, None], weights[..., 0], torch.nan)
    met = (part - weights @ basis.mT).abs() <= near
    best = int(met.sum(dim=1).argmax())
    return met[best], weights[best].nan_to_num()
