"""A backend that changes between runs, as `.to("cuda")` does under "auto": plan, slots and
workspace of the next run are the new backend's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from taped_graphs import TapedKernels, TapeRecorder
from three_backends import STEPS, assert_near, assert_same
from torch import Tensor
from toys import drive, noise, random_schedule, toy_dit

from l2c_rt import backends
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.api import build
from l2c_rt.backends.backend import Backend
from l2c_rt.backends.cuda.cuda_parts import CudaParts
from l2c_rt.backends.cuda.support import fused_cuda_backend
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.options import Options
from l2c_rt.plan.ops import Compute, Plan, PlanError
from l2c_rt.plan.program import BlockProgram
from l2c_rt.runtime.compiled import Compiled

ORDERS = [("reference", "cuda", "reference", "cuda"), ("fused", "cuda", "cuda", "fused")]


def backend_of(name: str, model: BoundModel) -> Backend:
    if name != "cuda":
        return backends.select_backend(name, Options(), model)
    tuner = Tuner("tape", None, None, device="cpu")
    return fused_cuda_backend(model, CudaParts(TapedKernels(), TapeRecorder, tuner), Options())


@dataclass
class Selection:
    """Gives a model the backend that is named now."""

    name: str

    def __call__(self, model: BoundModel) -> Backend:
        return backend_of(self.name, model)


def compile_selected(selection: Selection, seed: int) -> Compiled:
    schedule = random_schedule(STEPS, 4, seed=seed)
    return build(toy_dit(depth=2), schedule, selection)


def touch(fast: Compiled) -> None:
    """Leave a mark that the next run notices, and the weights as they are."""
    with torch.no_grad():
        fast.bound_model.model.blocks[0].mlp.fc2.weight.mul_(1.0)


def calls(fast: Compiled) -> list[Tensor]:
    return drive(fast, STEPS)


def samples(fast: Compiled) -> list[Tensor]:
    return [fast.sample(noise(), [1, 2])]


def check_against_new(name: str, outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    # A fused backend that knows the timesteps by now sums in another order than one that does not.
    (assert_same if name == "reference" else assert_near)(outputs, expected)


@pytest.mark.parametrize("runs", [calls, samples])
@pytest.mark.parametrize(
    ("order", "warm", "seed"),
    [(ORDERS[0], False, 3), (ORDERS[0], True, 4), (ORDERS[1], False, 5), (ORDERS[1], True, 6)],
)
def test_runs_after_a_change_are_those_of_a_model_compiled_anew(
    order: tuple[str, ...], warm: bool, runs: object, seed: int
) -> None:
    assert callable(runs)
    selection = Selection(order[0])
    fast = compile_selected(selection, seed)
    if warm:
        runs(fast)
    for changes, name in enumerate(order[1:], start=1):
        selection.name = name
        touch(fast)
        expected = runs(compile_selected(Selection(name), seed))
        for _ in range(2):
            check_against_new(name, runs(fast), expected)
        assert fast.backend.name == ("fused" if name == "cuda" else name)
        assert fast.summary().weight_changes == changes


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_slots_are_as_many_as_the_new_backend_wants(order: tuple[str, ...]) -> None:
    selection = Selection(order[0])
    fast = compile_selected(selection, 3)
    for name in order:
        selection.name = name
        touch(fast)
        calls(fast)
        samples(fast)
        expected = fast.plan.num_slots + (name == "cuda")
        sessions = (fast, *fast._sessions.all())
        lanes = [lane for session in sessions for lane in session.run.lanes.all()]
        assert [lane.slots.num_slots for lane in lanes] == [expected] * 2


def test_a_session_that_was_open_through_two_changes_has_the_last_ones_workspace() -> None:
    selection = Selection("reference")
    fast = compile_selected(selection, 3)
    with fast.session() as session:
        drive(session, STEPS)
        for name in ("cuda", "reference"):
            selection.name = name
            touch(fast)
            calls(fast)
        assert_same(drive(session, STEPS), drive(fast, STEPS))


def drop_the_first_store(plan: Plan, program: BlockProgram) -> Plan:
    """A rewrite that loses an output which a later evaluation reads."""
    first = list(plan.steps[plan.order[0]])
    at = next(i for i, op in enumerate(first) if isinstance(op, Compute) and op.slot is not None)
    first[at] = Compute(first[at].branch, None)
    steps = list(plan.steps)
    steps[plan.order[0]] = tuple(first)
    return replace(plan, steps=tuple(steps))


def test_the_plan_after_a_change_is_verified_again() -> None:
    wrong: list[bool] = []

    def select(model: BoundModel) -> Backend:
        backend = backend_of("reference", model)
        return replace(backend, passes=drop_the_first_store) if wrong else backend

    fast = build(toy_dit(), random_schedule(STEPS, 6, seed=3), select)
    before = calls(fast)
    wrong.append(True)
    touch(fast)
    for runs in (calls, samples):
        with pytest.raises(PlanError):
            runs(fast)
    wrong.clear()
    assert_same(calls(fast), before)
