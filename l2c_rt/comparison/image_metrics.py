"""Images of a method against those of the full run: PSNR, SSIM, LPIPS, and features for FID.

All but PSNR are torchmetrics', where it is installed and has what it needs; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from l2c_rt.comparison.runs import psnr_per_image

SSIM_WINDOW = 11
"""Pixels of its Gaussian window."""
LPIPS_LEAST = 64
"""Pixels that AlexNet needs on each side."""
METRICS = ("psnr", "ssim", "lpips", "fid")
INSTALL = "pip install l2c_rt[metrics]"
NO_IMAGES = "latents are no images: give decode="

PerImage = tuple[float, ...]


class Quality(NamedTuple):
    """A value per image; empty where a metric is not there.  `features` are [n, F] or None."""

    psnr: PerImage = ()
    ssim: PerImage = ()
    lpips: PerImage = ()
    features: Tensor | None = None


class ImageMetrics:
    """The metrics for images like these; `reasons` says of every other one why it is not there.

    Raises ValueError for one of the `wanted` that is not; without them all are that can be.
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        peak: float,
        features: nn.Module | None = None,
        wanted: Collection[str] | None = None,
    ) -> None:
        self.peak = peak
        self._wanted = METRICS if wanted is None else wanted
        self._low = min((float(part.min()) for part in images), default=0.0)
        self.reasons: dict[str, str] = {}
        if images:
            pictures, reason = self._pictures(images[:1])
            side = 0 if pictures is None else min(pictures.shape[-2:])
            self._ssim = self._tried("ssim", reason or _no_ssim(side), _ssim)
            self._lpips = self._tried("lpips", reason or _no_lpips(side), _lpips)
            no_fid = reason or missing("fid", features)
            self._features = self._tried("fid", no_fid, lambda: _network(features))
        else:
            self.reasons = {name: NO_IMAGES for name in METRICS if name in self._wanted}
        if wanted is not None and self.reasons:
            name, reason = next(iter(self.reasons.items()))
            raise ValueError(f"compare: metrics has {name!r}: {reason}")

    @torch.no_grad()
    def of(self, images: Sequence[Tensor], full: Sequence[Tensor]) -> Quality:
        """One run's images against the full run's of the same seed."""
        if not images:
            return Quality()
        pairs = zip(images, full, strict=True)
        psnr = tuple(chain.from_iterable(psnr_per_image(a, b, self.peak) for a, b in pairs))
        (shown, _), (target, _) = self._pictures(images), self._pictures(full)
        if shown is None or target is None:
            return Quality(psnr)
        ssim = () if self._ssim is None else self._ssim(shown, target)
        lpips = () if self._lpips is None else self._lpips(shown, target)
        features = None if self._features is None else self._features(shown).float().cpu()
        return Quality(psnr, ssim, lpips, features)

    def _tried(self, name: str, reason: str, make: Callable[[], Any]) -> Any:
        if name not in self._wanted:
            return None
        if reason:
            self.reasons[name] = reason
            return None
        return make()

    def _pictures(self, images: Sequence[Tensor]) -> tuple[Tensor | None, str]:
        """[n, C, H, W] in 0..1 where that is what the images are, or why not."""
        parts = []
        for part in images:
            if part.dim() == 4 and part.shape[1] not in (1, 3) and part.shape[-1] in (1, 3):
                part = part.movedim(-1, 1)
            if part.dim() != 4 or part.shape[1] not in (1, 3):
                return None, f"{tuple(part.shape)} are no pictures [n, 1 or 3, H, W]"
            parts.append(part.float())
        return ((torch.cat(parts) - self._low) / self.peak).clamp(0, 1), ""


