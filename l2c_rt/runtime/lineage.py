"""Does an input belong to the run under way?  Its latents tell.

What a solver makes is a linear combination of the inputs and outputs before it: first-order,
multistep and singlestep ones alike, with or without guidance and scaling.  Another image is not, so
a call whose input is one belongs to the run.  Solvers that add noise prove nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l2c_rt.runtime.calls import Relation
from l2c_rt.runtime.clipped_step import is_clipped_step

HISTORY = 20
"""Evaluations looked back on: PNDM's first multistep evaluation takes one of 16 before."""

MAX_ELEMENTS = 1024
"""Elements of each image that are compared: many more than there are coefficients."""

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Rounding of a loop, as |residual| / |input|."""


class Lineage:
    """The last inputs and outputs of a run, a part of each.

    A batch that holds the same latents several times, for guidance, counts as these once, with as
    many outputs.  Memory: HISTORY x (1 + copies) x MAX_ELEMENTS float64 per image.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[int, Tensor]] = []
        self._images = 0
        self._region: tuple[int, ...] = ()

    def add(self, step: int, x: Tensor, out: Tensor) -> None:
        """Note an evaluation's input and output.  Shapes: [B, ...] of as many dimensions."""
        if x.ndim != out.ndim or len(x) != len(out) or not x.is_floating_point():
            self._steps = []
            return
        if not self._steps:
            self._images = _distinct_images(x)
            self._region = tuple(map(min, x.shape[1:], out.shape[1:]))
        parts = [_part(x[: self._images], self._region)]
        parts += [_part(piece, self._region) for piece in torch.split(out, self._images)]
        self._steps = [entry for entry in self._steps if entry[0] > step - HISTORY]
        self._steps.append((step, torch.stack(parts, dim=-1)))

    def relation(self, x: Tensor) -> Relation:
        """How an input is related to the run.  Waits for the device that it is on."""
        if not self._steps or x.ndim != len(self._region) + 1 or len(x) % self._images:
            return "foreign"
        if any(size < least for size, least in zip(x.shape[1:], self._region, strict=True)):
            return "foreign"
        part = _part(x[: self._images], self._region)
        if part.device != self._steps[0][1].device:
            return "foreign"
        if any(torch.equal(part, kept[..., 0]) for _, kept in self._steps):
            return "again"
        tolerance = TOLERANCE.get(x.dtype, 1e-4)
        basis = torch.cat([kept for _, kept in self._steps], dim=-1)
        # DiT's published guidance leaves some channels out, so that each has its own coefficients.
        together = _in_span(part.flatten(1), basis.flatten(1, 2), tolerance)
        apart = together or _in_span(part.flatten(0, 1), basis.flatten(0, 1), tolerance)
        return "follows" if apart or self._clipped(part, tolerance) else "foreign"

    def _clipped(self, part: Tensor, tolerance: float) -> bool:
        """Whether the last evaluation's output was used in a step that clips its prediction."""
        last = max(step for step, _ in self._steps)
        kept = [kept for step, kept in self._steps if step == last]
        x, outs = kept[0][..., 0], torch.cat([one[..., 1:] for one in kept], dim=-1)
        images = range(len(part))
        together = [(part[i].flatten(), x[i].flatten(), outs[i].flatten(0, 1)) for i in images]
        if all(is_clipped_step(*row, tolerance) for row in together):
            return True
        channels = range(part.shape[1])
        return all(
            is_clipped_step(part[i, c], x[i, c], outs[i, c], tolerance)
            for i in images
            for c in channels
        )


def _in_span(part: Tensor, basis: Tensor, tolerance: float) -> bool:
    """Whether every row is a combination of its basis.  Shapes: part [n, d]; basis [n, d, p]."""
    elements = part.shape[-1]
    # Few elements would be met by chance.
    basis = basis[..., -(elements // 4) :] if elements >= 4 else basis[..., :0]
    if basis.shape[-1] == 0 or not bool(basis.isfinite().all() & part.isfinite().all()):
        return False
    basis = basis / basis.norm(dim=1, keepdim=True).clamp_min(1e-30)
    inverse = torch.linalg.pinv(basis.mT @ basis, rtol=1e-12, hermitian=True)
    combination = basis @ (inverse @ (basis.mT @ part[..., None]))
    residual = (part - combination[..., 0]).norm(dim=1)
    return bool((residual <= tolerance * part.norm(dim=1)).all())


def _distinct_images(x: Tensor) -> int:
    """Images after which the batch repeats itself: half of it under guidance."""
    batch = len(x)
    for copies in range(min(batch, 4), 1, -1):
        if batch % copies == 0:
            images = batch // copies
            if torch.equal(x[images:], x[:-images]):
                return images
    return batch


def _part(x: Tensor, region: tuple[int, ...]) -> Tensor:
    """Up to MAX_ELEMENTS elements of each image, [n, channels, d] float64.

    Tokens [B, T, D] count as one channel.
    """
    inside = (slice(None), *(slice(size) for size in region))
    channels = region[0] if len(region) > 2 else 1
    flat = x[inside].reshape(len(x), channels, -1)
    stride = -(-flat.shape[1] * flat.shape[2] // MAX_ELEMENTS)
    return flat[..., :: max(1, stride)].to(torch.float64, copy=True)
