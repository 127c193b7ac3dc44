"""Whole runs of the fused CUDA backend, on a CPU: references for kernels, tapes for graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from ladder_cases import PRESETS, VARIANTS, branches, variant
from published_outputs import NAMES, Golden, relative
from taped_graphs import TapedKernels, compile_taped
from toys import random_schedule, toy_dit, toy_uvit

from l2c_rt import presets
from l2c_rt.api import compile
from l2c_rt.backends.cuda import workspace
from l2c_rt.device.graphs import Eager
from l2c_rt.policies import Full

STEPS = 8


def fresh(model: Any = None, **options: Any) -> Any:
    model = toy_dit() if model is None else model
    return compile_taped(model, random_schedule(STEPS, branches(model), seed=3), **options)


def noise(seed: int = 0, images: int = 2) -> torch.Tensor:
    return torch.randn(images, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [0.0, 2.5])
@pytest.mark.parametrize("name", VARIANTS)
def test_rung_3_a_whole_run_is_the_references(name: str, scale: float) -> None:
    model = variant(name)
    fast, reference = fresh(model), compile(model, fresh(model).schedule)
    for seed in range(2):
        got, want = (f.sample(noise(seed), [1, 7], cfg_scale=scale) for f in (fast, reference))
        assert relative(got, want) < 1e-5
    assert fast.summary().runs == 2
    assert fast.summary().calls == 2 * STEPS


@pytest.mark.parametrize("graph", ["step", "trajectory"])
@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_rung_4_replay_is_bitwise_the_launches_one_by_one_over_poison(
    make: Any, graph: str
) -> None:
    model = make()
    eager, replayed = fresh(model, recorder=Eager, graph="off"), fresh(model, graph=graph)
    for seed in range(3):
        replayed.poison()
        want = eager.sample(noise(seed), [1, 2])
        assert not want.isnan().any()
        assert torch.equal(replayed.sample(noise(seed), [1, 2]), want)


@pytest.mark.parametrize("name", NAMES)
def test_rung_5_a_whole_run_gives_the_published_latents(name: str) -> None:
    golden = Golden.load(name)
    preset = presets.load(PRESETS[next(n for n in NAMES if Golden.load(n).router == golden.router)])
    for schedule, want in ((preset, golden.cached), (Full(), golden.full)):
        fast = compile_taped(golden.model(), schedule, steps=golden.steps)
        got = fast.sample(golden.noise, golden.labels, cfg_scale=golden.guidance)
        assert relative(got, want) < 1e-4


def test_a_run_in_one_graph_has_a_graph_more_and_no_callback() -> None:
    step, whole = fresh(), fresh(graph="trajectory")
    for fast in (step, whole):
        fast.sample(noise(), [1, 2])
    assert whole.summary().graphs.graphs == step.summary().graphs.graphs + 1
    with pytest.raises(ValueError, match='graph="step"'):
        whole.sample(noise(), [1, 2], callback=lambda step, latents: None)


@pytest.mark.parametrize("graph", ["step", "trajectory"])
@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_a_table_too_small_for_the_run_is_filled_again(make: Any, graph: str) -> None:
    model = make()
    whole = fresh(model)
    want = whole.sample(noise(), [1, 2])
    small = fresh(model, graph=graph, table_bytes=3 * whole.summary().table_bytes // STEPS)
    for _ in range(2):
        assert relative(small.sample(noise(), [1, 2]), want) < 1e-6
    assert small.summary().table_bytes == 3 * whole.summary().table_bytes // STEPS


def test_labels_scales_and_noise_change_from_run_to_run_without_a_capture() -> None:
    model = toy_dit()
    fast, reference = fresh(model), compile(model, fresh(model).schedule)
    fast.sample(noise(), [1, 2])
    captured = fast.summary().graphs.graphs
    for seed, (labels, scale) in enumerate([([3, 4], 4.0), ([5, 5], 1.5), ([3, 4], 7.0)]):
        got, want = (f.sample(noise(seed), labels, cfg_scale=scale) for f in (fast, reference))
        assert relative(got, want) < 1e-5, seed
    assert fast.summary().graphs.graphs == captured


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_latents_that_a_run_returns_are_the_callers_and_keep_their_dtype(
    dtype: torch.dtype,
) -> None:
    fast = fresh()
    first = fast.sample(noise().to(dtype), [1, 2])
    kept = first.clone()
    fast.sample(noise(1).to(dtype), [1, 2])
    assert first.dtype == dtype
    assert torch.equal(first, kept)


def test_a_callback_sees_every_evaluation_in_order_and_may_keep_what_it_sees() -> None:
    model = toy_dit()
    fast, reference = fresh(model), compile(model, fresh(model).schedule)
    seen: list[tuple[int, torch.Tensor]] = []
    want: list[torch.Tensor] = []
    out = fast.sample(noise(), [1, 2], callback=lambda step, x: seen.append((step, x)))
    reference.sample(noise(), [1, 2], callback=lambda step, x: want.append(x))
    assert [step for step, _ in seen] == list(range(STEPS))
    for (_, got), wanted in zip(seen, want, strict=True):
        assert relative(got, wanted) < 1e-5
    assert torch.equal(seen[-1][1], out)
    assert len({x.data_ptr() for _, x in seen}) == STEPS


class Cancelled(Exception):
    pass


def test_cancelled_in_the_middle_the_next_run_is_as_if_nothing_had_been() -> None:
    fast = fresh()
    want = fast.sample(noise(), [1, 2])
    for at in range(0, STEPS, 3):

        def stop(step: int, latents: torch.Tensor, at: int = at) -> None:
            if step == at:
                raise Cancelled

        with pytest.raises(Cancelled):
            fast.sample(noise(1), [3, 4], callback=stop)
        fast.poison()
        assert torch.equal(fast.sample(noise(), [1, 2]), want)


def test_a_run_with_a_sessions_own_calls_under_way_ends_those() -> None:
    fast = fresh()
    want = fast.sample(noise(), [1, 2])
    with fast.session() as session:
        session(noise(), torch.full((2,), 990), torch.tensor([1, 2]))
        assert session.run.clock.mid_run
        assert torch.equal(session.sample(noise(), [1, 2]), want)
        assert not session.run.clock.mid_run


def test_other_numbers_of_images_have_programs_of_their_own() -> None:
    model = toy_dit()
    fast, reference = fresh(model), compile(model, fresh(model).schedule)
    for images in (1, 3, 2, 1, 5, 4, 1):
        labels = list(range(images))
        got, want = (f.sample(noise(images, images), labels) for f in (fast, reference))
        assert relative(got, want) < 1e-5


def test_an_evaluation_that_computes_nothing_is_one_kernel() -> None:
    model, kernels = toy_dit(), TapedKernels()
    compute = random_schedule(4, 6).compute.copy()
    compute[2] = False
    schedule = type(random_schedule(4, 6))(compute)
    fast, reference = compile_taped(model, schedule, kernels=kernels), compile(model, schedule)
    got, want = (f.sample(noise(), [1, 2]) for f in (fast, reference))
    assert relative(got, want) < 1e-5
    assert "reuse_evaluation" in {name for name, _, _ in kernels.log}
    assert fast.cost.cached[2].kernels == 1


def test_noise_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise is on meta, the model on cpu: pass noise.to\(cpu"):
        fresh().sample(noise().to("meta"), [1, 2])


def test_asleep_a_run_is_refused_and_awake_it_gives_the_same() -> None:
    fast = fresh()
    want = fast.sample(noise(), [1, 2])
    fast.sleep()
    with pytest.raises(RuntimeError, match="asleep"):
        fast.sample(noise(), [1, 2])
    fast.wake()
    assert torch.equal(fast.sample(noise(), [1, 2]), want)


def test_a_changed_weight_is_used_by_the_next_run() -> None:
    model = toy_dit()
    fast = fresh(model)
    fast.sample(noise(), [1, 2])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    want = compile(model, fast.schedule).sample(noise(), [1, 2])
    assert relative(fast.sample(noise(), [1, 2]), want) < 1e-5
    assert fast.summary().weight_changes == 1


class Watched:
    """Stands for StreamOrder and tells whether work is inside."""

    made: list[Watched]

    def __init__(self, device: torch.device, *, replays: bool = True) -> None:
        self.inside, self.uses, self.replays = 0, 0, replays
        Watched.made.append(self)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.inside += 1
        self.uses += 1
        yield
        self.inside -= 1


@pytest.mark.parametrize("graph", ["step", "off"])
def test_calls_runs_and_their_preparation_share_one_order_of_streams_as_they_share_slots(
    monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    monkeypatch.setattr(workspace, "StreamOrder", Watched)
    Watched.made = []

    class Inside(TapedKernels):
        def __getattr__(self, name: str) -> Any:
            assert sum(order.inside for order in Watched.made) == 1
            return super().__getattr__(name)

    recorder = {"recorder": Eager} if graph == "off" else {}
    fast = fresh(kernels=Inside(), graph=graph, **recorder)
    with fast.session() as session:
        session(noise(), torch.full((2,), 990), torch.tensor([1, 2]))
        session.sample(noise(), [1, 2], cfg_scale=1.0)
        session.sample(noise(images=1), [1], cfg_scale=4.0)
        (order,) = Watched.made
        assert order.uses == 3
        assert order.replays == (graph != "off")


def test_solver_numbers_stay_where_they_are_whatever_the_scale() -> None:
    fast = fresh()
    fast.sample(noise(), [1, 2])
    (session,) = fast._idle
    (lane,) = session.run.lanes.all()
    (run,) = lane.workspace._runs.values()
    address = run._table.data_ptr()
    fast.sample(noise(), [1, 2], cfg_scale=2.0)
    assert run._table.data_ptr() == address
    assert run._table.any()


def test_more_images_do_not_move_those_that_were_there() -> None:
    fast = fresh()
    outputs = [fast.sample(noise(0, 4)[:n], list(range(n))) for n in (1, 2, 4)]
    for fewer, more in pairwise(outputs):
        assert relative(more[: len(fewer)], fewer) < 1e-4


def test_a_model_that_was_cast_between_runs_has_slots_of_its_new_dtype() -> None:
    model = toy_dit()
    fast = fresh(model)
    fast.sample(noise(), [1, 2])
    fast.to(torch.bfloat16)
    want = compile(model, fast.schedule).sample(noise(), [1, 2])
    # bf16 throughout: both round, and not alike.
    assert relative(fast.sample(noise(), [1, 2]), want) < 0.1
    assert fast.summary().weight_changes == 1


def test_sleep_refused_inside_a_callback_leaves_the_model_awake() -> None:
    fast = fresh()

    def fall_asleep(step: int, latents: torch.Tensor) -> None:
        fast.sleep()

    with pytest.raises(RuntimeError, match="from inside a call"):
        fast.sample(noise(), [1, 2], callback=fall_asleep)
    assert not fast.sample(noise(), [1, 2]).isnan().any()
