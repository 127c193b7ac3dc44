"""The GPU suite on a CPU: what is timed and how, parts resumed, floors, profiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cpu_suite import CPU, DIT, toy_rig, toy_suite
from gpu.ceilings import (
    Bench,
    attention_seconds,
    attention_shape,
    branch_shapes,
    gemm_seconds,
)
from gpu.environment import environment, source_digest
from gpu.floors import Batch, kernelwise, run_floor
from gpu.idle import Span, evaluations, idle, longest
from gpu.models import CASES, MAKERS, Case
from gpu.parts import parts, run_part
from gpu.row_kernels import row_kernel_rates
from gpu.suite import TIME_IS_UP, Part, Skip
from gpu.timing import (
    Effort,
    HostClock,
    check,
    per_evaluation,
    ratios,
    side_by_side,
    spread,
)
from toys import random_schedule, toy_dit, toy_uvit

from l2c_rt.adapters import bind
from l2c_rt.measure.ceilings import Ceilings

ROOT = Path(__file__).parents[2]


class FakeClock:
    """Time passes only by `spend`; marks are events of a device that has done everything."""

    def __init__(self) -> None:
        self.time = 0.0

    def spend(self, seconds: float) -> None:
        self.time += seconds

    def mark(self) -> float:
        return self.time

    def seconds(self, start: float, end: float) -> float:
        return end - start


# timing


def test_variants_are_timed_forwards_and_backwards() -> None:
    clock, order = FakeClock(), []

    def variant(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            order.append(name)
            clock.spend(seconds)

        return run

    variants = {"a": variant("a", 1.0), "b": variant("b", 2.0)}
    samples = side_by_side(variants, clock, Effort(8.0, 1, 9, 3))
    # Three to warm up, the last of them timed; then two rounds of twice two seconds fit.
    assert "".join(order) == "aabb" + "ab" + "abba" * 2
    assert samples == {"a": [1.0] * 4, "b": [2.0] * 4}


def test_a_drift_of_the_clock_cancels_in_the_ratio() -> None:
    a, b = [1.0, 4.0], [2.0, 3.0]
    assert ratios(a, b) == [1.0]


@pytest.mark.parametrize(("slowest", "rounds"), [(1e-6, 7), (0.5, 2), (100.0, 1)])
def test_rounds_fill_the_time_within_their_limits(slowest: float, rounds: int) -> None:
    assert Effort(2.0, 1, 7).rounds(slowest) == rounds


def test_the_spread_is_the_median_with_quartiles() -> None:
    found = spread([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)
    assert spread([5.0]).high == 5.0


@pytest.mark.parametrize("wrong", [1.02, float("nan")])
def test_a_wrong_result_is_not_timed(wrong: float) -> None:
    want = torch.ones(4)
    assert check("right", 1.005 * want, want, 0.01) == pytest.approx(0.005, rel=1e-3)
    with pytest.raises(AssertionError, match="wrong: differs .* not timed"):
        check("wrong", wrong * want, want, 0.01)


def test_evaluations_are_timed_from_the_end_of_one_to_the_end_of_the_next() -> None:
    clock = FakeClock()

    def run(callback: Callable[[int, torch.Tensor], None]) -> None:
        for step in range(3):
            clock.spend(step + 1.0)
            callback(step, torch.zeros(1))

    assert per_evaluation(run, clock, 2) == [[1.0, 2.0, 3.0]] * 2


# the suite


def test_a_run_part_holds_what_tables_and_plots_need(tmp_path: Path) -> None:
    suite = toy_suite(tmp_path)
    part = Part("toy.n2", "run", partial(run_part, DIT, 2), 0)
    result = suite.run(part)
    assert np.shape(result["profile"]["evaluations"]) == (3, 6)
    # Equal but for rounding where one ceiling binds every kernel: the sums run in different orders.
    assert result["floors"]["kernelwise"] >= result["floors"]["run"] * (1 - 1e-12) > 0
    assert result["products"]["schedule_seconds"] > 0
    assert result["compute"][0] == "######"
    assert result["summary"]["graphs"]["graph_bytes"] == 0
    assert suite.why_not(part).startswith("done")
    assert replace(suite, fresh=True).why_not(part) == ""


def test_a_result_of_other_sources_is_made_again(tmp_path: Path) -> None:
    suite = toy_suite(tmp_path)
    part = Part("quick", "run", lambda suite: {}, 0)
    suite.run(part)
    assert suite.done(part)
    suite.about["source"] = "another"
    assert not suite.done(part)


def test_a_result_of_another_gpu_is_made_again(tmp_path: Path) -> None:
    suite = toy_suite(tmp_path)
    part = Part("quick", "run", lambda suite: {}, 0)
    suite.run(part)
    suite.about["environment"] = suite.about["environment"] | {"gpu": {"name": "another"}}
    assert not suite.done(part)


def test_no_part_is_begun_that_would_not_end_in_time(tmp_path: Path) -> None:
    now = [0.0]
    suite = toy_suite(tmp_path, minutes=2.0, now=lambda: now[0])
    short, long = (Part(f"p{s}", "run", lambda suite: {}, s) for s in (10, 90))
    now[0] = 60.0
    assert suite.why_not(long) == TIME_IS_UP
    assert suite.why_not(short) == ""
    assert suite.left == ["p90"]


@pytest.mark.parametrize(
    ("error", "said"),
    [(Skip("no clone"), "no clone"), (torch.OutOfMemoryError("2 GiB\nmore"), "memory: 2 GiB")],
)
def test_what_cannot_be_run_is_written_with_its_reason_and_tried_again(
    error: Exception, said: str, tmp_path: Path
) -> None:
    suite = toy_suite(tmp_path)

    def fail(suite: Any) -> dict[str, Any]:
        raise error

    part = Part("short", "run", fail, 0)
    with pytest.raises(Skip, match=said):
        suite.run(part)
    assert said in (tmp_path / "short.json").read_text()
    assert suite.why_not(part) == ""
    assert [file.name for file in tmp_path.iterdir()] == ["short.json"]


def test_others_warnings_are_kept_with_the_result(tmp_path: Path) -> None:
    import warnings

    def warn(suite: Any) -> dict[str, Any]:
        warnings.warn("not enough SMs", UserWarning, stacklevel=1)
        return {}

    result = toy_suite(tmp_path).run(Part("loud", "run", warn, 0))
    assert result["warnings"] == ["UserWarning: not enough SMs"]


def test_parts_have_names_of_their_own_and_the_wanted_ones_come_first() -> None:
    names = [part.name for part in parts()]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") for name in names)
    first = {"dit-xl-2-256.ddim-50.n1", "dit-xl-2-256.ddim-50.n1.strong", "row-kernels"}
    assert first <= set(names[:12])
    for case in CASES:
        assert {f"{case.name}.n{n}" for n in (1, 8, 32, 64)} <= set(names)


def test_the_environment_says_versions_and_no_gpu() -> None:
    found = environment()
    assert found["torch"] == torch.__version__
    assert (found["gpu"] is None) == (not torch.cuda.is_available())


def test_the_source_digest_follows_what_is_measured_and_not_the_results(tmp_path: Path) -> None:
    file = tmp_path / "l2c_rt" / "a.py"
    file.parent.mkdir()
    file.write_text("1")
    before = source_digest(tmp_path)
    (tmp_path / "bench" / "results").mkdir(parents=True)
    (tmp_path / "bench" / "results" / "x.json").write_text("{}")
    assert source_digest(tmp_path) == before
    file.write_text("2")
    assert source_digest(tmp_path) != before


# floors, ceilings, profiles


CEILINGS = Ceilings(macs_per_second=790e12 / 2, bytes_per_second=4.3e12)


@pytest.mark.parametrize(
    ("case", "cached_ms", "full_ms"),
    [(CASES[0], 25.8, 33.6), (CASES[1], 10.5, 13.4), (CASES[2], 112, 145), (CASES[3], 22.0, 37.4),
     (CASES[4], 11.0, 15.0)],
    ids=lambda value: getattr(value, "name", None),
)  # fmt: skip
def test_the_kernelwise_floors_of_one_image_are_those_worked_out_by_hand(
    case: Case, cached_ms: float, full_ms: float
) -> None:
    from gpu.models import compiled

    with torch.device("meta"):
        model = MAKERS[case.model]().eval()
    schedule = case.schedule()
    program, cost = bind(model).program, compiled(model, schedule, 0, backend="reference").cost
    batch, ones = Batch(2, 2), np.ones_like(schedule.compute).tolist()
    floor = kernelwise(program, cost.cached, schedule.compute.tolist(), batch, CEILINGS)
    full = kernelwise(program, cost.full, ones, batch, CEILINGS)
    assert 1e3 * sum(floor) == pytest.approx(cached_ms, rel=0.03)
    assert 1e3 * sum(full) == pytest.approx(full_ms, rel=0.03)
    assert sum(floor) >= run_floor(cost, batch, CEILINGS)


BENCH = Bench(CPU, HostClock(), lambda: lambda run: run, calls=2, repeats=3)


def test_the_schedules_own_products_are_counted_once_per_computed_branch() -> None:
    model = toy_dit()
    compute = random_schedule(6, 6, seed=1).compute
    found = gemm_seconds(BENCH, model, compute, 2)
    per = found["seconds"]
    attn = compute[:, ::2].sum() * (per["32x96"] + per["32x32"])
    mlp = compute[:, 1::2].sum() * (per["32x128"] + per["128x32"])
    assert found["schedule_seconds"] == pytest.approx(attn + mlp)
    assert found["rows"] == 4 * 16


def test_the_linears_of_every_family_are_found() -> None:
    want = ((32, 96), (32, 32)), ((32, 128), (128, 32))
    models = [toy_dit(), toy_uvit(), toy_rig().model("diffusers-dit-toy")]
    for model in models:
        shapes = branch_shapes(model)
        assert (shapes["attn-0"], shapes["mlp-0"]) == want


def test_an_attention_that_is_not_to_be_had_has_its_reason() -> None:
    found = attention_seconds(BENCH, (2, 2, 16, 8), torch.float32)
    assert isinstance(found["MATH"], float)
    assert isinstance(found["CUDNN_ATTENTION"], str)


def test_row_kernels_are_held_against_their_byte_models(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from l2c_rt.kernels import gate_residual_norm_modulate, reference, reuse_run

    monkeypatch.setattr(reuse_run, "reuse_run", reference.reuse_run)
    active = "gate_residual_norm_modulate"
    monkeypatch.setattr(gate_residual_norm_modulate, active, getattr(reference, active))
    found = row_kernel_rates(BENCH, [2], torch.float32, counts=(0, 3), tokens=4, width=16)
    elements = 2 * 4 * 16
    moved = [found[0]["bytes"], found[1]["bytes"], found[2]["bytes"]]
    assert moved == [4 * (n * elements + m * 2 * 16) for n, m in ((3, 2), (6, 5), (4, 3))]
    assert all(rate["bytes_per_second"] > 0 for rate in found)


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("dependent", [False, True])
def test_the_empty_kernel_is_empty(dependent: bool) -> None:
    triton = pytest.importorskip("triton")
    from aot import read_back
    from gpu.empty_kernel import _empty_kernel
    from triton.backends.compiler import GPUTarget

    signature = {"x_ptr": "*fp32", "DEPENDENT": "constexpr"}
    source = triton.compiler.ASTSource(_empty_kernel, signature, {"DEPENDENT": dependent})
    options = {"num_warps": 4} | ({"launch_pdl": True} if dependent else {})
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    code = read_back(made.asm["cubin"])
    assert code.count("LDG|STG") == 0
    assert code.count("ACQBULK") == code.count("PREEXIT") == int(dependent)


def test_the_shape_of_a_models_attention_is_found() -> None:
    assert attention_shape(toy_uvit(), 3) == (6, 2, 18, 16)


def test_idle_is_what_no_kernel_covers() -> None:
    spans = [Span("a", 0, 4), Span("b", 3, 5), Span("a", 6, 7), Span("c", 9, 10)]
    found = idle(spans)
    assert found["idle_share"] == pytest.approx(0.3)
    assert (found["kernels"], found["seconds"]) == (4, pytest.approx(10e-6))
    assert longest(spans)[0] == {"name": "a", "count": 2, "seconds": pytest.approx(5e-6)}


def test_evaluations_end_with_the_solvers_update() -> None:
    names = ["fill", "gemm", "_final_update_kernel", "gemm", "_guided_update_kernel"]
    spans = [Span(name, 2 * k, 2 * k + 1) for k, name in enumerate(names)]
    assert evaluations(spans) == pytest.approx([5e-6, 4e-6])


def test_the_kernels_that_end_an_evaluation_are_called_so() -> None:
    from gpu.idle import ENDS

    named = [f.stem for f in (ROOT / "kernels").glob("*.py") if "_update_kernel(" in f.read_text()
             or "_update_norm_kernel(" in f.read_text()]  # fmt: skip
    assert sorted(named) == ["final_update", "final_update_norm", "guided_update"]
    assert all(ENDS.search(name) for name in named)
