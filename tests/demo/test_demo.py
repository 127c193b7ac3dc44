"""The demo: digits, training, classifier, metrics and report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

from l2c_rt.adapters.model_fingerprint import model_fingerprint
from l2c_rt.demo import train
from l2c_rt.demo.classifier import Classifier, train_classifier
from l2c_rt.demo.digits import Digits, load_digits, split_digits
from l2c_rt.demo.metrics import frechet_distance, psnr_per_image
from l2c_rt.demo.report import HEADINGS, Result, Timing, table
from l2c_rt.demo.run import DemoSettings, equal_compute, schedules_of
from l2c_rt.demo.shipped import ASSETS, load_demo_model, load_demo_router
from l2c_rt.demo.train_state import WEIGHTS_NAME, TrainSettings, resume, save_checkpoint, start
from l2c_rt.sampling.solvers import linear_alphas_bar

WEIGHTS_BYTES_AT_MOST = 5_000_000


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


@pytest.fixture(scope="module")
def classifier(digits: Digits) -> Classifier:
    return train_classifier(digits)


def test_digits_are_scaled_to_minus_one_to_one(digits: Digits) -> None:
    assert digits.images.shape == (1797, 1, 8, 8)
    assert (digits.images.min(), digits.images.max()) == (-1.0, 1.0)
    assert digits.labels.unique().tolist() == list(range(10))


def test_a_split_is_the_same_for_the_same_seed_and_loses_no_digit(digits: Digits) -> None:
    kept, held_out = split_digits(digits, 0.2, seed=3)
    again, _ = split_digits(digits, 0.2, seed=3)
    assert (len(kept), len(held_out)) == (1438, 359)
    assert torch.equal(kept.images, again.images)
    together = torch.cat([kept.images, held_out.images]).sum()
    assert torch.isclose(together, digits.images.sum())
    with pytest.raises(ValueError, match="held_out must lie between 0 and 1"):
        split_digits(digits, 1.0, seed=3)


def test_a_batch_is_the_forward_process_at_its_timesteps(digits: Digits) -> None:
    settings = TrainSettings(steps=1, seed=4, batch=4000)
    signal = torch.from_numpy(linear_alphas_bar())
    noisy, t, labels, noise = train.draw_batch(digits, settings, 0, signal)
    power = signal[t].view(-1, 1, 1, 1)
    clean = (noisy - (1 - power).sqrt() * noise) / power.sqrt()
    early = t < 300
    pixels = (clean[early] + 1) * 8
    assert torch.allclose(pixels, pixels.round(), atol=1e-3)
    assert abs(float((labels == 10).float().mean()) - 0.1) < 0.02
    assert t.min() < 2
    assert t.max() > 997
    assert abs(float(t.float().mean()) - 499.5) < 1
    for first, second in zip(
        train.draw_batch(digits, settings, 0, signal), (noisy, t, labels, noise), strict=True
    ):
        assert torch.equal(first, second)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    settings = TrainSettings(steps=1000, seed=0, warmup=100, learning_rate=1.0)
    assert train.rate_at(settings, 49) == 0.5
    assert train.rate_at(settings, 100) == 1.0
    assert train.rate_at(settings, 550) == pytest.approx(0.5)
    assert train.rate_at(settings, 1000) == pytest.approx(0.0)


def test_a_training_that_was_stopped_ends_at_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: str) -> Path:
        return train.train_digits(tmp_path / out, 2, 1, checkpoint_every=1, progress=False)

    whole = load_file(run("whole"))
    step = train.train_step

    def stop_at_one(state: train.TrainState, *rest: object) -> float:
        if state.step == 1:
            raise KeyboardInterrupt
        return step(state, *rest)

    monkeypatch.setattr(train, "train_step", stop_at_one)
    with pytest.raises(KeyboardInterrupt):
        run("stopped")
    monkeypatch.undo()
    stopped = load_file(run("stopped"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    log = json.loads((tmp_path / "stopped" / train.LOG_NAME).read_text())
    assert log["loss"] == json.loads((tmp_path / "whole" / train.LOG_NAME).read_text())["loss"]
    assert log["command"] == "l2c-rt demo train --steps 2 --seed 1"
    assert not (tmp_path / "stopped" / train.CHECKPOINT_NAME).exists()


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    settings = TrainSettings(steps=2, seed=0)
    save_checkpoint(tmp_path / "c.pt", start(settings), settings)
    with pytest.raises(ValueError, match="delete it or train with its settings"):
        resume(tmp_path / "c.pt", TrainSettings(steps=2, seed=1))


def test_the_shipped_weights_are_small_and_those_of_the_log() -> None:
    path = ASSETS / WEIGHTS_NAME
    log = json.loads((ASSETS / train.LOG_NAME).read_text())
    assert path.stat().st_size <= WEIGHTS_BYTES_AT_MOST
    assert sum(value.numel() for value in load_file(path).values()) == log["parameters"]
    assert log["settings"] == asdict(
        TrainSettings(log["settings"]["steps"], log["settings"]["seed"])
    )
    assert log["loss"][-1][0] == log["settings"]["steps"]


def test_the_shipped_model_predicts_noise_better_than_zero(digits: Digits) -> None:
    settings = TrainSettings(steps=1, seed=9)
    noisy, t, labels, noise = train.draw_batch(
        digits, settings, 0, torch.from_numpy(linear_alphas_bar())
    )
    error = (load_demo_model()(noisy, t, labels) - noise).square().mean()
    assert error < 0.15


@pytest.mark.parametrize("steps", [20, 50])
def test_the_shipped_routers_are_for_the_shipped_model(steps: int) -> None:
    router = load_demo_router(steps)
    assert (router.steps, router.logits.shape[1], router.sampler) == (steps, 24, "ddim")
    learned = json.loads(router.training)["options"]
    assert (learned["seed"], learned["cfg_scale"]) == (0, DemoSettings().guidance)
    assert len(set(schedules_of(router, DemoSettings()).values())) == 8
    assert router.fingerprint == model_fingerprint(load_demo_model())


@pytest.mark.parametrize("reuse", [0.3, 0.45])
def test_the_controls_compute_exactly_as_much_as_the_learned_schedule(reuse: float) -> None:
    learned = load_demo_router(20).schedule(reuse=reuse)
    controls = equal_compute(learned, seed=0)
    assert {int(c.compute.sum()) for c in controls.values()} == {int(learned.compute.sum())}
    assert len({*controls.values(), learned}) == 4


def test_the_classifier_reads_digits_it_was_not_trained_on(
    classifier: Classifier, digits: Digits
) -> None:
    assert classifier.held_out_accuracy > 0.96
    _, held_out = split_digits(digits, 0.2, seed=0)
    assert classifier.accuracy(held_out.images, held_out.labels) == classifier.held_out_accuracy
    assert classifier.accuracy(held_out.images, (held_out.labels + 1) % 10) < 0.05


def test_psnr_has_peak_two_and_one_value_per_image() -> None:
    full = torch.zeros(3, 1, 8, 8)
    off = full + torch.tensor([0.0, 0.1, 0.01]).view(3, 1, 1, 1)
    expected = [np.inf, 20 * np.log10(2 / 0.1), 20 * np.log10(2 / 0.01)]
    np.testing.assert_allclose(psnr_per_image(off, full), expected, rtol=1e-5)


def test_frechet_distance_is_zero_for_the_same_images_and_grows(
    classifier: Classifier, digits: Digits
) -> None:
    real = digits.images
    near = real + 0.1 * torch.randn(real.shape)
    far = torch.randn(real.shape)
    distances = [frechet_distance(x, real, classifier.features) for x in (real, near, far)]
    assert abs(distances[0]) < 1e-3
    assert distances[0] < distances[1] < distances[2]


def test_speedup_is_the_median_over_rounds_of_the_rounds_own_ratio() -> None:
    timing = Timing(seconds=(1.0, 2.0, 9.0), full_seconds=(2.0, 3.0, 9.0))
    assert timing.speedup == pytest.approx(1.5)
    assert timing.median_seconds == 2.0


def test_the_table_lines_up_and_leaves_the_full_runs_psnr_out() -> None:
    timing = Timing((1.0,), (2.0,))
    full = Result(20, "full", 0.0, 0.0, 1.0, timing, (), 3.0, 0.99)
    cached = Result(20, "learned", 0.45, 0.225, 0.8, timing, (50.0, 54.0), 3.5, 0.98)
    lines = table([full, cached]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == list(HEADINGS)
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == [
        "20", "learned", "22.5 %", "1.00", "2.00x", "1.25x", "52.0", "3.50", "98.0 %",
    ]  # fmt: skip
    assert "| - |" in lines[2].replace("  ", "")
