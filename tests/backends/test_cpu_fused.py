"""The fused backend on a CPU: near the model by every product, and what it falls back to."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from published_outputs import relative
from three_backends import STEPS, assert_near, assert_same, fresh
from toys import call_inputs, count_branches, drive, random_schedule, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.backends.cpu import backend as cpu_backend
from l2c_rt.backends.cpu import packed
from l2c_rt.backends.cpu.attention import Attention
from l2c_rt.backends.cpu.products import Products
from l2c_rt.backends.tuning.chooser import Chooser
from l2c_rt.policies import EveryN, Full

MODELS = pytest.mark.parametrize("make", [toy_dit, toy_uvit])
NARROW = packed.why_not_narrow(torch.nn.Linear(1, 1))
needs_narrow = pytest.mark.skipif(bool(NARROW), reason=NARROW)


@pytest.fixture(params=["addmm", "packed"])
def _forced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every product by one way, with the attention that goes with it."""
    attention = "sdpa" if request.param == "addmm" else "native"
    monkeypatch.setattr(cpu_backend, "Products", partial(Products, way=request.param))
    monkeypatch.setattr(cpu_backend, "Attention", partial(Attention, way=attention))


@MODELS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("_forced")
def test_it_is_within_twice_the_references_error_against_float64(
    make: Any, dtype: torch.dtype
) -> None:
    model = make()
    schedule = random_schedule(STEPS, count_branches(model), seed=3)
    exact = compile_for(copy.deepcopy(model).to(dtype).double(), schedule, "reference")
    model = model.to(dtype)
    want = drive_in(exact, torch.float64)
    reference = drive_in(compile_for(model, schedule, "reference"), dtype)
    got = drive_in(compile_for(model, schedule, "fused"), dtype)
    for ours, theirs, truth in zip(got, reference, want, strict=True):
        assert relative(ours.double(), truth) <= 2 * relative(theirs.double(), truth) + 1e-7


def compile_for(model: Any, schedule: Any, backend: str) -> Any:
    return rt.compile(model, schedule, backend=backend, timesteps=[t for t in times()])


def times() -> list[float]:
    return [float(call_inputs(step)[1][0]) for step in range(STEPS)]


def drive_in(fast: Any, dtype: torch.dtype) -> list[torch.Tensor]:
    calls = [call_inputs(step) for step in range(STEPS)]
    return [fast(x.to(dtype), t, y) for x, t, y in calls]


@MODELS
def test_auto_takes_it_and_the_summary_says_how_far_it_is_from_the_model(make: Any) -> None:
    fast = rt.compile(make(), Full(), steps=2)
    drive(fast, 2)
    assert fast.backend.name == "fused"
    assert fast.summary().checked.startswith("equal up to rounding (")


def test_the_summary_says_which_linears_are_not_packed_unless_none_is_asked_for() -> None:
    model = toy_dit().double()
    (note,) = rt.compile(model, Full(), steps=2).summary().notes
    assert note.startswith("not packed: blocks.0.attn.qkv, blocks.0.attn.proj, blocks.0.mlp.fc1 ")
    assert note.endswith("its weight is float64")
    assert rt.compile(model, Full(), steps=2, pack=False).summary().notes == ()


