"""The name, step and number of steps that a loop announces for its calls, as diffusers does."""

from __future__ import annotations

import contextlib
import itertools
import threading

import pytest
import torch
from three_backends import STEPS, assert_same, compiled, every_backend, fresh
from torch import Tensor
from toys import call_inputs, drive, random_schedule, toy_dit, toy_uvit

from l2c_rt.api import compile
from l2c_rt.runtime.cache_context import Announcement, LaneNames, StepHint, StepHints
from l2c_rt.runtime.session import Session

COSMOS3 = ("cond", "cond_no_control", "uncond")
LTX2 = ("cond_uncond", "uncond_stg", "uncond_modality")


def run_named(session: Session, names: tuple[str, ...], steps: int = STEPS) -> list[list[Tensor]]:
    """A loop that calls once per name and step, each name with inputs of its own."""
    outputs: list[list[Tensor]] = [[] for _ in names]
    for step in range(steps):
        for seed, name in enumerate(names):
            x, _, y = call_inputs(step, seed)
            t = call_inputs(step)[1]
            with session.cache_context(name, step_index=step, num_inference_steps=STEPS, sigma=0.5):
                outputs[seed].append(session(x, t, y))
    return outputs


def run_alone(names: tuple[str, ...], backend: str = "reference") -> list[list[Tensor]]:
    """The same calls, each name's in a model of its own."""
    return [drive(fresh(backend), STEPS, seed) for seed in range(len(names))]


@every_backend
@pytest.mark.parametrize("names", [COSMOS3, LTX2, ("positive", "negative"), ("uncond", "cond")])
def test_every_name_has_a_cache_of_its_own(backend: str, names: tuple[str, ...]) -> None:
    fast, expected = fresh(backend, calls_per_step=len(names)), run_alone(names, backend)
    for _ in range(2):
        for outputs, alone in zip(run_named(fast, names), expected, strict=True):
            assert_same(outputs, alone)


@every_backend
def test_calls_may_be_named_cond_and_uncond_in_any_order(backend: str) -> None:
    model, schedule = toy_uvit(), random_schedule(3, 6, seed=2)
    named, in_order = (compiled(backend, model, schedule, calls_per_step=2) for _ in range(2))
    for step in range(3):
        x, t, y = call_inputs(step)
        with named.cache_context("uncond", step=step, num_steps=3):
            uncond = named(x, t, y + 1)
        with named.cache_context("cond", step=step, sigma=0.5):
            cond = named(x, t, y)
        assert_same([cond, uncond], [in_order(x, t, y), in_order(x, t, y + 1)])


@pytest.mark.parametrize("names", list(itertools.permutations(COSMOS3)))
def test_no_order_of_names_gives_two_of_them_one_lane(names: tuple[str, ...]) -> None:
    lanes = LaneNames(3)
    assert sorted(lanes.lane(name, None) for name in names) == [0, 1, 2]
    assert [lanes.lane(name, None) for name in names] == [lanes.lane(name, None) for name in names]


@pytest.mark.parametrize("name", ["cond", "cond_uncond", "pred_cond", "uncond", "pred_uncond"])
def test_a_known_name_has_its_lane_whatever_comes_first(name: str) -> None:
    assert LaneNames(2).lane(name, None) == int(name in ("uncond", "pred_uncond"))
    with_others = LaneNames(4)
    assert [with_others.lane(other, None) for other in ("cond", "uncond")] == [0, 1]
    assert with_others.lane(name, None) == int(name in ("uncond", "pred_uncond"))


def test_other_names_take_the_next_lane_in_order_of_first_use() -> None:
    lanes = LaneNames(3)
    assert [lanes.lane(name, None) for name in ("a", "b", "a", None, "b")] == [0, 1, 0, 2, 1]
    assert [LaneNames(1).lane(name, None) for name in ("a", "cond", "uncond")] == [0, 0, 0]


def test_two_names_in_one_step_of_one_call_name_the_remedy() -> None:
    fast = fresh()
    for names in (("cond", "uncond"), ("positive", "negative")):
        remedy = rf"'{names[0]}' and '{names[1]}' are both step 0, .*calls_per_step=2"
        with pytest.raises(ValueError, match=remedy):
            run_named(fast, names)
        assert_same(run_named(fast, names[1:])[0], run_alone(names[1:])[0])


def test_a_new_name_takes_the_lane_that_its_call_asks_for() -> None:
    fast = fresh(calls_per_step=2)
    with fast.cache_context("negative"):
        fast(*call_inputs(0), lane=1)
    with fast.cache_context("positive"):
        fast(*call_inputs(0), lane=0)


