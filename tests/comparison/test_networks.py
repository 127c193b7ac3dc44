"""LPIPS and FID by networks that are there, and what is said of those that are not."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.comparison.image_metrics import ImageMetrics
from l2c_rt.demo.classifier import train_classifier
from l2c_rt.demo.digits import load_digits
from l2c_rt.demo.run import load_demo_model
from l2c_rt.policies import EveryN

OPTIONS: dict[str, Any] = {"compute": None, "images": 2, "seeds": 1, "rounds": 0, "progress": False}
WEIGHTS = "alexnet-owt-7be5be79.pth"


def alexnet(weights: str | None = None) -> nn.Module:
    """The layers of torchvision's AlexNet whose outputs LPIPS compares."""

    def block(*numbers: int) -> list[nn.Module]:
        return [nn.Conv2d(*numbers), nn.ReLU(inplace=True)]  # type: ignore[arg-type]

    model = nn.Module()
    model.features = nn.Sequential(
        *block(3, 64, 11, 4, 2), nn.MaxPool2d(3, 2), *block(64, 192, 5, 1, 2), nn.MaxPool2d(3, 2),
        *block(192, 384, 3, 1, 1), *block(384, 256, 3, 1, 1), *block(256, 256, 3, 1, 1),
        nn.MaxPool2d(3, 2),
    )  # fmt: skip
    if weights is not None:
        model.load_state_dict(torch.hub.load_state_dict_from_url(weights))
    return model


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where downloaded weights lie: nothing yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchvision that has nothing but AlexNet."""
    pytest.importorskip("torchmetrics.image.lpip")
    package, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    package.models = models  # type: ignore[attr-defined]
    models.alexnet = alexnet  # type: ignore[attr-defined]
    models.AlexNet_Weights = type("", (), {"DEFAULT": f"https://nowhere.invalid/{WEIGHTS}"})  # type: ignore[attr-defined]
    for module in (package, models):
        module.__spec__ = ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("functional.image.lpips", "image.lpip"):
        monkeypatch.setattr(f"torchmetrics.{name}._TORCHVISION_AVAILABLE", True)


def decoded(latents: Tensor) -> Tensor:
    return nn.functional.interpolate(latents[:, :3], size=64).tanh()


@pytest.mark.usefixtures("torchvision")
def test_lpips_is_that_of_the_network_whose_weights_were_downloaded(checkpoints: Path) -> None:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    torch.save(alexnet().state_dict(), checkpoints / WEIGHTS)
    comparison = rt.compare(
        toy_dit(), [EveryN(2)], steps=4, decode=decoded, metrics=("lpips",), **OPTIONS
    )
    full, cached = comparison.rows
    assert full.results[0].lpips == pytest.approx((0, 0))
    assert min(cached.results[0].lpips) > 0
    assert cached.results[0].ssim == ()
    assert comparison.reasons == {}
    # The network is given -1..1.
    shown, target = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    target[0, 0, 0, 0] = 0.0
    (value,) = ImageMetrics([target], 1.0, wanted=("lpips",)).of([shown], [target]).lpips
    network = LearnedPerceptualImagePatchSimilarity(net_type="alex")
    assert value == pytest.approx(float(network(2 * shown - 1, 2 * target - 1)))
    with pytest.raises(ValueError, match="LPIPS needs 64 pixels, the images are 63"):
        ImageMetrics([target[..., 1:]], 1.0, wanted=("lpips",))


@pytest.mark.usefixtures("torchvision", "checkpoints")
def test_a_wanted_network_without_its_weights_is_refused_before_any_run() -> None:
    ran: list[object] = []
    model = toy_dit()
    model.register_forward_pre_hook(lambda *call: ran.append(call))
    for options, message in (
        ({"metrics": ("ssim", "lpips")}, "metrics has 'lpips': LPIPS needs .*alexnet"),
        ({"metrics": ("fid",)}, "metrics has 'fid': FID needs .*, or features="),
        ({"real": torch.rand(4, 3, 8, 8)}, "real= is for FID: FID needs .*, or features="),
        ({"metrics": ("lips",)}, "metrics has 'lips', wanted some of psnr, ssim, lpips, fid"),
    ):
        with pytest.raises(ValueError, match=message):
            rt.compare(model, [EveryN(2)], steps=4, decode=decoded, **OPTIONS | options)
    with pytest.raises(ValueError, match="metrics has 'ssim': latents are no images: give decode="):
        rt.compare(model, [EveryN(2)], steps=4, metrics=("ssim",), **OPTIONS)
    assert not ran


def test_wanted_metrics_that_the_images_are_too_small_for_are_refused() -> None:
    pytest.importorskip("torchmetrics")
    with pytest.raises(ValueError, match="metrics has 'ssim': .* 11 pixels, the images are 8"):
        ImageMetrics([torch.rand(2, 1, 8, 8)], 1.0, wanted=("psnr", "ssim"))


def test_fid_of_digits_in_the_features_of_a_network_of_the_users() -> None:
    pytest.importorskip("sklearn")
    digits = load_digits()
    features = train_classifier(digits, 0).features
    comparison = rt.compare(
        load_demo_model(), [EveryN(2)], steps=6, metrics=("fid",), features=features,
        real=digits.images, **OPTIONS | {"images": 8},
    )  # fmt: skip
    full, cached = (row.fid for row in comparison.rows)
    assert full is not None
    assert cached is not None
    assert 0 < full != cached > 0
    assert f"{full:.2f}"[:4] in str(comparison)


@pytest.mark.slow
def test_fid_in_the_features_of_inception(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with monkeypatch.context() as undone:
        undone.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        undone.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        network = fidelity.FeatureExtractorInceptionV3("drawn", ["2048"])
    name = fidelity.URL_INCEPTION_V3.rpartition("/")[2]
    torch.save(network.state_dict(), checkpoints / name)
    comparison = rt.compare(
        toy_dit(), [EveryN(2)], steps=4, decode=decoded, metrics=("fid",), **OPTIONS
    )
    full, cached = comparison.rows
    assert full.fid == pytest.approx(0)
    assert cached.fid is not None
    assert cached.results[0].features is not None
    assert cached.results[0].features.shape == (2, 2048)
