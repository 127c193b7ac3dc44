"""`l2c-rt doctor`: what it finds here, and that what is wrong is found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from l2c_rt.cli import main
from l2c_rt.doctor import environment as environment_module
from l2c_rt.doctor import kernels as kernels_module
from l2c_rt.doctor import running
from l2c_rt.doctor.diagnose import diagnose
from l2c_rt.doctor.eight_bits import judged, product_error
from l2c_rt.doctor.environment import environment
from l2c_rt.doctor.finding import Finding, as_table, findings_of
from l2c_rt.doctor.kernel_calls import truth
from l2c_rt.doctor.kernels import SIZES, calls, kernels, largest_error
from l2c_rt.kernels import reference
from l2c_rt.measure.ceilings import Ceilings

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def rates_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "quick_ceilings", lambda *_: Ceilings(1e9, 1e9))


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_checks_what_it_can_and_says_what_it_could_not(tmp_path: Path) -> None:
    file = tmp_path / "doctor.json"
    run = CliRunner().invoke(main, ["doctor", "--out", str(file)])
    assert run.exit_code == 0, run.output
    assert "kernels not run: no GPU" in run.output
    assert " 0 FAIL" in run.output
    content = json.loads(file.read_text())
    assert not content["failed"]
    statuses = {finding["name"]: finding["status"] for finding in content["findings"]}
    assert (statuses["gpu"], statuses["kernels"], statuses["fp8"]) == ("WARN", "WARN", "WARN")
    shown = (Path(__file__).parents[2] / "docs" / "runtime.md").read_text()
    for finding in content["findings"]:
        assert f"\n{finding['status']:4}  {finding['name']} " in shown, "another than in the docs"
    assert {statuses[name] for name in ("memory", "dit", "uvit", "dit on a thread")} == {"OK"}


def test_what_fails_is_in_the_json_and_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(device: torch.device) -> Iterator[Finding]:
        raise RuntimeError("the driver is odd\nsecond line")
        yield

    monkeypatch.setattr("l2c_rt.doctor.diagnose.memory", odd)
    run = CliRunner().invoke(main, ["doctor", "--json"])
    assert run.exit_code == 1
    (failed,) = [f for f in json.loads(run.output)["findings"] if f["status"] == "FAIL"]
    assert (failed["name"], failed["text"]) == ("memory", "RuntimeError: the driver is odd")


def test_a_check_that_ends_in_an_error_keeps_what_it_found_and_the_next_one_runs() -> None:
    def half() -> Iterator[Finding]:
        yield Finding("one", "OK", "fine")
        raise ValueError("odd")

    found = list(findings_of([("first", half), ("second", lambda: [Finding("two", "WARN", "")])]))
    statuses = {finding.name: finding.status for finding in found}
    assert statuses == {"one": "OK", "first": "FAIL", "two": "WARN"}
    assert as_table(found).endswith("1 OK, 1 WARN, 1 FAIL")
    assert "-> report this line" in as_table(found)


def test_a_wrong_kernel_is_found_at_the_sizes_of_the_doctor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels_module, "kernel", truth)
    for op, dtype, operands in calls():
        assert largest_error(op, operands) <= kernels_module.TOLERANCES[dtype], op

    def wrong(op: str) -> Any:
        def spoiled(**operands: Any) -> Any:
            got = truth(op)(**operands)
            last = got if isinstance(got, torch.Tensor) else got[-1]
            last.view(-1)[-1] += 0.5 * last.abs().max() + 0.5
            return got

        return spoiled if op == "attention" else truth(op)

    monkeypatch.setattr(kernels_module, "kernel", wrong)
    monkeypatch.setattr(kernels_module, "mapped", lambda operands, *_: operands)
    found = list(kernels(GPU))
    assert [f.name for f in found if f.status == "FAIL"] == ["attention", "attention", "kernels"]
    total = len(list(kernels_module.calls()))
    assert found[-1].text == f"{total - len(SIZES)} of {total} are right"


def test_rows_in_8_bits_with_a_wrong_scale_are_found() -> None:
    class OneScaleOff:
        """Quantizes rows, and gives the first twice its scale."""

        @staticmethod
        def quantize_rows(*operands: Any) -> Any:
            values, scales = truth("quantize_rows")(*operands)
            scales[0] *= 2
            return values, scales

    right = product_error(CPU, reference, reference)
    assert judged(right).status == "OK"
    assert judged(product_error(CPU, OneScaleOff, reference)).status == "FAIL"
    assert judged(float("inf")).status == "FAIL"


def test_models_that_differ_from_the_reference_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "ROUNDING", -1.0)
    assert [f.status for f in running.models(CPU)] == ["FAIL", "FAIL"]


def test_a_card_below_its_data_sheet_is_a_warning_and_an_unknown_one_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, share, status in (("H100", 0.8, "OK"), ("H100", 0.4, "WARN"), ("B200", 0.1, "OK")):
        rates = Ceilings(share * 495e12, share * 3.35e12)
        monkeypatch.setattr(running, "quick_ceilings", lambda *_, rates=rates: rates)
        card = f"NVIDIA {name} 80GB HBM3"
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, card=card: card)
        (finding,) = running.rates(GPU)
        assert finding.status == status
        assert bool(finding.remedy) == (status == "WARN")


def test_what_triton_lacks_is_a_warning_here_and_a_failure_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H200")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 8 << 30))
    lacking = "triton is not installed; pip install l2c_rt[gpu]"
    monkeypatch.setattr(environment_module, "why_not_triton", lambda: lacking)
    here, there = by_name(environment(CPU)), by_name(environment(GPU))
    assert (here["triton"].status, there["triton"].status) == ("WARN", "FAIL")
    assert there["triton"].remedy == "pip install l2c_rt[gpu]"
    assert (there["gpu"].status, there["gpu"].remedy) == ("WARN", "end what holds its memory")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert by_name(environment(GPU))["gpu"].status == "FAIL"


def test_settings_that_slow_every_launch_or_change_tensors_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    finding = by_name(environment(CPU))["settings"]
    assert (finding.status, finding.text) == ("WARN", "CUDA_LAUNCH_BLOCKING=1")
    monkeypatch.delenv("CUDA_LAUNCH_BLOCKING")
    with torch.device("meta"):
        assert "default device meta" in by_name(environment(CPU))["settings"].text


@pytest.mark.gpu
def test_on_a_gpu_nothing_fails() -> None:
    assert [f for f in diagnose(GPU) if f.status == "FAIL"] == []
