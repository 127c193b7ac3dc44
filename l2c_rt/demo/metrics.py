"""What is measured on samples: distance to the full run, distance to real digits, readability."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio
from torchmetrics.image.fid import FrechetInceptionDistance

from l2c_rt.demo.classifier import Features
from l2c_rt.demo.digits import PIXEL_RANGE


def psnr_per_image(images: Tensor, full: Tensor) -> Tensor:
    """PSNR in dB of each image against the full run's, peak 2.0, nothing clipped.

    Equal images give inf.  Shapes: images, full [N, 1, 8, 8] -> [N].
    """
    return peak_signal_noise_ratio(
        images, full, data_range=PIXEL_RANGE, reduction="none", dim=(1, 2, 3)
    )


@torch.no_grad()
def frechet_distance(images: Tensor, real: Tensor, features: Features) -> float:
    """Frechet distance between two sets of images in the classifier's feature space.

    Shapes: images [N, 1, 8, 8]; real [M, 1, 8, 8].
    """
    metric = FrechetInceptionDistance(feature=features)
    metric.update(real, real=True)
    metric.update(images, real=False)
    return float(metric.compute())
