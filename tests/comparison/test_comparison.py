"""A comparison as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drawn_texts import misplaced_texts

from l2c_rt.comparison.comparison import Comparison
from l2c_rt.comparison.results import Row, SeedResult


def row_of(method: str, macs: int, error: float, psnr: float, seconds: float) -> Row:
    result = SeedResult(
        0, macs, 100, (0.0, error), (psnr,), (), (), (seconds,), (3.0,), 1 << 20, None
    )
    return Row(method, "n=2", None, (result, replace(result, seed=1)))


def comparison(*more: Row) -> Comparison:
    full = Row("full", "", None, row_of("full", 100, 0.0, math.inf, 3.0).results)
    rows = [row_of("learned", 80, 0.1, 30.0, 2.0), row_of("learned", 60, 0.2, 25.0, 1.5)]
    return Comparison(
        "DiT", 6, 2, (0, 1), 4.0, (0.8, 0.6), (full, *rows, *more), {"fid": "no Inception"}, "d"
    )


def test_the_table_has_a_line_per_row_and_no_number_where_there_is_none() -> None:
    title, _, heads, full, first, *_, note = str(comparison()).splitlines()
    assert title == "DiT, 6 evaluations; 2 images; guidance 4; seeds 0, 1"
    assert heads.split()[:3] == ["method", "setting", "computed"]
    assert full.split()[:6] == ["full", "-", "100.0", "%", "1.00x", "-"]
    assert first.split() == [
        "learned", "n=2", "80.0", "%", "1.25x", "1.00e-01", "30.00", "-", "-", "-", "1.50x",
        "2.000", "1.0",
    ]  # fmt: skip
    assert note == "no FID: no Inception"


def test_the_fields_are_json_with_every_seed_and_without_infinities(tmp_path: Path) -> None:
    broken = row_of("broken", 50, math.nan, 1.0, 1.0)
    comparison(broken).save(tmp_path / "x.json")
    fields = json.loads((tmp_path / "x.json").read_text())
    assert (fields["format"], fields["version"]) == ("l2c_rt.comparison", 2)
    assert fields["rows"][0]["seeds"][0]["psnr"] == [None]
    assert fields["rows"][-1]["error"] is None
    learned = fields["rows"][1]
    assert (learned["computed"], learned["speedup"], learned["mean_psnr"]) == (0.8, 1.5, 30.0)
    assert [seed["error"] for seed in learned["seeds"]] == [[0.0, 0.1], [0.0, 0.1]]


def test_a_result_is_the_same_after_a_trip_to_disk() -> None:
    result = row_of("x", 50, math.nan, math.inf, 1.0).results[0]
    back = SeedResult.from_dict(json.loads(json.dumps(result.as_dict())))
    assert str(back) == str(result)
    with pytest.raises(ValueError, match="not the result of a seed"):
        SeedResult.from_dict({"seed": 1})


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved, in place of files."""
    pytest.importorskip("matplotlib")
    saved: list[Any] = []
    monkeypatch.setattr(
        "l2c_rt.comparison.pareto.save_figure", lambda figure, *_, **__: saved.append(figure)
    )
    return saved


@pytest.mark.parametrize("timed", [True, False])
def test_the_names_of_many_methods_stay_on_the_picture(
    timed: bool, figures: list[Any], tmp_path: Path
) -> None:
    names = [f"First-Block-Cache {k}" for k in range(14)]
    rows = [row_of(name, 50, 0.1, 1.0, 1.0) for name in ("full", *names)]
    if not timed:
        untimed = [replace(row.results[0], seconds=(), full_seconds=()) for row in rows]
        rows = [replace(row, results=(one,)) for row, one in zip(rows, untimed, strict=True)]
    replace(comparison(), rows=tuple(rows)).plot(tmp_path / "x.png")
    assert not misplaced_texts(figures[0])


def test_the_picture_has_a_line_per_method_over_compute_and_over_time(
    tmp_path: Path, figures: list[Any]
) -> None:
    comparison(row_of("other", 50, 0.0, 1.0, 1.0)).plot(tmp_path / "x.png")
    by_compute, by_time = figures[0].axes
    lines = {line.get_label(): line for line in by_compute.get_lines()}
    assert set(lines) == {"learned", "other"}
    assert list(lines["learned"].get_xdata()) == pytest.approx([60, 80])
    assert list(lines["learned"].get_ydata()) == pytest.approx([0.2, 0.1])
    assert list(by_time.get_lines()[0].get_xdata()) == pytest.approx([50, 100 / 1.5])
    assert len(figures[0].legends) == 1
    with pytest.raises(ValueError, match=r"name it \.png"):
        comparison().plot(tmp_path / "x.jpg")
