"""PSNR, SSIM and FID of images, and why a metric is not there."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn

from l2c_rt.comparison.image_metrics import ImageMetrics, frechet_distance

FULL = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
OTHER = FULL + 0.1 * torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Means(nn.Module):
    """Two features of a picture."""

    def forward(self, pictures: Tensor) -> Tensor:
        flat = pictures.flatten(1)
        return torch.stack([flat.mean(1), flat.std(1)], 1)


def test_ssim_is_torchmetrics_per_image_and_one_for_equal_images() -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    metrics = ImageMetrics([FULL], 1.0)
    assert metrics.of([FULL], [FULL]).ssim == (1.0, 1.0, 1.0)
    low, values = float(FULL.min()), metrics.of([OTHER], [FULL]).ssim
    for k, value in enumerate(values):
        pair = [(x[k : k + 1] - low).clamp(0, 1) for x in (OTHER, FULL)]
        ssim = functional.structural_similarity_index_measure(*pair, data_range=1.0)
        assert value == pytest.approx(float(ssim))


def test_pictures_with_channels_last_are_the_same_pictures() -> None:
    pytest.importorskip("torchmetrics")
    first = ImageMetrics([FULL], 1.0, nn.Flatten()).of([OTHER], [FULL])
    last = [image.movedim(1, -1) for image in (OTHER, FULL)]
    other = ImageMetrics(last[1:], 1.0, nn.Flatten()).of(last[:1], last[1:])
    assert other.ssim == pytest.approx(first.ssim)
    assert torch.equal(other.features, first.features)


def test_features_are_those_of_the_module_that_is_given() -> None:
    quality = ImageMetrics([FULL], 1.0, Means()).of([FULL], [FULL])
    assert quality.features is not None
    assert torch.allclose(quality.features, Means()(FULL - FULL.min()))


def test_the_frechet_distance_of_shifted_normals_is_that_of_their_means_and_variances() -> None:
    # Of one feature: (m - n)^2 + (s - t)^2.
    points = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(3 * points + 2, points) == pytest.approx(4 + 4, rel=0.05)
    wide = torch.randn(500, 4, generator=torch.Generator().manual_seed(1))
    assert frechet_distance(wide, wide + torch.tensor([1.0, 0, 0, 2])) == pytest.approx(5)


def test_torchmetrics_frechet_distance_is_the_same() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    features = Means()
    features.num_features = 2
    metric = fid.FrechetInceptionDistance(feature=features)
    metric.update(FULL, real=True)
    metric.update(OTHER, real=False)
    ours = frechet_distance(features(OTHER), features(FULL))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-3)


@pytest.mark.parametrize(
    ("images", "absent", "reason"),
    [
        ([], {"psnr", "ssim", "lpips", "fid"}, "latents are no images"),
        ([torch.rand(2, 8)], {"ssim", "lpips", "fid"}, r"\(2, 8\) are no pictures"),
        ([torch.rand(2, 1, 8, 8)], {"ssim"}, "window is 11 pixels, the images are 8"),
    ],
)
def test_a_metric_that_is_not_there_says_why(
    images: list[Tensor], absent: set[str], reason: str
) -> None:
    pytest.importorskip("torchmetrics")
    metrics = ImageMetrics(images, 1.0)
    assert absent <= metrics.reasons.keys()
    assert all(re.search(reason, metrics.reasons[name]) for name in absent)


def test_without_torchmetrics_psnr_is_left_and_the_others_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("l2c_rt.comparison.image_metrics.find_spec", lambda name: None)
    metrics = ImageMetrics([FULL], 1.0)
    assert metrics.reasons.keys() == {"ssim", "lpips", "fid"}
    assert all("pip install" in reason for reason in metrics.reasons.values())
    quality = metrics.of([FULL], [FULL])
    assert (quality.psnr, quality.ssim) == ((math.inf,) * 3, ())


def test_a_network_whose_weights_are_not_on_disk_is_not_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr("l2c_rt.comparison.image_metrics.find_spec", lambda name: name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    reasons = ImageMetrics([torch.rand(1, 3, 8, 8)], 1.0).reasons
    assert "alexnet" in reasons["lpips"]
    assert "weights-inception" in reasons["fid"]
