"""Runs in the delta form as on a GPU: on tapes, against the reference and float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from delta_runs import DELTAS, STEPS, compile_delta, delta_schedule
from published_outputs import relative
from three_backends import assert_same
from torch import Tensor
from toys import count_branches, drive, noise, timesteps, toy_uvit

from l2c_rt.api import compile
from l2c_rt.backends.backend import WrongResultError
from l2c_rt.backends.cuda.checking.checked_file import CheckedShapes
from l2c_rt.backends.cuda.composed_weights import ComposedWeights
from l2c_rt.backends.cuda.shape_program import ShapeProgram
from l2c_rt.device.graphs import Eager
from l2c_rt.plan.delta import is_delta
from l2c_rt.runtime.compiled import Compiled

LABELS = [1, 2]
GRID = timesteps(STEPS)


def uvit(dtype: torch.dtype = torch.float32) -> Any:
    return toy_uvit(depth=6).to(dtype)


def reference(model: Any, **options: Any) -> Compiled:
    schedule = delta_schedule(count_branches(model))
    return compile(model, schedule, backend="reference", **options)


def program_of(fast: Compiled) -> ShapeProgram:
    """Of the one shape and kind of run so far."""
    (lane,) = (lane for session in fast._sessions.all() for lane in session.run.lanes.all())
    (program,) = lane.workspace.programs
    return program


def calls(fast: Compiled, dtype: torch.dtype) -> list[Tensor]:
    """A run of calls, whose inputs are those of the narrowest dtype."""
    x, y = noise().bfloat16().to(dtype), torch.tensor(LABELS)
    with torch.no_grad():
        return [fast(x * (1 + step / 8), torch.full((2,), t), y) for step, t in enumerate(GRID)]


@pytest.mark.parametrize("graph", ["step", "trajectory"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_is_at_most_twice_as_far_from_float64_as_the_reference(
    dtype: torch.dtype, graph: str
) -> None:
    model = uvit(dtype)
    fast, eager = compile_delta(model, graph=graph), reference(model)
    true = reference(uvit(dtype).double()).sample(noise().double(), LABELS)
    for _ in range(2):
        error = relative(fast.sample(noise(), LABELS), true)
        assert error < 2 * relative(eager.sample(noise(), LABELS), true)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_calls_are_at_most_twice_as_far_from_float64_as_the_reference(dtype: torch.dtype) -> None:
    model, known = uvit(dtype), {"timesteps": GRID}
    outputs = calls(compile_delta(model, **known), dtype)
    eager = calls(reference(model, **known), dtype)
    exact = calls(reference(uvit(dtype).double(), **known), torch.float64)
    for step, (got, plain, true) in enumerate(zip(outputs, eager, exact, strict=True)):
        assert relative(got, true) < 2 * relative(plain, true), f"step {step}"


@pytest.mark.parametrize("graph", ["step", "trajectory"])
def test_replays_are_bitwise_what_the_kernels_do_one_by_one(graph: str) -> None:
    model = uvit(torch.bfloat16)
    eager = compile_delta(model, recorder=Eager, graph="off")
    replayed = compile_delta(model, graph=graph)
    for seed in range(2):
        expected = eager.sample(noise(seed), LABELS)
        assert torch.equal(replayed.sample(noise(seed), LABELS), expected)


def test_with_products_in_e4m3_the_delta_form_is_no_further_from_float64() -> None:
    model, options = uvit(torch.bfloat16), {"precision": "fp8"}
    true = reference(uvit(torch.bfloat16).double()).sample(noise().double(), LABELS)
    delta, ordinary = (
        relative(compile_delta(model, delta_form=form, **options).sample(noise(), LABELS), true)
        for form in (True, False)
    )
    assert delta < 1.1 * ordinary


def test_a_trajectory_is_one_graph_more() -> None:
    step, whole = compile_delta(), compile_delta(graph="trajectory")
    for fast in (step, whole):
        fast.sample(noise(), LABELS)
    assert whole.summary().graphs.graphs == step.summary().graphs.graphs + 1


@pytest.mark.parametrize("graph", ["step", "trajectory"])
def test_a_table_of_fewer_steps_than_the_run_changes_no_bit(graph: str) -> None:
    model = uvit()
    whole = compile_delta(model)
    expected = whole.sample(noise(), LABELS)
    small = compile_delta(model, graph=graph, table_bytes=3 * whole.summary().table_bytes // STEPS)
    for _ in range(2):
        assert torch.equal(small.sample(noise(), LABELS), expected)


def test_two_shapes_and_calls_beside_them_give_what_each_gives_alone() -> None:
    model = uvit()
    both = compile_delta(model)
    three = both.sample(noise(images=3), [1, 2, 3])
    two, outputs = both.sample(noise(), LABELS), drive(both, STEPS)
    again = both.sample(noise(images=3), [1, 2, 3])
    assert torch.equal(three, again)
    assert torch.equal(two, compile_delta(model).sample(noise(), LABELS))
    assert_same(outputs, drive(compile_delta(model), STEPS))


def counted(model: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)


def uncounted(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", [counted, uncounted])
def test_the_next_run_composes_the_weights_as_they_are_then(
    change: Any, dtype: torch.dtype
) -> None:
    fast = compile_delta(uvit(dtype))
    before = fast.sample(noise(), LABELS)
    change(fast.bound_model.model)
    after = fast.sample(noise(), LABELS)
    assert not torch.equal(after, before)
    assert torch.equal(after, compile_delta(fast.bound_model.model).sample(noise(), LABELS))


def test_16_bit_weights_are_composed_anew_where_they_have_changed_and_only_then() -> None:
    fast = compile_delta(uvit(torch.bfloat16))
    fast.sample(noise(), LABELS)
    copies = program_of(fast).composed.weights.copies
    composed = {group: copy.clone() for group, copy in copies.items()}
    for copy in copies.values():
        copy.zero_()
    fast.sample(noise(), LABELS)
    # A weight of one long skip alone is written every time, which is all that it costs.
    chains = [group for group in copies if all(len(weight.nodes) > 1 for weight in group)]
    assert chains
    assert not any(copies[group].any() for group in chains)
    linear = next(iter(fast.bound_model.fusable.outer.skip_linears.values()))
    linear.weight.data[0, 0] *= 2
    fast.sample(noise(), LABELS)
    assert all(copies[group].any() for group in chains)
    linear.weight.data[0, 0] /= 2
    fast.sample(noise(), LABELS)
    assert all(torch.equal(copies[group], composed[group]) for group in copies)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("run", ["calls", "sample"])
def test_a_wrong_composed_weight_never_reaches_an_image(
    run: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ComposedWeights.refresh

    def wrong(weights: ComposedWeights) -> None:
        right(weights)
        next(iter(weights.copies.values())).mul_(1.2)

    known = GRID if run == "calls" else None
    fast = compile_delta(uvit(dtype), timesteps=known, checked=CheckedShapes("a machine", None))
    monkeypatch.setattr(ComposedWeights, "refresh", wrong)
    with pytest.raises(WrongResultError, match="skip-linear-.* as one sum of products .* differs"):
        calls(fast, dtype) if run == "calls" else fast.sample(noise(), LABELS)
    assert fast.summary().graphs.graphs == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_runs_check_passes_and_changes_no_bit(dtype: torch.dtype) -> None:
    model = uvit(dtype)
    checked = compile_delta(model, checked=CheckedShapes("a machine", None))
    plain = compile_delta(model)
    for _ in range(2):
        assert torch.equal(checked.sample(noise(), LABELS), plain.sample(noise(), LABELS))


def test_composed_weights_are_counted_as_memory_and_no_slot_twice() -> None:
    fast = compile_delta()
    fast.sample(noise(), LABELS)
    program = program_of(fast)
    streams = program.buffers.streams.values()
    slots = {slot.data_ptr() for slot in program.buffers.memory.slots}
    assert not slots & {stream.data_ptr() for stream in streams}
    composed, without = program.composed.weights.nbytes, program.graph_stats.buffer_bytes
    width = program.buffers.h.shape[-1]
    matrices = sum(weight.shape[1] // width for weight in program.composed.weights.copies.values())
    assert composed == 4 * matrices * width**2 > 0
    program.composed.weights.copies.clear()
    assert program.graph_stats.buffer_bytes == without - composed


def test_the_plan_has_the_evaluations_that_the_tests_are_about() -> None:
    plan = compile_delta().plan
    assert tuple(s for s in range(STEPS) if is_delta(plan.at(s))) == DELTAS