def frechet_distance(features: Tensor, others: Tensor) -> float:
    """|m - n|^2 + tr(A + B - 2 sqrt(A B)) of the means and covariances.  Shapes: [n, F], [m, F].

    Biased upwards for few images: compare it between sets of one size.  Source: arXiv 1706.08500.
    """
    a, b = features.double(), others.double()
    difference = (a.mean(0) - b.mean(0)).square().sum()
    first, second = (torch.cov(values.T).reshape(2 * [values.shape[1]]) for values in (a, b))
    roots = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum()
    # Rounding may leave a little less than nothing between equal sets.
    return max(0.0, float(difference + first.trace() + second.trace() - 2 * roots))


def check_metrics(
    wanted: Collection[str] | None, features: nn.Module | None, real: Tensor | None, decodes: bool
) -> None:
    """Raise ValueError for wanted metrics that cannot be had, whatever the images will be;
    `decodes` says that there will be some.  With `real` images FID is wanted."""
    for name in wanted or ():
        if name not in METRICS:
            raise ValueError(
                f"compare: metrics has {name!r:.40}, wanted some of {', '.join(METRICS)}"
            )
        if reason := missing(name, features) or ("" if decodes else NO_IMAGES):
            raise ValueError(f"compare: metrics has {name!r}: {reason}")
    if real is not None and (reason := missing("fid", features)):
        raise ValueError(f"compare: real= is for FID: {reason}")


def missing(name: str, features: nn.Module | None) -> str:
    """What has to be installed or downloaded for a metric; "" where all is there."""
    if name == "ssim" and find_spec("torchmetrics") is None:
        return f"SSIM is torchmetrics': {INSTALL}"
    if name == "lpips":
        return _missing("LPIPS", "torchmetrics", "torchvision", weights="alexnet-*.pth")
    if name == "fid" and features is None:
        needs = _missing("FID", "torchmetrics", "torch_fidelity", weights="weights-inception-*.pth")
        return f"{needs}, or features=" if needs else ""
    return ""


def _no_ssim(side: int) -> str:
    if reason := missing("ssim", None):
        return reason
    if side < SSIM_WINDOW:
        return f"SSIM's window is {SSIM_WINDOW} pixels, the images are {side}"
    return ""


def _ssim() -> Callable[[Tensor, Tensor], PerImage]:
    from torchmetrics.functional.image import structural_similarity_index_measure as similarity

    def per_image(shown: Tensor, target: Tensor) -> PerImage:
        pairs = zip(shown, target, strict=True)
        values: list[Any] = [similarity(a[None], b[None], data_range=1.0) for a, b in pairs]
        return tuple(map(float, values))

    return per_image


def _no_lpips(side: int) -> str:
    if reason := missing("lpips", None):
        return reason
    return "" if side >= LPIPS_LEAST else f"LPIPS needs {LPIPS_LEAST} pixels, the images are {side}"


def _lpips() -> Callable[[Tensor, Tensor], PerImage]:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    metric = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)

    def per_image(shown: Tensor, target: Tensor) -> PerImage:
        pairs = zip(_in_colour(shown), _in_colour(target), strict=True)
        return tuple(float(metric(a[None], b[None])) for a, b in pairs)

    return per_image


def _network(features: nn.Module | None) -> Callable[[Tensor], Tensor]:
    """Inception, or the user's own network where that lies."""
    if features is None:
        return _inception()
    held = next(features.parameters(), None)
    return features if held is None else lambda shown: features(shown.to(held.device))


def _inception() -> Callable[[Tensor], Tensor]:
    from torchmetrics.image.fid import FrechetInceptionDistance

    network: Any = FrechetInceptionDistance(feature=2048).inception
    return lambda shown: network((255 * _in_colour(shown)).round().to(torch.uint8))


def _missing(name: str, *modules: str, weights: str) -> str:
    absent = [module for module in modules if find_spec(module) is None]
    if absent:
        return f"{name} needs pip install {' '.join(absent).replace('_', '-')}"
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return "" if any(folder.glob(weights)) else f"{name} needs {folder / weights}"


def _in_colour(pictures: Tensor) -> Tensor:
    return pictures.expand(-1, 3, -1, -1).cpu()
