"""The report of a fit: its lead, its tables, its file and its picture."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from drawn_texts import misplaced_texts

from l2c_rt.comparison.fit_report import Fit, FitReport, figure_of
from l2c_rt.figures import METHOD_COLOURS

FITS = tuple(
    Fit(name, (0.0, 0.5), (0.0, error), psnr, 1.25)
    for name, error, psnr in (
        ("this schedule", 0.015, (30.0, 36.0)),
        ("random", 0.25, (20.0, 24.0)),
        ("every-N", 0.125, (31.0, 31.0)),
        ("noisiest first", 0.5, (10.0, math.inf)),
    )
)


def report(fits: tuple[Fit, ...] = FITS[:3]) -> FitReport:
    return FitReport(2, 4, 6, images=2, seed=4, cfg_scale=1.5, peak=8.0, fits=fits)


def test_the_lead_is_over_the_best_control() -> None:
    assert report().lead == pytest.approx(33 - 31)
    assert report((FITS[2], FITS[0])).lead == pytest.approx(31 - 33)


def test_two_perfect_fits_have_no_lead() -> None:
    perfect = Fit("full", (0.0, 0.0), (0.0, 0.0), (math.inf, math.inf), 1.0)
    assert report((perfect, perfect)).lead == 0


def test_the_text_has_a_line_per_schedule_and_per_evaluation() -> None:
    lines = str(report(FITS)).splitlines()
    assert lines[0] == (
        "2 evaluations of 4 branches, 2 of 8 reused; 2 images, guidance 1.5, seed 4, PSNR peak 8"
    )
    assert lines[3].split() == ["this", "schedule", "33.00", "30.00", "1.50e-02", "1.25x"]
    assert lines[-1].split() == ["1", "50", "%", "1.50e-02", "2.50e-01", "1.25e-01", "5.00e-01"]
    assert len(lines) == 1 + 1 + 5 + 1 + 1 + 3
    assert max(map(len, lines)) <= 110


def test_the_file_holds_every_image_and_null_where_a_number_is_not_finite(tmp_path: Path) -> None:
    report(FITS).save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["format"] == "l2c_rt.fit_report"
    assert [fit["psnr"] for fit in saved["fits"]] == [
        [30.0, 36.0], [20.0, 24.0], [31.0, 31.0], [10.0, None],
    ]  # fmt: skip


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    report(FITS).plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="name it .png"):
        report().plot(tmp_path / "report.pdf")


def test_every_schedule_has_a_line_of_bars_in_its_own_colour() -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    figure = figure_of(report(FITS))
    errors, reuse = figure.axes
    names = ["learned", "random", "every-N", "noisiest first"]
    colours = [METHOD_COLOURS[name] for name in names]
    assert [line.get_color() for line in errors.lines] == colours
    tops = [bar.get_y() + bar.get_height() for bar in reuse.patches[1::2]]
    assert tops == pytest.approx([y - 0.8 * 0.5 for y in range(4)])
    assert not misplaced_texts(figure)


def test_schedules_without_any_error_can_be_drawn() -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    perfect = Fit("this schedule", (0.0, 0.0), (0.0, 0.0), (math.inf, math.inf), 1.0)
    assert not misplaced_texts(figure_of(report((perfect,))))
