"""Whole runs from the same noise, and how far their results are apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel, PublishedLoop
from l2c_rt.arguments import check_arguments
from l2c_rt.backends.backend import Callback
from l2c_rt.runtime.compiled import Compiled


@dataclass(frozen=True, slots=True)
class RunInputs:
    """What all runs of a comparison start from.

    Shapes: noise [n, C, H, W]; labels [n], None for a model without labels.
    """

    noise: Tensor
    labels: Tensor | None
    cfg_scale: float

    @classmethod
    def drawn(
        cls, where: str, bound_model: BoundModel, images: int, cfg_scale: float | None, seed: int
    ) -> RunInputs:
        """Noise by the seed, and labels that go round the classes, on the model's device.

        `cfg_scale` None is the family's.  Raises ValueError that begins with `where`.
        """
        check_arguments(where, images=images, seed=seed, cfg_scale=cfg_scale)
        loop = _loop(where, bound_model)
        if cfg_scale is None:
            cfg_scale = loop.cfg_scale if loop.null_label is not None else 0.0
        generator = torch.Generator().manual_seed(seed)
        shape = (images, loop.channels, loop.size, loop.size)
        noise = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        labels = torch.arange(images, device="cpu") % loop.classes if loop.classes else None
        device = bound_model.device
        return cls(noise.to(device), None if labels is None else labels.to(device), cfg_scale)

    def latents(self, fast: Compiled) -> tuple[list[Tensor], list[Tensor]]:
        """The latents after every evaluation, and the images at the end."""
        steps: list[Tensor] = []
        self.run(fast, lambda step, latents: steps.append(latents.float()))
        return steps, steps[-1:]

    def run(self, fast: Compiled, callback: Callback | None = None) -> Tensor:
        """The latents at the end of a whole run, in float32."""
        return fast.sample(self.noise, self.labels, self.cfg_scale, callback=callback).float()


def _loop(where: str, bound_model: BoundModel) -> PublishedLoop:
    if bound_model.sampling is None:
        raise ValueError(f"{where}: no published loop for {type(bound_model.model).__name__}")
    return bound_model.sampling


def require_finite(where: str, tensors: Iterable[Tensor]) -> None:
    """ValueError where a full run gave NaN or infinity: nothing can be measured against it."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ValueError(
            f"{where}: the model's full run gives numbers that are not finite; check its weights "
            "and dtype"
        )


def relative_error(values: Tensor, full: Tensor) -> float:
    """|values - full| / |full|, over all images at once."""
    return float((values - full).norm() / full.norm())


def psnr_per_image(images: Tensor, full: Tensor, peak: float) -> tuple[float, ...]:
    """dB of each image, infinite for an equal one.  Shapes: images, full [n, ...]."""
    squares = (images - full).square().flatten(1).mean(dim=1).double()
    return tuple(float(value) for value in 10.0 * torch.log10(peak**2 / squares))
