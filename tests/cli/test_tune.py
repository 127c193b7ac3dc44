"""`l2c-rt tune`: choices measured ahead of a run, kept, shipped and taken over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import done, run
from tuning_bench import FC1, PROJ, SPLIT, TRITON, Bench, never, tuner

from l2c_rt.cli import tune
from l2c_rt.policies import Random
from l2c_rt.schedule.cache_schedule import default_branches


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the user's."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    return tmp_path / "cache" / "tune.json"


@pytest.fixture
def schedule(tmp_path: Path) -> Path:
    half_reused = Random(0.5, seed=0).schedule(4, default_branches(6))
    replace(half_reused, family="dit").save(tmp_path / "s.json")
    return tmp_path / "s.json"


@pytest.fixture
def measured(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of images that were run, each of which measures as a GPU would."""
    batches: list[int] = []

    def run_once(_: Any, width: int, size: int, batch: int, device: Any) -> None:
        batches.append(batch)
        bench = Bench({SPLIT: 0.5, TRITON: 0.1})
        tuner(bench, cache).linear((PROJ, FC1)[len(batches) - 1], bench.make)

    monkeypatch.setattr(tune, "_run_once", run_once)
    return batches


def machines(path: Path) -> dict[str, list[object]]:
    found: dict[str, list[object]] = json.loads(path.read_text())["machines"]
    return found


def test_each_number_of_images_is_run_once(schedule: Path) -> None:
    sizes = ("--width", "64", "--input-size", "8", "--device", "cpu")
    shown = done("tune", schedule, *sizes, "--batch", "1", "--batch", "2")
    assert [line for line in shown.splitlines() if "images:" in line]
    assert "1 images" in shown
    assert "2 images" in shown
    assert "runs       1 complete" in shown


def test_a_file_is_shipped_and_taken_over(
    tmp_path: Path, schedule: Path, cache: Path, measured: list[int]
) -> None:
    out = tmp_path / "ship.json"
    assert "1 choices" in done("tune", schedule, "-o", out)
    assert machines(out) == machines(cache)
    cache.unlink()
    assert "1 choices" in done("tune", "--install", out)
    # What a run on such a machine finds: nothing is left to measure.
    assert tuner(None, cache).linear(PROJ, never) == TRITON


def test_choices_of_this_machine_stay_beside_those_taken_over(
    tmp_path: Path, schedule: Path, cache: Path, measured: list[int]
) -> None:
    done("tune", schedule, "--batch", "1", "--batch", "8")
    assert measured == [1, 8]
    (ours,) = machines(cache)
    other = tmp_path / "other.json"
    other.write_text(cache.read_text().replace(ours, "another machine"))
    assert "2 choices" in done("tune", "--install", other)
    assert set(machines(cache)) == {ours, "another machine"}


@pytest.mark.parametrize("text", ["{}", "no json", '{"version": 1, "machines": {}}'])
def test_a_file_that_holds_no_choices_is_refused(text: str, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "bad.json").write_text(text)
    assert run("tune", "--install", tmp_path / "bad.json").exit_code == 3
    assert not cache.exists()


def test_without_a_schedule_or_a_file_it_says_what_to_give() -> None:
    result = run("tune")
    assert result.exit_code == 2
    assert "--install" in result.output
