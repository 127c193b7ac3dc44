"""The demo's pictures: what they show, on one scale, without one mark on another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_texts import drawn_texts, misplaced_texts

pytest.importorskip("matplotlib")

from l2c_rt.demo.digits import even_labels
from l2c_rt.demo.figures import (
    Block,
    Samples,
    by_class,
    draw_samples,
    latency_figure,
    samples_figure,
    tile,
)
from l2c_rt.demo.report import Result, Timing
from l2c_rt.figures import METHOD_COLOURS

LABELS = even_labels(40)
PSNR = {"learned": 56.0, "noisiest first": 48.0, "every-N": 45.0, "random": 41.5}


def block(steps: int) -> Block:
    generator = torch.Generator().manual_seed(steps)
    full = torch.rand(40, 1, 8, 8, generator=generator) * 2 - 1
    noise = torch.randn(40, 1, 8, 8, generator=generator)
    cached = tuple(
        Samples(name, full + 2 * 10 ** (-psnr / 20) * noise, psnr) for name, psnr in PSNR.items()
    )
    return Block(f"DDIM-{steps}\n22.5 % reused", Samples("full", full, None), cached)


def result(steps: int, name: str, ratio: float, psnr: float) -> Result:
    # Equal costs and nearly equal times, as schedules of equal compute have.
    timing = Timing((0.78, 0.79, 0.85), (1.0, 1.0, 1.0))
    return Result(steps, name, ratio, ratio / 2, 1 - ratio / 2, timing, (psnr,), 4.0, 1.0)


FULL_RUN = Result(20, "full", 0.0, 0.0, 1.0, Timing((1.0,), (1.0,)), (), 4.0, 1.0)
RESULTS = [FULL_RUN] + [
    result(steps, name, 0.45, psnr) for steps in (20, 50) for name, psnr in PSNR.items()
] + [result(20, "learned", 0.25, 64.0), result(20, "learned", 0.65, 45.8)]  # fmt: skip


def colours_of(axis: Any) -> list[str]:
    return [line.get_color() for line in axis.lines]


def test_a_sheet_holds_every_image_between_gaps() -> None:
    sheet = tile(torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 8, 8), 2)
    assert sheet.shape == (18, 18)
    assert [sheet[0, 0], sheet[0, -1], sheet[-1, 0]] == [0, 1, 2]
    assert np.isnan(sheet[8:10]).all()
    assert np.isnan(sheet[10:, 8:]).all()


def test_images_are_chosen_class_after_class() -> None:
    assert by_class(torch.tensor([1, 0, 1, 0, 1])) == [1, 3, 0, 2]


@pytest.mark.parametrize("steps", [(50,), (20, 50)])
def test_each_schedule_has_a_column_with_its_psnr(steps: tuple[int, ...]) -> None:
    figure = samples_figure([block(n) for n in steps], LABELS)
    texts = [text.get_text() for text in drawn_texts(figure)]
    for name, psnr in PSNR.items():
        assert texts.count(name) == texts.count(f"PSNR {psnr:.1f} dB") == len(steps)
    assert not misplaced_texts(figure)


def test_the_differences_are_on_one_scale_with_one_colour_bar() -> None:
    blocks = [block(20), block(50)]
    figure = samples_figure(blocks, LABELS)
    *panels, bar = figure.axes
    assert bar.get_label() == "<colorbar>"
    assert len(panels) == 4 * 5
    differences = [axis.images[0] for axis in [*panels[6:10], *panels[16:20]]]
    limits = {(image.norm.vmin, image.norm.vmax) for image in differences}
    ((low, high),) = limits
    assert -low == high > 0
    for image, samples in zip(differences[:4], blocks[0].cached, strict=True):
        sheet = tile((samples.images - blocks[0].full.images)[by_class(LABELS)], 4)
        np.testing.assert_array_equal(np.ma.getdata(image.get_array()), sheet)


def test_equal_images_can_be_shown() -> None:
    full = block(20).full
    cached = tuple(Samples(name, full.images, float("inf")) for name in PSNR)
    assert not misplaced_texts(samples_figure([Block("DDIM-20", full, cached)], LABELS))


def test_the_file_says_its_figures_as_text(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    draw_samples(tmp_path / "samples.png", [block(20)], LABELS)
    with image.open(tmp_path / "samples.png") as picture:
        assert picture.text["Description"] == (
            "DDIM-20, 22.5 % reused: learned PSNR 56.0 dB, noisiest first PSNR 48.0 dB, "
            "every-N PSNR 45.0 dB, random PSNR 41.5 dB"
        )


def test_no_two_schedules_are_drawn_on_one_spot_and_each_is_named() -> None:
    figure = latency_figure(RESULTS, "time and fidelity")
    time, fidelity = figure.axes
    for axis in (time, fidelity):
        marks = [line for line in axis.lines if line.get_marker() == "o"]
        heights = [float(np.asarray(line.get_ydata()).item()) for line in marks]
        assert len(set(heights)) == len(heights) == len(RESULTS) - 1
    names = [label.get_text() for label in time.get_yticklabels()]
    assert names[:4] == ["", "learned, 12.5 % reused", "learned, 22.5 % reused",
                         "noisiest first, 22.5 % reused"]  # fmt: skip
    assert not misplaced_texts(figure)


def test_a_schedules_line_shows_its_time_range_limit_and_psnr() -> None:
    time, fidelity = latency_figure([FULL_RUN, result(20, "random", 0.45, 41.5)], "").axes
    spread, median, limit, _full = time.lines
    assert np.asarray(spread.get_xdata()).tolist() == [0.78, 0.85]
    assert np.asarray(median.get_xdata()).item() == 0.79
    assert np.asarray(limit.get_xdata()).item() == 0.775
    assert [text.get_text().strip() for text in fidelity.texts] == ["41.5"]
    assert colours_of(fidelity) == colours_of(time)[:1] == [METHOD_COLOURS["random"]]
