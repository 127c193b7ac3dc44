"""The fused CUDA backend in a user's own loop, on a CPU: references for kernels, tapes for graphs.

A tape holds addresses and numbers as a graph does, so what is frozen by mistake shows here.
"""

from __future__ import annotations

import copy
import gc
import weakref
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ladder_cases import PRESETS, VARIANTS, branches, published_loop, variant
from oracle import Oracle
from published_outputs import NAMES, Golden, relative
from taped_graphs import TapedKernels, TapeRecorder, compile_taped
from toys import call_inputs, random_schedule, timesteps, toy_dit, toy_uvit

from l2c_rt import presets
from l2c_rt.adapters import bind
from l2c_rt.api import compile
from l2c_rt.backends.backend import fused_passes
from l2c_rt.backends.cuda.call_program import _timestep
from l2c_rt.backends.cuda.cuda_parts import CudaParts, FusedModel
from l2c_rt.backends.cuda.modulation_table import ModulationTable
from l2c_rt.backends.cuda.tuning.problems import LinearConfig
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.options import Options
from l2c_rt.device.graphs import Eager
from l2c_rt.kernels import reference
from l2c_rt.plan.prepare import prepare
from l2c_rt.policies import Full

STEPS = 8


def fresh(model: Any = None, **options: Any) -> Any:
    model = toy_dit() if model is None else model
    return compile_taped(model, random_schedule(STEPS, branches(model), seed=3), **options)


LABELS = {batch: torch.arange(batch) % 10 for batch in range(1, 7)}
"""One tensor for all runs, as a loop has one; written to by nobody."""


def drive(fast: Any, steps: int, seed: int = 0, batch: int = 2) -> list[torch.Tensor]:
    """As `toys.drive`, with the same label tensor at every call: what is tabulated is used."""
    results = []
    for step in range(steps):
        x, t, _ = call_inputs(step, seed, batch)
        with torch.no_grad():
            results.append(fast(x, t, LABELS[batch]))
    return results


def same(got: list[torch.Tensor], want: list[torch.Tensor]) -> None:
    for step, (a, b) in enumerate(zip(got, want, strict=True)):
        assert torch.equal(a, b), step


def near(got: list[torch.Tensor], want: list[torch.Tensor]) -> None:
    for step, (a, b) in enumerate(zip(got, want, strict=True)):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4), step


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", VARIANTS)
def test_rung_3_the_error_is_at_most_twice_the_references(name: str, dtype: torch.dtype) -> None:
    model = variant(name).to(dtype)
    exact = copy.deepcopy(model).double()
    schedule = random_schedule(10, branches(model), seed=5)
    backends = (compile_taped(model, schedule), compile(model, schedule))
    oracle = Oracle(exact, schedule.compute)
    slack = 1e-6 if dtype == torch.float32 else 2e-2
    for step in range(10):
        x, t, y = call_inputs(step)
        with torch.no_grad():
            truth = oracle(x.to(dtype).double(), t, y)
        fused, reference = ((f(x.to(dtype), t, y) - truth).abs().max().item() for f in backends)
        assert fused <= 2 * reference + slack, step


@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_rung_4_replay_is_bitwise_the_launches_one_by_one_over_poisoned_slots(make: Any) -> None:
    model = make()
    eager, replayed = fresh(model, recorder=Eager, graph="off"), fresh(model)
    for run in range(4):
        replayed.poison()
        want = drive(eager, STEPS, run)
        same(drive(replayed, STEPS, run), want)
        assert not any(out.isnan().any() for out in want)
    assert replayed.summary().graphs.replays == 4 * STEPS
    assert eager.summary().graphs.graphs == 0


@pytest.mark.parametrize("name", NAMES)
def test_rung_5_the_published_loop_gives_the_published_latents(name: str) -> None:
    golden = Golden.load(name)
    preset = presets.load(PRESETS[next(n for n in NAMES if Golden.load(n).router == golden.router)])
    fast = compile_taped(golden.model(), preset, calls_per_step=golden.lanes)
    predictions: list[torch.Tensor] = []
    assert relative(published_loop(golden, fast, predictions), golden.cached) < 1e-4
    for step, prediction in enumerate(predictions):
        assert relative(prediction, golden.cached_predictions[step]) < 1e-4, step


def test_graphs_are_as_many_as_distinct_rows_and_three_that_make_ready() -> None:
    fast = fresh()
    drive(fast, STEPS)
    drive(fast, STEPS, 1)
    captured = fast.summary().graphs
    assert captured.graphs == len(fast.plan.steps) + 3
    assert captured.replays == 2 * STEPS
    assert captured.buffer_bytes > 0
    assert "graphs of" in str(fast.summary())


