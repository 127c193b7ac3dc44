"""The first run on a machine: a kernel that is wrong never gives a result.  On tapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from taped_graphs import TapedKernels, compile_taped
from three_backends import assert_same
from toys import count_branches, drive, noise, random_schedule, toy_dit, toy_uvit

from l2c_rt.api import compile
from l2c_rt.backends.backend import WrongResultError
from l2c_rt.backends.cuda import linears
from l2c_rt.backends.cuda.checking.checked_file import CheckedShapes
from l2c_rt.backends.cuda.tuning.runs import run_linear
from l2c_rt.backends.tuning.problems import LinearConfig
from l2c_rt.device.graphs import Eager
from l2c_rt.kernels import reference
from l2c_rt.notices import L2CWarning
from l2c_rt.runtime.compiled import Compiled

STEPS = 6
SPOILS = {
    "dit": (
        *("gate_residual_norm_modulate", "reuse_run", "patch_embed_norm_modulate"),
        "final_update",
    ),
    "uvit": ("residual_norm", "reuse_run_norm", "patch_embed_norm", "skip_linear"),
}
CASES = [
    (family, op, run)
    for family, ops in SPOILS.items()
    for op in ops
    for run in ("calls", "sample")
    # Calls end in the model's own last linear.
    if (op, run) != ("final_update", "calls")
]
MODELS: dict[str, Callable[..., Any]] = {"dit": toy_dit, "uvit": toy_uvit}


def shapes(path: Path | None = None) -> CheckedShapes:
    return CheckedShapes("a machine", path)


def with_wrong(name: str, share: float = 0.1) -> TapedKernels:
    """Kernels of which one is off by a share of what it gives, at one place of its output."""
    right = getattr(reference, name)

    def wrong(*args: Any, out: Any, **kwargs: Any) -> Any:
        result = right(*args, out=out, **kwargs)
        target = (out if isinstance(out, torch.Tensor) else out[-1]).view(-1)
        target[-1] += share * target.abs().max()
        return result

    functions = {op: getattr(reference, op) for op in reference.__all__}
    return TapedKernels(SimpleNamespace(**(functions | {name: wrong})))


def fresh(family: str = "dit", model: Any = None, **options: Any) -> Compiled:
    """A toy on tapes, checked at its first run."""
    model = MODELS[family]() if model is None else model
    schedule = random_schedule(STEPS, count_branches(model), seed=3)
    return compile_taped(model, schedule, **({"checked": shapes()} | options))


def both(fast: Any) -> list[torch.Tensor]:
    """A run of calls, and one of `sample`."""
    return [*drive(fast, STEPS), fast.sample(noise(), [1, 2])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", MODELS)
def test_right_kernels_pass_and_the_check_changes_no_bit(family: str, dtype: torch.dtype) -> None:
    checked = fresh(family, MODELS[family]().to(dtype))
    plain = fresh(family, MODELS[family]().to(dtype), checked=None)

    def outputs(fast: Compiled) -> list[torch.Tensor]:
        calls = [x.to(dtype) for x in (noise(0), noise(1))]
        t = torch.full((2,), 990.0)
        return [fast(calls[0], t, torch.tensor([1, 2])), fast.sample(noise(), [1, 2])]

    assert_same(outputs(checked), outputs(plain))
    assert checked.summary().reasons == ()


@pytest.mark.parametrize(("family", "name", "run"), CASES)
def test_a_wrong_kernel_is_named_and_gives_no_result(family: str, name: str, run: str) -> None:
    fast = fresh(family, kernels=with_wrong(name))
    with pytest.raises(WrongResultError, match=f"kernel {name} .*float32 tensor differs by"):
        drive(fast, 1) if run == "calls" else fast.sample(noise(), [1, 2])
    assert fast.summary().graphs.graphs == 0


@pytest.mark.parametrize("first", ["calls", "sample"])
def test_where_auto_chose_the_reference_takes_over_and_the_reason_is_said(first: str) -> None:
    model = toy_dit()
    fast = fresh(model=model, kernels=with_wrong("reuse_run"), forgiving=True)
    schedule = random_schedule(STEPS, count_branches(model), seed=3)
    plain = compile(model, schedule, backend="reference")
    with pytest.warns(L2CWarning, match="fused backend not used: the kernel reuse_run computes"):
        one = drive(fast, STEPS) if first == "calls" else [fast.sample(noise(), [1, 2])]
    expected = drive(plain, STEPS) if first == "calls" else [plain.sample(noise(), [1, 2])]
    assert_same(one, expected)
    assert_same(both(fast), both(plain))
    assert fast.backend.name == "reference"
    assert "reuse_run" in fast.summary().reasons[0]


def test_under_strict_a_wrong_kernel_raises() -> None:
    fast = fresh(kernels=with_wrong("reuse_run"), strict=True)
    with pytest.raises(WrongResultError, match="reuse_run"):
        drive(fast, 1)


def test_a_wrong_attention_is_named_in_the_dtype_that_it_is_for() -> None:
    fast = fresh(model=toy_dit().to(torch.bfloat16), kernels=with_wrong("attention"))
    with pytest.raises(WrongResultError, match="kernel attention .*bfloat16 tensor differs by"):
        fast.sample(noise(), [1, 2])


def test_a_step_that_differs_from_the_model_though_every_kernel_is_right_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def half(choice: LinearConfig, kernels: Any, *operands: Any, workspace: Any) -> None:
        run_linear(choice, kernels, *operands, workspace=workspace)
        operands[-1].mul_(0.5)

    # Not a kernel of ours: a product of cuBLAS.
    monkeypatch.setattr(linears, "run_linear", half)
    for run in (lambda fast: drive(fast, 1), lambda fast: fast.sample(noise(), [1, 2])):
        with pytest.raises(WrongResultError, match="one by one, but the first step differs"):
            run(fresh())


def test_what_passed_is_not_checked_again_on_this_machine_and_another_shape_is(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cache" / "checked.json"
    fresh(checked=shapes(path)).sample(noise(), [1, 2])
    # A kernel that was right by then is taken at its word.
    again = fresh(kernels=with_wrong("reuse_run"), checked=shapes(path))
    again.sample(noise(), [1, 2])
    with pytest.raises(WrongResultError):
        again.sample(noise(images=3), [1, 2, 3])
    elsewhere = CheckedShapes("another machine", path)
    with pytest.raises(WrongResultError):
        fresh(kernels=with_wrong("reuse_run"), checked=elsewhere).sample(noise(), [1, 2])


def test_what_failed_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "checked.json"
    for _ in range(2):
        with pytest.raises(WrongResultError):
            fresh(kernels=with_wrong("reuse_run"), checked=shapes(path)).sample(noise(), [1, 2])
    assert not path.exists()


def test_without_graphs_the_first_run_is_checked_as_well() -> None:
    fast = fresh(kernels=with_wrong("reuse_run"), graph="off", recorder=Eager)
    with pytest.raises(WrongResultError, match="reuse_run"):
        fast.sample(noise(), [1, 2])
