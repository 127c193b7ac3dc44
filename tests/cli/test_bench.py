"""`l2c-rt bench` on a device: where it runs, what it says of the machine, the floor."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command_line import done, run
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.measure import machine as machine_module
from l2c_rt.measure.ceilings import Ceilings, copy_rate, product_rate, read_ceilings
from l2c_rt.measure.machine import event_seconds, host_seconds, machine, stopwatch
from l2c_rt.policies import Random
from l2c_rt.schedule.cache_schedule import default_branches

TINY = ("bench", "l2c/dit-xl-2-256/ddim-20", "--width", "16", "--input-size", "4", "--rounds", "1",
        "--device", "cpu")  # fmt: skip


def fields(*words: object) -> dict[str, Any]:
    printed: dict[str, Any] = json.loads(done(*words, "--json"))
    return printed


def test_bench_prints_the_ratio_beside_its_bound(schedule: Path, dit_weights: Path) -> None:
    words = ("bench", schedule, "--weights", dit_weights, "--rounds", "1")
    shown = done(*words)
    assert "dit, 3 blocks, width 32, 16 tokens" in shown
    assert "x by arithmetic" in shown
    fields = json.loads(done(*words, "--backend", "reference", "--json"))
    assert len(fields["full_seconds"]) == len(fields["cached_seconds"]) == 2
    limit = rt.compile(toy_dit(), schedule).cost.speedup_limit
    assert fields["bound"] == pytest.approx(limit)


@pytest.mark.parametrize("family", ["dit", "uvit"])
def test_bench_makes_a_random_model_of_the_schedules_family_and_depth(
    family: str, tmp_path: Path
) -> None:
    made = Random(0.5, seed=0).schedule(4, default_branches(6))
    replace(made, family=family).save(tmp_path / "s.json")
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
    assert found["share_of_bound"] == pytest.approx(found["speedup"] / found["bound"])


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


@pytest.mark.parametrize("text", ["[]", "1", "{", '{"macs_per_second": 1}'])
def test_a_file_without_ceilings_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=r"wanted positive numbers|Expecting property name"):
        read_ceilings(tmp_path / "c.json")


def test_rates_are_work_over_time() -> None:
    cpu = torch.device("cpu")

    def half_a_second(call: Any) -> float:
        call()
        return 0.5

    assert copy_rate(half_a_second, cpu, 4096) == 8192
    assert product_rate(half_a_second, cpu, torch.float32, 8) == 1024
    assert Ceilings(1.0, 2.0).bytes_per_second == 2.0


def test_a_gpu_is_timed_by_events_after_all_work_before(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("record")

        def synchronize(self) -> None:
            log.append("wait")

        def elapsed_time(self, end: Event) -> float:
            return 12.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("synchronize"))
    assert stopwatch(torch.device("cuda")) is event_seconds
    assert stopwatch(torch.device("cpu")) is host_seconds
    assert event_seconds(lambda: log.append("run")) == 0.0125
    assert log == ["synchronize", "record", "run", "record", "wait"]


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_says_its_name_driver_and_clocks(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def smi(command: list[str], **_: object) -> SimpleNamespace:
        if not there:
            raise FileNotFoundError("nvidia-smi")
        assert command[-1] == "--id=GPU-1-2"
        return SimpleNamespace(stdout="580.1, 345 MHz, 1980 MHz, 700.00 W\n")

    properties = SimpleNamespace(uuid="1-2")
    monkeypatch.setattr(machine_module.subprocess, "run", smi)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    found = machine(torch.device("cuda", 0))["device"]
    clocks = {"driver_version": "580.1", "clocks.sm": "345 MHz", "clocks.max.sm": "1980 MHz",
              "power.limit": "700.00 W"}  # fmt: skip
    assert found == {"name": "a GPU"} | (clocks if there else {})
    assert subprocess.run is machine_module.subprocess.run


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_it_runs_there_by_default() -> None:
    found = fields(*TINY[:-2], "--measure-ceilings")
    assert found["dtype"] == "bfloat16"
    assert found["device"]["name"] == torch.cuda.get_device_name()
    assert found["floor_seconds"] > 0