def test_timesteps_known_ahead_or_met_one_by_one_give_the_same() -> None:
    model = toy_dit()
    ahead, unknown = fresh(model, timesteps=timesteps(STEPS)), fresh(model)
    # Products of more rows round otherwise.
    near(drive(ahead, STEPS), drive(unknown, STEPS))
    # Now known to both.
    same(drive(ahead, STEPS, 1), drive(unknown, STEPS, 1))


@pytest.mark.parametrize("steps_at_a_time", [1, 3])
@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_a_table_too_small_for_the_run_is_filled_again(make: Any, steps_at_a_time: int) -> None:
    model = make()
    whole = fresh(model, timesteps=timesteps(STEPS))
    want = drive(whole, STEPS)
    per_step = whole.summary().table_bytes // STEPS
    small = fresh(model, timesteps=timesteps(STEPS), table_bytes=steps_at_a_time * per_step)
    for run in range(2):
        got = drive(small, STEPS)
        assert run or small.summary().table_bytes == steps_at_a_time * per_step
        near(got, want)


def test_labels_that_change_inside_a_run_are_those_of_the_call() -> None:
    model = toy_dit()
    fast, reference = (
        fresh(model, timesteps=timesteps(STEPS)),
        compile(model, fresh(model).schedule),
    )
    written = torch.tensor([3, 4])
    for step in range(STEPS):
        x, t, y = call_inputs(step)
        written.copy_((written + step) % 10)
        labels = written if step % 2 else (y + step) % 10
        near([fast(x, t, labels)], [reference(x, t, labels)])


def test_a_label_tensor_written_to_inside_a_run_is_read_again() -> None:
    model = toy_dit()
    fast, reference = (
        fresh(model, timesteps=timesteps(STEPS)),
        compile(model, fresh(model).schedule),
    )
    labels = torch.tensor([3, 4])
    for step in range(STEPS):
        x, t, _ = call_inputs(step)
        if step == 3:
            labels.fill_(7)
        near([fast(x, t, labels)], [reference(x, t, labels)])


def test_a_label_tensor_of_inference_mode_which_counts_no_writes_is_read_at_every_call() -> None:
    model = toy_dit()
    fast, reference = (
        fresh(model, timesteps=timesteps(STEPS)),
        compile(model, fresh(model).schedule),
    )
    with torch.inference_mode():
        labels = torch.tensor([3, 4])
        for step in range(STEPS):
            x, t, _ = call_inputs(step)
            labels.fill_(step)
            near([fast(x, t, labels)], [reference(x, t, labels)])


class Splitting(Tuner):
    """Cuts every product that may be cut."""

    def linear(self, problem: Any, make: Any, check: Any = None) -> Any:
        if problem.splittable:
            return LinearConfig("split", (16, 16, 16, 4, 1, 8), splits=3)
        return super().linear(problem, make, check)


@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_products_cut_in_parts_are_summed_by_whoever_needs_the_sum(make: Any) -> None:
    model, kernels = make(), TapedKernels()
    tuner = Splitting("tape", None, None, device="cpu")
    fast, plain = fresh(model, kernels=kernels, tuner=tuner), fresh(model)
    fast.poison()
    near(drive(fast, STEPS), drive(plain, STEPS))
    ran = Counter(name for name, _, _ in kernels.log)
    assert ran["split_linear"] > 0
    assert (
        ran["split_gate_residual_norm_modulate" if make is toy_dit else "split_residual_norm"] > 0
    )
    # Where a reuse is added in the same kernel, or the end follows.
    assert ran["split_sum"] > 0
    noise = torch.randn(2, 4, 8, 8)
    assert relative(fast.sample(noise, [1, 2]), plain.sample(noise, [1, 2])) < 1e-5


def test_the_tensors_that_a_call_returns_are_the_callers() -> None:
    fast = fresh()
    outputs = drive(fast, STEPS)
    kept = [out.clone() for out in outputs]
    drive(fast, STEPS, 1)
    same(outputs, kept)


def test_inputs_of_any_layout_are_taken() -> None:
    model = toy_dit()
    fast, plain = fresh(model), fresh(model)
    x, t, y = call_inputs(0)
    odd = torch.empty(4, 8, 8, 2).permute(3, 0, 1, 2)
    odd.copy_(x)
    same([fast(odd, t.expand(2), y)], [plain(x, t, y)])


