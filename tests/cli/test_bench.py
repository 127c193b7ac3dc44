"""`l2c-rt bench` on a device: where it runs, what it says of the machine, the floor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from l2c_rt.cli import main

TINY = ("bench", "l2c/dit-xl-2-256/ddim-20", "--width", "16", "--input-size", "4", "--rounds", "1",
        "--device", "cpu")  # fmt: skip


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def fields(*words: object) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


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
