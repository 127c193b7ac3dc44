"""The whole runtime on a GPU: `pytest -m gpu`, minutes on one machine.

Rungs 3, 4 and 5 of the ladder, sessions on streams, sleep and wake, cancelling, changed weights,
and every kernel under compute-sanitizer.
"""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from ladder_cases import PRESETS, VARIANTS, branches, variant
from oracle import Oracle
from published_outputs import NAMES, Golden, relative
from toys import call_inputs, random_schedule, timesteps, toy_dit, toy_uvit

from l2c_rt import presets
from l2c_rt.api import compile
from l2c_rt.device.graphs import CudaRecorder
from l2c_rt.policies import Full

pytestmark = pytest.mark.gpu

STEPS = 10
SUPPORT = Path(__file__).parents[1] / "support"


def fresh(model: Any = None, **options: Any) -> Any:
    model = (toy_dit() if model is None else model).cuda()
    schedule = random_schedule(STEPS, branches(model), seed=3)
    return compile(model, schedule, backend="fused", **({"tune": False} | options))


def on_gpu(step: int, seed: int = 0, batch: int = 2) -> list[torch.Tensor]:
    return [value.cuda() for value in call_inputs(step, seed, batch)]


def drive(fast: Any, seed: int = 0, steps: int = STEPS, batch: int = 2) -> list[torch.Tensor]:
    with torch.no_grad():
        return [fast(*on_gpu(step, seed, batch)) for step in range(steps)]


def noise(seed: int = 0, images: int = 2) -> torch.Tensor:
    return torch.randn(images, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).cuda()


def same(got: list[torch.Tensor], want: list[torch.Tensor]) -> None:
    for step, (a, b) in enumerate(zip(got, want, strict=True)):
        assert torch.equal(a, b), step


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", VARIANTS)
def test_rung_3_the_fused_error_is_at_most_twice_the_references(
    name: str, dtype: torch.dtype
) -> None:
    model = variant(name).to(dtype).cuda()
    exact = copy.deepcopy(model).double()
    schedule = random_schedule(STEPS, branches(model), seed=5)
    backends = [compile(model, schedule, backend=b, tune=False) for b in ("fused", "reference")]
    oracle = Oracle(exact, schedule.compute)
    slack = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    for step in range(STEPS):
        x, t, y = on_gpu(step)
        x = x.to(dtype)
        with torch.no_grad():
            truth = oracle(x.double(), t, y)
        fused, reference = ((f(x, t, y) - truth).abs().max().item() for f in backends)
        assert fused <= 2 * reference + slack, step


@pytest.mark.parametrize("graph", ["step", "trajectory"])
@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_rung_4_a_hundred_replays_over_poison_are_bitwise_the_kernels_one_by_one(
    make: Any, graph: str
) -> None:
    model = make()
    eager, replayed = fresh(model, graph="off"), fresh(model, graph=graph)
    want, calls = eager.sample(noise(), [1, 2]), drive(eager)
    assert not want.isnan().any()
    for run in range(100):
        replayed.poison()
        assert torch.equal(replayed.sample(noise(), [1, 2]), want), run
    for _ in range(10):
        replayed.poison()
        same(drive(replayed), calls)


@pytest.mark.parametrize("name", NAMES)
def test_rung_5_the_published_outputs_in_float32(name: str) -> None:
    golden = Golden.load(name)
    preset = presets.load(PRESETS[next(n for n in NAMES if Golden.load(n).router == golden.router)])
    model = golden.model().cuda()
    fast = compile(model, preset, backend="fused", tune=False)
    start, labels = golden.noise.cuda(), golden.labels.cuda()
    got = fast.sample(start, labels, cfg_scale=golden.guidance).cpu()
    assert relative(got, golden.cached) < 1e-3
    full = compile(model, Full(), steps=golden.steps, backend="fused", tune=False)
    assert relative(full.sample(start, labels, golden.guidance).cpu(), golden.full) < 1e-3