@pytest.mark.skipif(bool(packed.why_not_here()), reason=packed.why_not_here())
@pytest.mark.parametrize("pack", [True, False])
def test_pack_false_leaves_the_products_to_pytorch(
    pack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = {"addmm": 1.0, "packed": 0.5, "sdpa": 1.0, "native": 0.5}
    chooser = Chooser("this machine", None, lambda call: call() or measure[kind_of(call)])
    monkeypatch.setattr(cpu_backend, "product_chooser", lambda: chooser)
    fast = rt.compile(toy_dit(), Full(), steps=2, pack=pack)
    drive(fast, 2)
    assert (fast.summary().copied_bytes > 0) == pack
    assert chooser.measured > 0


def kind_of(call: Any) -> str:
    kind: str = next(part.kind for part in call.args if hasattr(part, "kind"))
    return kind


def test_under_autocast_auto_follows_the_model() -> None:
    model = toy_dit()
    fast = rt.compile(model, Full(), steps=2)
    plain = drive(fast, 2)
    with torch.autocast("cpu", torch.bfloat16):
        want, narrow = drive(model, 2), drive(fast, 2)
        assert fast.backend.name == "reference"
    assert_same(narrow, want)
    assert_same(drive(fast, 2), plain)
    assert fast.summary().weight_changes == 0


@pytest.mark.usefixtures("_forced")
def test_sleep_gives_the_copies_back_and_runs_go_on_as_before() -> None:
    fast = fresh("fused")
    before = drive(fast, STEPS)
    copies = fast.summary().copied_bytes
    fast.sleep()
    assert fast.summary().copied_bytes == 0
    fast.wake()
    assert_same(drive(fast, STEPS), before)
    assert fast.summary().copied_bytes == copies
    assert ("copies of weights" in str(fast.summary())) == (copies > 0)


@pytest.mark.usefixtures("_forced")
def test_memory_is_flat_over_runs_and_sessions_share_the_copies() -> None:
    fast = fresh("fused", timesteps=times())
    drive(fast, STEPS)
    first = fast.summary()
    for _ in range(3):
        drive(fast, STEPS)
    with fast.session() as session:
        drive(session, STEPS)
        assert fast.summary().copied_bytes == first.copied_bytes
    last = fast.summary()
    assert (last.copied_bytes, last.table_bytes) == (first.copied_bytes, first.table_bytes)


@MODELS
@pytest.mark.parametrize("change", ["in place", "data", "replaced"])
@pytest.mark.usefixtures("_forced")
def test_changed_weights_are_those_of_the_next_run(make: Any, change: str) -> None:
    model = make()
    fast = rt.compile(model, EveryN(2), steps=4, backend="fused")
    drive(fast, 4)
    for module in list(model.modules()):
        if isinstance(module, torch.nn.Linear):
            if change == "in place":
                with torch.no_grad():
                    module.weight.mul_(1.1)
            elif change == "data":
                module.weight.data.mul_(1.1)
            else:
                module.weight = torch.nn.Parameter(module.weight.detach() * 1.1)
    fresh_run = rt.compile(model, EveryN(2), steps=4, backend="fused")
    assert_same(drive(fast, 4), drive(fresh_run, 4))


def test_a_run_compares_the_copied_weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Products] = []
    monkeypatch.setattr(Products, "begin_run", lambda products: begun.append(products))
    fast = rt.compile(toy_dit(), EveryN(2), steps=4, backend="fused")
    fast.sample(torch.randn(1, 4, 8, 8), [1])
    assert len(begun) == 1


@needs_narrow
@MODELS
@pytest.mark.usefixtures("_forced")
def test_narrow_products_keep_inputs_and_outputs_wide(make: Any) -> None:
    fast = rt.compile(make(), EveryN(2), steps=STEPS, precision="bf16", timesteps=times())
    wide = rt.compile(make(), EveryN(2), steps=STEPS, backend="fused", timesteps=times())
    got, want = drive(fast, STEPS), drive(wide, STEPS)
    assert all(out.dtype == torch.float32 for out in got)
    assert 1e-5 < max(relative(a, b) for a, b in zip(got, want, strict=True)) < 3e-2
    assert fast.summary().slot_bytes < wide.summary().slot_bytes


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"precision": "fp4"}, 'precision: got \'fp4\', wanted "bf16", "fp8" or None'),
        ({"precision": "bf16", "backend": "reference"}, "only the fused backend has it"),
    ],
)
def test_a_precision_that_is_not_there_is_refused(options: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        rt.compile(toy_dit(), Full(), steps=2, **options)


def test_narrow_products_need_a_wide_model_and_a_cpu_that_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="the model is bfloat16, wanted float32"):
        rt.compile(toy_dit().bfloat16(), Full(), steps=2, precision="bf16")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    with pytest.raises(ValueError, match="no instructions for bfloat16; leave precision= out"):
        rt.compile(toy_dit(), Full(), steps=2, precision="bf16")


def test_float64_takes_pytorchs_operators() -> None:
    model = toy_uvit().double()
    schedule = random_schedule(STEPS, count_branches(model), seed=3)
    exact = drive_in(compile_for(model, schedule, "reference"), torch.float64)
    assert_near(drive_in(compile_for(model, schedule, "fused"), torch.float64), exact)