def test_lanes_have_slots_and_counters_of_their_own() -> None:
    model = toy_uvit()
    schedule = random_schedule(STEPS, 6, seed=4)
    fast, reference = (c(model, schedule, calls_per_step=2) for c in (compile_taped, compile))
    for step in range(STEPS):
        for labels in ([1, 2], [10, 10]):
            x, t, _ = call_inputs(step)
            y = torch.tensor(labels)
            near([fast(x, t, y)], [reference(x, t, y)])


def test_sessions_take_turns_without_a_word_to_each_other() -> None:
    fast = fresh()
    alone = [drive(fresh(), STEPS, seed) for seed in range(2)]
    with fast.session() as first, fast.session() as second:
        for step in range(STEPS):
            for seed, session in enumerate((first, second)):
                x, t, y = call_inputs(step, seed)
                same([session(x, t, y)], [alone[seed][step]])


def test_a_changed_weight_is_used_by_the_next_run_and_captured_anew() -> None:
    model = toy_dit()
    fast = fresh(model)
    drive(fast, STEPS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    near(drive(fast, STEPS), drive(compile(model, fast.schedule), STEPS))
    assert fast.summary().weight_changes == 1


def test_a_weight_written_through_data_is_used_by_the_next_run() -> None:
    model = toy_dit()
    fast = fresh(model, timesteps=timesteps(STEPS))
    drive(fast, STEPS)
    for module in (
        model.x_embedder.proj,
        model.blocks[1].adaLN_modulation[1],
        model.blocks[0].attn.qkv,
    ):
        module.weight.data.mul_(1.1)
    model.pos_embed.data.add_(0.1)
    near(drive(fast, STEPS), drive(compile(model, fast.schedule), STEPS))


def test_an_abandoned_run_leaves_nothing_behind() -> None:
    fast = fresh(timesteps=timesteps(STEPS))
    want = drive(fast, STEPS)
    drive(fast, STEPS - 3, 1)
    fast.poison()
    same(drive(fast, STEPS), want)


def test_another_shape_has_programs_of_its_own_and_the_oldest_is_dropped() -> None:
    fast = fresh(timesteps=timesteps(STEPS))
    want = drive(fast, STEPS)
    (lane,) = fast.run.lanes.all()
    gone = weakref.ref(lane.workspace)
    del lane
    for batch in (1, 3, 4, 5):
        drive(fast, STEPS, batch=batch)
    gc.collect()
    assert gone() is None
    same(drive(fast, STEPS), want)


def test_asleep_a_call_is_refused_and_awake_the_same_graphs_go_on() -> None:
    fast = fresh(timesteps=timesteps(STEPS))
    want = drive(fast, STEPS)
    captured = fast.summary().graphs.graphs
    fast.sleep()
    assert fast.summary().slot_bytes == 0
    with pytest.raises(RuntimeError, match="asleep: call wake"):
        fast(*call_inputs(0))
    fast.wake()
    same(drive(fast, STEPS), want)
    assert fast.summary().graphs.graphs == captured


class FailsToCapture(TapeRecorder):
    def capture(self, work: Any) -> Any:
        if self.taped == 3:
            raise torch.OutOfMemoryError("out of memory while capturing")
        return super().capture(work)


def test_what_cannot_be_captured_is_launched_kernel_by_kernel_and_said() -> None:
    model = toy_dit()
    fast = fresh(model, recorder=FailsToCapture, forgiving=True)
    same(drive(fast, STEPS), drive(fresh(model), STEPS))
    (reason,) = fast.summary().reasons
    assert "graphs not captured" in reason
    assert "out of memory while capturing" in reason


def test_what_cannot_be_captured_is_an_error_where_graphs_were_asked_for() -> None:
    fast = fresh(recorder=FailsToCapture)
    with pytest.raises(RuntimeError, match='free memory.*graph="off"'):
        fast(*call_inputs(0))
    assert not fast.run.clock.mid_run


def test_parts_that_a_row_which_failed_left_unsummed_are_forgotten() -> None:
    kernels, tuner = TapedKernels(), Splitting("tape", None, None, device="cpu")
    options: Any = {"recorder": Eager, "graph": "off", "timesteps": timesteps(STEPS)}
    fast = fresh(kernels=kernels, tuner=tuner, **options)
    want = drive(fast, STEPS)
    (lane,) = fast.run.lanes.all()
    branches = lane.workspace.programs[0].branches
    # As where a capture, or a call, ends between a product and the sum of its parts.
    branches._pending[0] = torch.full_like(next(iter(branches._splits.values())), float("nan"))
    before = len(kernels.log)
    same(drive(fast, STEPS), want)
    names = [name for name, _, _ in kernels.log[before:]]
    assert names.index("split_linear") < names.index("split_sum")


class Keepless(TapeRecorder):
    """Graphs that hold nothing of Python, as CUDA's."""

    def capture(self, work: Any) -> Any:
        work()
        return SimpleNamespace(replay=lambda: None)


@pytest.mark.parametrize("graph", ["step", "trajectory"])
@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_programs_that_are_dropped_are_gone_at_once_without_a_garbage_collection(
    make: Any, graph: str
) -> None:
    fast = fresh(make(), recorder=Keepless, kernels=reference, graph=graph)
    fast.sample(torch.randn(2, 4, 8, 8), [1, 2])
    drive(fast, 1)
    sessions = (fast, *fast._sessions.all())
    lanes = [lane for session in sessions for lane in session.run.lanes.all()]
    programs = [program for lane in lanes for program in lane.workspace.programs]
    gone = [weakref.ref(x) for p in programs for x in (p, p.buffers.h, p.tables.modulation.table)]
    assert len(gone) == 6
    del lanes, programs
    gc.disable()
    try:
        for session in sessions:
            session.run.lanes.clear()
        assert [ref() for ref in gone] == [None] * 6
    finally:
        gc.enable()


def test_a_number_of_the_host_is_no_copy_from_the_host() -> None:
    like = torch.empty(1, device="meta")
    for t in (5, 5.0, torch.tensor([5, 5]), torch.tensor(5.0)):
        assert _timestep(t, like).device.type == "meta"
    there = torch.empty(2, device="meta")
    assert _timestep(there, like) is there


def test_what_a_model_makes_without_a_device_to_tabulate_timesteps_is_made_on_its_own() -> None:
    model = toy_dit().to("meta")
    made: list[str] = []

    def published(t: torch.Tensor) -> torch.Tensor:
        frequencies = torch.exp(-torch.arange(0, 16, dtype=torch.float32))
        made.append(frequencies.device.type)
        angles = t[:, None].float() * frequencies.to(device=t.device)[None]
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)

    model.t_embedder.forward = published  # type: ignore[method-assign]
    described = bind(model)
    plan, _ = prepare(described.program, random_schedule(4, 6), fused_passes)
    cuda = CudaParts(TapedKernels(), TapeRecorder, Tuner("tape", None, None, device="cpu"))
    counter = torch.zeros(2, dtype=torch.int32, device="meta")
    ModulationTable(FusedModel(described, plan, cuda, Options()), counter, range(2)).fill(4)
    assert made == ["meta"]