def test_auto_is_fused_and_tuned_where_there_is_a_gpu() -> None:
    model = toy_dit().cuda().to(torch.bfloat16)
    fast = compile(model, random_schedule(STEPS, 6, seed=3))
    drive(fast)
    summary = fast.summary()
    assert summary.backend == "fused"
    assert summary.graphs.graphs == len(fast.plan.steps) + 3
    assert summary.graphs.seconds > 0
    assert not summary.reasons


def test_sessions_on_two_streams_and_threads_do_not_disturb_each_other() -> None:
    fast = fresh(timesteps=timesteps(STEPS))
    alone = [drive(fresh(timesteps=timesteps(STEPS)), seed) for seed in range(2)]
    results: dict[int, list[list[torch.Tensor]]] = {0: [], 1: []}

    def work(seed: int) -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream), fast.session() as session:
            for _ in range(10):
                results[seed].append(drive(session, seed))
        stream.synchronize()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(2):
        for run in results[seed]:
            same(run, alone[seed])


def test_one_session_called_from_streams_in_turn_is_ordered() -> None:
    fast = fresh(timesteps=timesteps(STEPS))
    want = drive(fast)
    streams = [torch.cuda.Stream() for _ in range(3)]
    for _ in range(5):
        got = []
        for step in range(STEPS):
            x, t, y = on_gpu(step)
            stream = streams[step % 3]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream), torch.no_grad():
                got.append(fast(x, t, y))
        torch.cuda.synchronize()
        same(got, want)


def test_asleep_the_memory_is_others_and_awake_the_same_graphs_give_the_same() -> None:
    fast = fresh()
    want = fast.sample(noise(), [1, 2])
    captured = fast.summary().graphs.graphs
    fast.sleep()
    with pytest.raises(RuntimeError, match="asleep"):
        fast.sample(noise(), [1, 2])
    others = torch.full((1 << 28,), float("nan"), device="cuda")
    fast.wake()
    assert torch.equal(fast.sample(noise(), [1, 2]), want)
    assert others.isnan().all()
    assert fast.summary().graphs.graphs == captured


def test_cancelled_in_the_middle_the_next_run_is_as_if_nothing_had_been() -> None:
    fast = fresh()
    want = fast.sample(noise(), [1, 2])

    class Cancelled(Exception):
        pass

    def stop(step: int, latents: torch.Tensor) -> None:
        assert latents.device.type == "cpu"
        if step == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        fast.sample(noise(1), [3, 4], callback=stop)
    assert torch.equal(fast.sample(noise(), [1, 2]), want)


def test_a_callback_sees_the_latents_of_every_evaluation() -> None:
    model = toy_dit()
    fast, reference = (
        fresh(model),
        compile(model.cuda(), fresh(model).schedule, backend="reference"),
    )
    seen: list[torch.Tensor] = []
    want: list[torch.Tensor] = []
    fast.sample(noise(), [1, 2], callback=lambda step, x: seen.append(x))
    reference.sample(noise(), [1, 2], callback=lambda step, x: want.append(x.cpu()))
    for step, (a, b) in enumerate(zip(seen, want, strict=True)):
        assert relative(a, b) < 1e-3, step


def test_a_changed_weight_is_noticed_and_captured_anew() -> None:
    model = toy_dit()
    fast = fresh(model)
    drive(fast)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    want = drive(compile(model, fast.schedule, backend="reference"))
    for got, wanted in zip(drive(fast), want, strict=True):
        assert relative(got, wanted) < 1e-3
    assert fast.summary().weight_changes == 1


def test_no_call_or_run_waits_for_the_device_once_it_is_captured() -> None:
    fast = fresh(timesteps=timesteps(STEPS))
    labels, start = torch.tensor([1, 2], device="cuda"), noise()
    inputs = [on_gpu(step)[:2] for step in range(STEPS)]

    on_host = [torch.full((2,), value) for value in timesteps(STEPS)]

    def runs() -> None:
        for x, t in inputs:
            fast(x, t, labels)
        for (x, _), t in zip(inputs, on_host, strict=True):
            fast(x, t, labels + 1)
        for x, t in inputs:
            # Other labels at every call: tabulated one by one.
            fast(x, t, labels + 1)
        fast.sample(start, labels)

    runs()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        runs()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_timestep_on_the_gpu_that_does_not_fit_is_reported() -> None:
    fast = fresh(timesteps=timesteps(STEPS))

    def run_off_by_one() -> None:
        for step in range(2 * STEPS):
            x, t, y = on_gpu(step % STEPS)
            fast(x, t + 1, y)
            torch.cuda.synchronize()

    with pytest.raises(ValueError, match="found on the GPU"):
        run_off_by_one()


