"""Schedules beside methods of equal compute: what each row says, and that rows can be added."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import random_schedule, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.compare.compare import compare
from l2c_rt.compare.comparison import Comparison, Row
from l2c_rt.compare.methods import equal_compute
from l2c_rt.policies import Full, Random

METHODS = ["learned", "random", "every-N", "noisiest first"]


def schedule_of(share: float, **header: str) -> rt.CacheSchedule:
    return random_schedule(6, 6, share=share, **({"family": "dit", "sampler": "ddim"} | header))


def test_every_method_is_run_at_the_compute_of_every_schedule_after_the_full_run() -> None:
    schedules = [schedule_of(0.3), schedule_of(0.6)]
    rows = compare(toy_dit(), schedules, equal_compute("learned", 0), images=2, rounds=2).rows
    assert [row.method for row in rows] == ["full", *METHODS, *METHODS]
    assert (rows[0].computed, rows[0].error, rows[0].speedup_limit) == (1, 0, 1)
    shares = [row.computed for row in rows[1:]]
    assert shares == pytest.approx([1 - s.reuse_share for s in schedules for _ in METHODS])
    assert all(row.error > 0 and row.speedup_limit > 1 for row in rows[1:])
    assert all(len(row.seconds) == 2 and min(row.seconds) > 0 for row in rows)


def test_a_row_has_the_error_of_the_run_that_compile_gives() -> None:
    schedule = schedule_of(0.5)
    comparison = compare(
        toy_dit(), [schedule], equal_compute("learned", 3), images=2, seed=4, cfg_scale=2.0
    )
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    full = rt.compile(toy_dit(), Full(), steps=6).sample(noise, [0, 1], 2.0)
    for row, router in zip(comparison.rows[1:3], (schedule, Random.like(schedule, 3)), strict=True):
        latents = rt.compile(toy_dit(), router).sample(noise, [0, 1], 2.0)
        assert row.error == pytest.approx(float((latents - full).norm() / full.norm()))


def test_psnr_is_that_of_the_decoded_images_with_a_peak_of_two() -> None:
    images = []

    def decode(latents: torch.Tensor) -> torch.Tensor:
        images.append(latents[:, :3] / 2)
        return images[-1]

    schedule = schedule_of(0.5)
    methods = {"only": lambda schedule: schedule}
    rows = compare(toy_dit(), [schedule], methods, images=2, decode=decode).rows
    cached, full = images[-2:]
    squares = (cached - full).square().flatten(1).mean(1).tolist()
    assert rows[1].psnr == pytest.approx([10 * math.log10(4 / square) for square in squares])
    assert rows[0].psnr == (math.inf, math.inf)
    assert compare(toy_dit(), [schedule], methods, images=2).rows[1].psnr == ()


def test_a_further_method_is_one_more_entry_and_may_be_whatever_compile_takes() -> None:
    methods = {**equal_compute("learned", 0), "every 2": lambda _: rt.policies.EveryN(2)}
    rows = compare(toy_dit(), [schedule_of(0.4)], methods, images=1).rows
    assert (rows[-1].method, rows[-1].computed) == ("every 2", pytest.approx(4 / 6))


def test_a_uvit_is_compared_with_its_own_loop() -> None:
    schedule = schedule_of(0.5, family="uvit", sampler="dpm-solver")
    rows = compare(toy_uvit(), [schedule], equal_compute("learned", 0), images=2).rows
    assert len({row.computed for row in rows[1:]}) == 1


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no schedules"):
        compare(toy_dit(), [], equal_compute("learned", 0))
    with pytest.raises(ValueError, match="images is 0"):
        compare(toy_dit(), [schedule_of(0.5)], equal_compute("learned", 0), images=0)


@pytest.mark.parametrize("size", [(6, 8), (4, 6)])
def test_a_schedule_that_does_not_fit_is_refused_before_the_first_run(
    size: tuple[int, int],
) -> None:
    rows: list[None] = []
    with pytest.raises(ValueError, match="the model has 6|the run has 6"):
        compare(
            toy_dit(), [schedule_of(0.5), random_schedule(*size)], equal_compute("learned", 0),
            images=1, advance=lambda: rows.append(None),
        )  # fmt: skip
    assert not rows


def comparison() -> Comparison:
    full = Row("full", 1.0, 1.0, 0.0, (math.inf, math.inf), (3.0, 1.0, 2.0))
    rows = [Row("learned", share, 1 / share, 0.1 / share, (30.0, 40.0), (1.0,)) for share in
            (0.8, 0.6)]  # fmt: skip
    return Comparison(6, 6, 2, 0, 4.0, (full, *rows, replace(rows[0], method="random", error=0.0)))


def test_the_table_has_a_line_per_row_and_no_number_where_there_is_none() -> None:
    title, _, heads, full, first, *_, random = str(comparison()).splitlines()
    assert title.startswith("6 evaluations of 6 branches; 2 images, guidance 4, seed 0")
    assert heads.split() == ["method", "computed", "at", "most", "error", "PSNR", "dB", "seconds"]
    assert full.split() == ["full", "100.0", "%", "1.00x", "-", "-", "2.000"]
    assert first.split() == ["learned", "80.0", "%", "1.25x", "1.25e-01", "35.00", "1.000"]
    assert random.split()[-3:-1] == ["-", "-"]


def test_the_fields_are_json_without_infinities() -> None:
    fields = json.loads(json.dumps(comparison().as_dict(), allow_nan=False))
    assert fields["rows"][0]["psnr"] == [None, None]
    assert fields["rows"][2]["error"] == comparison().rows[2].error
    broken = replace(comparison(), rows=(replace(comparison().rows[0], error=math.nan),))
    assert json.loads(json.dumps(broken.as_dict(), allow_nan=False))["rows"][0]["error"] is None
    assert (fields["format"], fields["version"]) == ("l2c_rt.comparison", 1)


def test_the_picture_has_a_line_per_method_with_a_point_per_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    figures = []
    monkeypatch.setattr(
        "l2c_rt.compare.comparison.save_figure", lambda figure, *_, **__: figures.append(figure)
    )
    comparison().plot(tmp_path / "x.png")
    lines = {line.get_label(): line for line in figures[0].axes[0].get_lines()}
    assert set(lines) == {"learned", "random"}
    assert list(lines["learned"].get_xdata()) == pytest.approx([60, 80])
    assert list(lines["learned"].get_ydata()) == pytest.approx([0.1 / 0.6, 0.1 / 0.8])
    with pytest.raises(ValueError, match=r"name it \.png"):
        comparison().plot(tmp_path / "x.jpg")