def test_a_float32_stream_is_nearer_the_truth_than_a_bf16_one() -> None:
    model = toy_dit(depth=6).to(torch.bfloat16)
    exact = copy.deepcopy(model).double()
    schedule = Full().schedule(4, tuple(f"{k}-{i}" for i in range(6) for k in ("attn", "mlp")))
    errors = []
    for residual_dtype in (None, torch.float32):
        fast = compile_taped(model, schedule, residual_dtype=residual_dtype)
        total = 0.0
        for step in range(4):
            x, t, y = call_inputs(step)
            x = x.to(torch.bfloat16)
            with torch.no_grad():
                truth = exact(x.double(), t, y)
            total += (fast(x, t, y).double() - truth).square().mean().item()
        errors.append(total)
    assert errors[1] < 0.8 * errors[0]


def test_diffusers_transformer_keeps_its_signature_and_numbers() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=3,
        sample_size=8, patch_size=2, num_embeds_ada_norm=10, norm_num_groups=1,
    ).eval()  # fmt: skip
    schedule = random_schedule(STEPS, 6, seed=3)
    fast, reference = compile_taped(model, schedule), compile(model, schedule)
    for step in range(STEPS):
        x, t, y = call_inputs(step)
        got = fast(x, timestep=t, class_labels=y)
        want = reference(x, timestep=t, class_labels=y)
        near([got.sample], [want.sample])
    assert isinstance(
        fast(x, timestep=timesteps(1)[0] + 0 * t, class_labels=y, return_dict=False), tuple
    )


def test_an_input_of_another_size_is_refused_with_the_sizes() -> None:
    fast = fresh()
    _, t, y = call_inputs(0)
    with pytest.raises(ValueError, match=r"\[2, 4, 16, 8\] does not fit.*16 patches of 2 x 2"):
        fast(torch.zeros(2, 4, 16, 8), t, y)


def test_autocast_is_refused_with_the_remedy() -> None:
    fast = fresh()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="autocast: cast"):
        fast(*call_inputs(0))


def test_labels_that_are_missing_are_asked_for() -> None:
    fast = fresh(toy_uvit())
    x, t, _ = call_inputs(0)
    with pytest.raises(ValueError, match="y is missing"):
        fast(x, t)