def test_inside_another_capture_a_call_is_refused() -> None:
    fast = fresh(timesteps=timesteps(STEPS))
    drive(fast)
    inputs = on_gpu(0)
    with (
        pytest.raises(RuntimeError, match='graph="off"'),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        fast(*inputs)
    fast.reset()
    drive(fast)


def test_with_graph_off_a_run_may_be_captured_by_its_user() -> None:
    fast = fresh(graph="off", timesteps=timesteps(STEPS))
    inputs = [on_gpu(step) for step in range(STEPS)]
    labels = inputs[0][2]
    want = [fast(x, t, labels) for x, t, _ in inputs]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = [fast(x, t, labels) for x, t, _ in inputs]
    for out in got:
        out.zero_()
    # What the host has of numbers is others' memory by now.
    scratch = [torch.full((STEPS,), 7.0).pin_memory() for _ in range(64)]
    graph.replay()
    torch.cuda.synchronize()
    same(got, want)
    assert len(scratch) == 64
    same([fast(x, t, labels) for x, t, _ in inputs], want)


def test_frequencies_that_a_model_makes_on_the_host_do_not_end_a_capture() -> None:
    model = toy_dit()
    embedder = model.t_embedder
    plain = embedder.forward

    def published(t: torch.Tensor) -> torch.Tensor:
        # As facebookresearch/DiT: made on the host, then moved, which waits for the device.
        moved = torch.ones(1, dtype=torch.float32).to(device=t.device)
        return plain(t * moved)

    embedder.forward = published
    fast = fresh(model, graph="step")
    got = fast.sample(noise(), [1, 2])
    embedder.forward = plain
    assert torch.equal(got, fresh(model).sample(noise(), [1, 2]))
    assert not fast.summary().reasons


def test_calls_and_runs_of_one_session_on_different_streams_are_ordered() -> None:
    fast = fresh(timesteps=timesteps(STEPS))
    images, calls = noise(), [on_gpu(step) for step in range(STEPS)]
    one, other = torch.cuda.Stream(), torch.cuda.Stream()
    with fast.session() as session, torch.no_grad():
        labels = calls[0][2]
        want = [session(x, t, labels) for x, t, _ in calls]
        whole = session.sample(images, labels, cfg_scale=1.0)
        torch.cuda.synchronize()
        for _ in range(20):
            with torch.cuda.stream(one):
                # Long enough for the host to be far ahead.
                torch.cuda._sleep(20_000_000)
                got = [session(x, t, labels) for x, t, _ in calls]
            with torch.cuda.stream(other):
                again = session.sample(images, labels, cfg_scale=1.0)
            torch.cuda.synchronize()
            same(got, want)
            assert torch.equal(again, whole)


def test_streams_that_capture_are_none_that_users_are_handed() -> None:
    users = {torch.cuda.Stream().cuda_stream for _ in range(64)}
    ours = {CudaRecorder(torch.device("cuda", 0))._stream.cuda_stream for _ in range(64)}
    assert not users & ours


def test_after_a_failed_capture_graphs_and_the_allocator_work_as_before() -> None:
    recorder = CudaRecorder(torch.device("cuda", 0))
    x = torch.ones(8, device="cuda")
    recorder.warm([lambda: x.add_(1)])
    with pytest.raises(RuntimeError):
        recorder.capture(lambda: (x.add_(1), torch.cuda.synchronize()))  # type: ignore[arg-type]
    graph = recorder.capture(lambda: x.add_(1))  # type: ignore[arg-type,return-value]
    graph.replay()
    assert x.tolist() == [3.0] * 8
    before = torch.cuda.memory_allocated()
    held = torch.empty(1 << 24, device="cuda")
    held.record_stream(torch.cuda.Stream())
    del held
    torch.cuda.synchronize()
    # An allocator that believes in a capture would wait for its end before it gives this back.
    torch.empty(1, device="cuda")
    assert torch.cuda.memory_allocated() <= before + (1 << 10)


def test_sessions_come_and_go_on_threads_while_others_capture() -> None:
    fast = fresh(timesteps=timesteps(STEPS))
    want = {batch: drive(fast, batch=batch) for batch in range(1, 5)}
    wrong: list[str] = []

    def work(first: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for turn in range(8):
                batch = 1 + (first + turn) % 4
                with fast.session() as session:
                    got = drive(session, batch=batch)
                torch.cuda.current_stream().synchronize()
                if any(not torch.equal(a, b) for a, b in zip(got, want[batch], strict=True)):
                    wrong.append(f"batch {batch} on thread {first}")

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not fast.summary().reasons


@pytest.mark.parametrize("known", [False, True])
def test_a_model_on_a_gpu_that_is_not_the_current_one(known: bool) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("wanted two GPUs")
    model = toy_dit()
    here = fresh(model, timesteps=timesteps(STEPS) if known else None)
    want, whole = drive(here), here.sample(noise(), [1, 2])
    there = compile(copy.deepcopy(model).to("cuda:1"), here.schedule, backend="fused", tune=False,
                    timesteps=timesteps(STEPS) if known else None)  # fmt: skip
    for _ in range(2):
        got = [there(*(value.to("cuda:1") for value in on_gpu(step))) for step in range(STEPS)]
        same([out.cuda() for out in got], want)
    assert torch.equal(there.sample(noise().to("cuda:1"), [1, 2]).cuda(), whole)
    assert torch.cuda.current_device() == 0


def test_made_ready_in_inference_mode_it_serves_outside_and_the_other_way_round() -> None:
    inside, outside = fresh(timesteps=timesteps(STEPS)), fresh(timesteps=timesteps(STEPS))
    with torch.inference_mode():
        first, run = drive(inside), inside.sample(noise(), [1, 2])
    want = drive(outside)
    same(first, want)
    same(drive(inside), want)
    assert torch.equal(inside.sample(noise(), [1, 2]), run)
    with torch.inference_mode():
        same(drive(outside), want)


def test_a_callback_may_use_the_gpu_and_the_same_model() -> None:
    fast = fresh()
    want, other = fast.sample(noise(), [1, 2]), fast.sample(noise(1), [3, 4])
    inner: list[torch.Tensor] = []

    def callback(step: int, latents: torch.Tensor) -> None:
        torch.full((1 << 20,), float("nan"), device="cuda")
        if step % 4 == 0:
            inner.append(fast.sample(noise(1), [3, 4]))
        torch.cuda.synchronize()

    assert torch.equal(fast.sample(noise(), [1, 2], callback=callback), want)
    same(inner, [other] * len(inner))


def test_memory_does_not_grow_from_run_to_run() -> None:
    fast = fresh()

    def runs(count: int) -> int:
        for seed in range(count):
            fast.sample(noise(seed), [1, 2])
            drive(fast, seed)
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    before = runs(3)
    assert runs(20) <= before


def test_programs_that_are_dropped_give_their_memory_back() -> None:
    fast = fresh()
    drive(fast)
    torch.cuda.synchronize()
    before = torch.cuda.mem_get_info()[0]
    for batch in range(3, 12):
        drive(fast, batch=batch)
    torch.cuda.empty_cache()
    # Four shapes are kept, the largest of which is a few MiB.
    assert before - torch.cuda.mem_get_info()[0] < 512 << 20


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_every_kernel_is_clean_under_compute_sanitizer(tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(sanitizer).exists():
        pytest.skip("compute-sanitizer is not installed")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "86", sys.executable,
               str(SUPPORT / "every_kernel.py")]  # fmt: skip
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": str(SUPPORT)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    if "not supported" in run.stdout + run.stderr:
        pytest.skip("compute-sanitizer does not take this device")
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "kernels ran" in run.stdout
