"""`l2c-rt bench` on a device: where it runs, what it says of the machine, the floor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import done, run
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.policies import Random
from l2c_rt.schedule.cache_schedule import default_branches

TINY = ("bench", "l2c/dit-xl-2-256/ddim-20", "--width", "16", "--input-size", "4", "--rounds", "1",
        "--device", "cpu")  # fmt: skip


def fields(*words: object) -> dict[str, Any]:
    printed: dict[str, Any] = json.loads(done(*words, "--json"))
    return printed


def test_bench_prints_the_ratio_beside_its_limit(schedule: Path, dit_weights: Path) -> None:
    words = ("bench", schedule, "--weights", dit_weights, "--rounds", "1")
    shown = done(*words)
    assert "dit, 3 blocks, width 32, 16 tokens" in shown
    assert "x by arithmetic" in shown
    printed = fields(*words, "--backend", "reference")
    limit = rt.compile(toy_dit(), schedule).cost.speedup_limit
    assert printed["limit"] == pytest.approx(limit)


@pytest.mark.parametrize("family", ["dit", "uvit"])
def test_bench_makes_a_random_model_of_the_schedules_family_and_depth(
    family: str, tmp_path: Path
) -> None:
    half_reused = Random(0.5, seed=0).schedule(4, default_branches(6))
    replace(half_reused, family=family).save(tmp_path / "s.json")
    shown = done("bench", tmp_path / "s.json", "--width", "64", "--input-size", "8")
    assert f"{family}, 3 blocks, width 64" in shown


def test_the_floor_is_that_of_cost_at_the_given_ceilings(tmp_path: Path) -> None:
    file = tmp_path / "ceilings.json"
    file.write_text('{"ceilings": {"macs_per_second": 1e9, "bytes_per_second": 1e15}}')
    slow = fields(*TINY, "--ceilings", file)
    file.write_text('{"macs_per_second": 2e9, "bytes_per_second": 1e15}')
    fast = fields(*TINY, "--ceilings", file)
    assert slow["floor_seconds"] == pytest.approx(2 * fast["floor_seconds"])
    shown = run(*TINY, "--ceilings", file).stdout
    assert "floor     " in shown
    assert "at 0.004 TFLOP/s and 1e+03 TB/s" in shown


def test_without_ceilings_no_floor_is_claimed() -> None:
    found = fields(*TINY, "--dtype", "bfloat16")
    assert "floor_seconds" not in found
    assert (found["dtype"], found["device"]) == ("bfloat16", {"name": "cpu"})
    assert len(found["full_seconds"]) == len(found["cached_seconds"]) == 2
    assert found["share_of_limit"] == pytest.approx(found["speedup"] / found["limit"])


def test_the_speedup_is_the_median_over_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = {"full": [1, 3, 10, 10, 4, 4], "cached": [1, 1, 4, 4, 1, 1]}
    monkeypatch.setattr("l2c_rt.cli.bench.side_by_side", lambda *_: samples)
    found = fields(*TINY)
    assert (found["ratios"], found["speedup"]) == ([2, 2.5, 4], 2.5)


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--device", "cuda:99"], 2, "cuda:99: "),
        (["--ceilings", "{file}"], 3, "wanted positive numbers macs_per_second"),
        (["--ceilings", "{file}", "--measure-ceilings"], 2, "leave one out"),
        (["--dtype", "int8"], 2, "int8"),
    ],
)
def test_what_cannot_be_is_refused(
    words: list[str], code: int, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "c.json").write_text('{"macs_per_second": 0, "bytes_per_second": true}')
    given = [word.replace("{file}", str(tmp_path / "c.json")) for word in words]
    result = run(*TINY, *given)
    assert result.exit_code == code, result.output
    assert reason in result.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_it_runs_there_by_default() -> None:
    found = fields(*TINY[:-2], "--measure-ceilings")
    assert found["dtype"] == "bfloat16"
    assert found["device"]["name"] == torch.cuda.get_device_name()
    assert found["floor_seconds"] > 0