def test_a_name_too_many_names_the_remedy_and_leaves_the_next_run_right() -> None:
    fast = fresh(calls_per_step=2)
    remedy = r"'uncond_modality' is one more call .* 2 compiled for .*calls_per_step=3"
    with pytest.raises(ValueError, match=remedy):
        run_named(fast, LTX2)
    assert_same(run_named(fast, LTX2[:2])[1], run_alone(LTX2[:2])[1])


@pytest.mark.filterwarnings("ignore:a run began after:l2c_rt.notices.L2CWarning")
@pytest.mark.parametrize("end", ["complete", "reset", "abandoned", "error"])
def test_names_belong_to_one_run(end: str) -> None:
    fast = fresh(calls_per_step=2)
    run_named(fast, ("a", "b"), STEPS if end == "complete" else 3)
    if end == "reset":
        fast.reset()
    elif end == "error":
        with pytest.raises(TypeError), fast.cache_context("a"):
            fast("not a tensor")
    # A run that begins with the name of the abandoned one frees the others.
    others = ("a", "c") if end == "abandoned" else ("c", "d")
    for outputs, alone in zip(run_named(fast, others), run_alone(others), strict=True):
        assert_same(outputs, alone)


def test_another_number_of_steps_is_refused_in_either_spelling() -> None:
    fast = fresh()
    for keyword in ("num_steps", "num_inference_steps"):
        with (
            fast.cache_context("cond", **{keyword: 50}),
            pytest.raises(ValueError, match="has 50 steps"),
        ):
            fast(*call_inputs(0))
    for keyword in ("step", "step_index"):
        with (
            fast.cache_context("cond", **{keyword: 3}),
            pytest.raises(ValueError, match="step 3 was announced"),
        ):
            fast(*call_inputs(0))


def test_what_is_no_announcement_is_an_error_before_the_call() -> None:
    fast = fresh()
    with pytest.raises(TypeError, match="'guess', wanted step, num_steps, step_index"):
        fast.cache_context("cond", guess=1)
    with pytest.raises(ValueError, match="step=1 and step_index=2 differ"):
        fast.cache_context("cond", step=1, step_index=2)
    with pytest.raises(TypeError, match=r"num_steps must be an int, got 6\.0"):
        fast.cache_context("cond", num_steps=6.0)
    with pytest.raises(TypeError, match="name must be text, got int"):
        fast.cache_context(1)  # type: ignore[arg-type]
    with fast.cache_context("cond", step=0, step_index=torch.tensor(0)):
        fast(*call_inputs(0))


def test_a_lane_is_not_called_inside_the_context_of_another() -> None:
    fast = compile(toy_uvit(), random_schedule(3, 6), calls_per_step=2)
    with fast.cache_context("cond"), pytest.raises(ValueError, match="inside the context of lane"):
        fast(*call_inputs(0), lane=1)


def test_the_innermost_context_holds_and_ends_with_an_error_too() -> None:
    hints = StepHints(2)
    with hints.context(Announcement.of("cond", num_steps=4)):
        inner = Announcement.of("uncond", step_index=5, num_inference_steps=9)
        with contextlib.suppress(IndexError), hints.context(inner):
            assert hints.current(None) == StepHint(1, 5, 9)
            raise IndexError
        assert hints.current(0) == StepHint(0, None, 4)
    assert hints.current(1) == StepHint(1)


def test_an_error_inside_a_context_leaves_no_trace_in_the_next_run() -> None:
    fast = fresh(calls_per_step=3)
    with contextlib.suppress(KeyError), fast.cache_context("a"), fast.cache_context("b"):
        fast(*call_inputs(0))
        raise KeyError
    fast.reset()
    for outputs, alone in zip(run_named(fast, COSMOS3), run_alone(COSMOS3), strict=True):
        assert_same(outputs, alone)


def test_contexts_that_overlap_are_an_error_and_both_end() -> None:
    hints = StepHints(2)
    first, second = (hints.context(Announcement(name)) for name in ("cond", "uncond"))
    first.__enter__()
    second.__enter__()
    with pytest.raises(ValueError, match="contexts of one session overlap"):
        first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert hints.current(None) == StepHint()


def test_a_session_per_thread_has_names_of_its_own() -> None:
    fast = compile(toy_dit(), fresh().schedule, calls_per_step=3, backend="reference")
    runs: dict[int, list[list[Tensor]]] = {}

    def work(i: int) -> None:
        with fast.session() as session:
            for _ in range(3):
                runs[i] = run_named(session, (COSMOS3, LTX2)[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    expected = run_alone(COSMOS3)
    for outputs, alone in zip(runs[0] + runs[1], 2 * expected, strict=True):
        assert_same(outputs, alone)
