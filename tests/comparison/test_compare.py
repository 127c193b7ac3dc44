"""Many methods at equal compute: what each row says, and that an interrupted comparison goes on."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_learning import toy_loop
from toys import random_schedule, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.comparison.methods import Entry, controls
from l2c_rt.policies import EveryN, Full, Random


def schedule_of(share: float, **header: str) -> rt.CacheSchedule:
    return random_schedule(6, 6, share=share, **({"family": "dit", "sampler": "ddim"} | header))


def compared(model: Any, methods: Any, **options: Any) -> Any:
    settings = {"steps": 6, "images": 2, "seeds": 1, "rounds": 0, "progress": False}
    return rt.compare(model, methods, **(settings | options))


def ticking() -> Callable[[Any], float]:
    """A clock of which every reading is the same in every process."""
    ticks = itertools.count(1)

    def clock(run: Callable[[], object]) -> float:
        run()
        return next(ticks) / 8

    return clock


def test_every_method_comes_as_near_to_a_share_as_its_settings_are() -> None:
    schedule = schedule_of(0.5)
    router = rt.Router(np.linspace(-4, 4, 36, dtype=np.float32).reshape(6, 6), "dit", 6)
    entries = [Entry("learned", router), Entry("every n", EveryN(2)), *controls(schedule, 0)]
    shares = (0.9, 0.7)
    rows = compared(toy_dit(), entries, compute=shares).rows
    assert (rows[0].method, rows[0].computed, rows[0].error) == ("full", 1, 0)
    one_branch = Random(1 / 18, 0).schedule(6, schedule.branches)
    step = 1 - 1 / rt.compile(toy_dit(), one_branch).cost.speedup_limit
    for row in rows[1:]:
        if row.method == "every n":
            limit = rt.compile(toy_dit(), EveryN(2), steps=6).cost.speedup_limit
            assert (row.computed, row.share) == (pytest.approx(1 / limit), 0.7)
        else:
            assert abs(row.computed - row.share) <= step, row.method
    assert [row.method for row in rows].count("every n") == 1
    assert [row.method for row in rows].count("learned") == 2


def test_a_row_has_the_errors_of_the_runs_that_compile_gives_seed_by_seed() -> None:
    schedule = schedule_of(0.5)
    rows = compared(toy_dit(), {"mine": schedule}, compute=None, seeds=(4, 7), cfg_scale=2.0).rows
    for result in rows[1].results:
        noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(result.seed))
        runs = []
        for method in (schedule, Full()):
            seen: list[torch.Tensor] = []
            fast = rt.compile(toy_dit(), method, steps=6)
            fast.sample(noise, [0, 1], 2.0, callback=lambda _, x, seen=seen: seen.append(x.clone()))
            runs.append(seen)
        errors = [float((a - b).norm() / b.norm()) for a, b in zip(*runs, strict=True)]
        assert result.error == pytest.approx(errors)
        assert result.macs == sum(e.all_macs for e in fast.cost.full) * rows[1].computed
    assert [result.seed for result in rows[1].results] == [4, 7]
    assert rows[1].error == pytest.approx(sum(r.error[-1] for r in rows[1].results) / 2)


def test_psnr_is_that_of_the_decoded_images_with_a_peak_of_two() -> None:
    images = []

    def decode(latents: torch.Tensor) -> torch.Tensor:
        images.append(latents[:, :3] / 2)
        return images[-1]

    rows = compared(toy_dit(), {"only": schedule_of(0.5)}, compute=None, decode=decode).rows
    full, cached = images
    squares = (cached - full).square().flatten(1).mean(1).tolist()
    assert rows[1].results[0].psnr == pytest.approx([10 * math.log10(4 / s) for s in squares])
    assert rows[0].results[0].psnr == (math.inf, math.inf)


def test_latents_that_are_no_images_have_no_psnr_and_the_table_says_why() -> None:
    comparison = compared(toy_dit(), {"only": schedule_of(0.5)}, compute=None)
    assert comparison.rows[1].results[0].psnr == ()
    assert "no PSNR: latents are no images: give decode=" in str(comparison)


def test_each_timed_run_is_beside_a_full_one_in_alternating_order() -> None:
    rows = compared(
        toy_dit(), {"one": schedule_of(0.5)}, compute=None, seeds=2, rounds=2, clock=ticking()
    ).rows
    # Readings 1 .. 4 are the full row's; then own, full, full, own, and for the next seed reversed.
    assert [8 * t for r in rows[1].results for t in r.seconds] == [5, 8, 10, 11]
    assert [8 * t for r in rows[1].results for t in r.full_seconds] == [6, 7, 9, 12]


def test_a_list_of_settings_is_run_as_it_is_or_brought_to_a_share() -> None:
    settings = [EveryN(2), EveryN(3)]
    as_it_is = compared(toy_dit(), {"n": settings}, compute=None).rows[1:]
    assert [row.setting for row in as_it_is] == ["EveryN(n=2)", "EveryN(n=3)"]
    nearest = compared(toy_dit(), {"n": settings}, compute=(0.7, 0.1)).rows[1:]
    assert [(row.setting, row.share) for row in nearest] == [
        ("EveryN(n=2)", 0.7), ("EveryN(n=3)", 0.1),
    ]  # fmt: skip


def test_a_uvit_and_a_loop_of_ones_own_are_compared_as_well() -> None:
    uvit = schedule_of(0.5, family="uvit", sampler="dpm-solver")
    rows = compared(toy_uvit(), [Entry("mine", uvit), *controls(uvit, 0)], compute=(0.7,)).rows
    assert len(rows) == 5
    methods = {"mine": random_schedule(4, 6)}
    own = compared(toy_dit(), methods, compute=None, loop=toy_loop, steps=4, rounds=1)
    assert own.rows[1].results[0].error[-1] > 0
    assert len(own.rows[1].results[0].error) == 4
    assert own.rows[1].speedup is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": {}}, "no methods"),
        ({"methods": [EveryN(2), EveryN(3)]}, "two methods are named 'EveryN'"),
        ({"images": 0}, "images is 0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": (1, 1)}, "different seeds"),
        ({"compute": (0.0,)}, "shares in 0..1"),
        ({"compute": ()}, "compute: got none"),
        ({"rounds": -1}, "rounds is -1"),
        ({"steps": None}, "steps is None"),
        ({"methods": {"a": EveryN(2), "b": random_schedule(6, 8)}}, "the model has 6"),
        ({"methods": {"a": EveryN(2), "b": random_schedule(4, 6)}}, "the run has 6"),
        ({"loop": toy_loop, "cfg_scale": 4.0}, "leave cfg_scale out"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_run(
    options: dict[str, Any], message: str
) -> None:
    methods = options.pop("methods", {"n": EveryN(2)})
    with pytest.raises(ValueError, match=message):
        compared(toy_dit(), methods, rounds=options.pop("rounds", 1), clock=_never, **options)


def _never(run: object) -> float:
    raise AssertionError("a run was timed")


def test_an_interrupted_comparison_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    entries = [Entry("n", EveryN(2)), *controls(schedule_of(0.5), 0)]
    options: dict[str, Any] = {"compute": (0.8, 0.6), "seeds": 2, "folder": tmp_path / "run"}
    stops = iter([7, 5])

    def interrupted(clock_at: int) -> Callable[[Any], float]:
        left = itertools.count(clock_at, -1)

        def clock(run: Any) -> float:
            run()
            if not next(left):
                raise KeyboardInterrupt
            return 0.5

        return clock

    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            compared(toy_dit(), entries, rounds=1, clock=interrupted(stop), **options)
    ended = compared(toy_dit(), entries, rounds=1, clock=lambda run: 0.5, **options)
    options["folder"] = tmp_path / "whole"
    whole = compared(toy_dit(), entries, rounds=1, clock=lambda run: 0.5, **options)
    assert json.dumps(ended.as_dict()) == json.dumps(whole.as_dict())
    again = compared(toy_dit(), entries, rounds=1, clock=_never, **options)
    assert json.dumps(again.as_dict()) == json.dumps(whole.as_dict())
    for name in ("run", "whole"):
        files = {f.name: f.read_bytes() for f in (tmp_path / name).iterdir()}
        assert files == {f.name: f.read_bytes() for f in (tmp_path / "whole").iterdir()}


def test_the_folder_of_another_comparison_is_refused_and_a_damaged_result_named(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    compared(toy_dit(), {"n": EveryN(2)}, compute=None, folder=folder)
    with pytest.raises(ValueError, match="has another seeds; give another folder"):
        compared(toy_dit(), {"n": EveryN(2)}, compute=None, folder=folder, seeds=2)
    with pytest.raises(ValueError, match="has another methods"):
        compared(toy_dit(), {"n": EveryN(3)}, compute=None, folder=folder)
    (damaged,) = folder.glob("n-*")
    damaged.write_text(damaged.read_text()[:-9])
    with pytest.raises(ValueError, match=str(damaged)):
        compared(toy_dit(), {"n": EveryN(2)}, compute=None, folder=folder)
    with pytest.raises(ValueError, match="not the folder of a comparison"):
        compared(toy_dit(), {"n": EveryN(2)}, compute=None, folder=tmp_path)
