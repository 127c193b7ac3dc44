"""Sessions and samples on a GPU: streams, threads, callbacks, and never a wait."""

from __future__ import annotations

import copy
import threading
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from gpu_runs import PUBLISHED, STEPS, drive, fresh, noise, on_gpu, waits_refused
from published_outputs import relative
from three_backends import assert_same
from toys import random_schedule, timesteps, toy_dit

from l2c_rt.api import compile

pytestmark = pytest.mark.gpu


def test_auto_is_fused_and_tuned_where_there_is_a_gpu() -> None:
    model = toy_dit().cuda().to(torch.bfloat16)
    fast = compile(model, random_schedule(STEPS, 6, seed=3))
    for step in range(STEPS):
        x, t, y = on_gpu(step)
        fast(x.bfloat16(), t, y)
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
            assert_same(run, alone[seed])


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
        assert_same(got, want)


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


def test_no_call_waits_for_the_device_once_it_is_captured_but_a_runs_first() -> None:
    fast = fresh(timesteps=PUBLISHED)
    labels, start = torch.tensor([1, 2], device="cuda"), noise()
    inputs = [on_gpu(step, loop=PUBLISHED)[:2] for step in range(STEPS)]
    on_host = [t.cpu() for _, t in inputs]

    def calls(timesteps: list[torch.Tensor], y: torch.Tensor, later: Any = waits_refused) -> None:
        # A timestep on the GPU is read once in a run, to know that it is the start of one.
        fast(inputs[0][0], timesteps[0], y)
        with later():
            for (x, _), t in zip(inputs[1:], timesteps[1:], strict=True):
                fast(x, t, y)

    for _ in range(2):
        calls([t for _, t in inputs], labels, nullcontext)
        fast.sample(start, labels)
        torch.cuda.synchronize()
    # Other labels at every run: tabulated anew.
    calls([t for _, t in inputs], labels + 1)
    with waits_refused():
        calls(on_host, labels + 1)
        fast.sample(start, labels)


def test_a_timestep_on_the_gpu_that_does_not_fit_is_reported() -> None:
    fast = fresh(timesteps=timesteps(STEPS))

    def run_off_by_one() -> None:
        for step in range(2 * STEPS):
            x, t, y = on_gpu(step % STEPS)
            # The first timestep of a run is read on the host.
            fast(x, t + (step > 0), y)
            torch.cuda.synchronize()

    with pytest.raises(ValueError, match="found on the GPU"):
        run_off_by_one()


def test_calls_and_runs_of_one_session_on_different_streams_are_ordered() -> None:
    fast = fresh(timesteps=PUBLISHED)
    images, calls = noise(), [on_gpu(step, loop=PUBLISHED) for step in range(STEPS)]
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
            assert_same(got, want)
            assert torch.equal(again, whole)


@pytest.mark.parametrize("known", [False, True])
def test_a_model_on_a_gpu_that_is_not_the_current_one(known: bool) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("wanted two GPUs")
    model = toy_dit()
    here = fresh(model, timesteps=PUBLISHED if known else None)
    want, whole = drive(here, loop=PUBLISHED), here.sample(noise(), [1, 2])
    there = compile(copy.deepcopy(model).to("cuda:1"), here.schedule, backend="fused", tune=False,
                    timesteps=PUBLISHED if known else None)  # fmt: skip
    for _ in range(2):
        got = [
            there(*(value.to("cuda:1") for value in on_gpu(step, loop=PUBLISHED)))
            for step in range(STEPS)
        ]
        assert_same([out.cuda() for out in got], want)
    assert torch.equal(there.sample(noise().to("cuda:1"), [1, 2]).cuda(), whole)
    assert torch.cuda.current_device() == 0


def test_made_ready_in_inference_mode_it_serves_outside_and_the_other_way_round() -> None:
    inside, outside = fresh(timesteps=PUBLISHED), fresh(timesteps=PUBLISHED)
    with torch.inference_mode():
        first, run = drive(inside, loop=PUBLISHED), inside.sample(noise(), [1, 2])
    want = drive(outside, loop=PUBLISHED)
    assert_same(first, want)
    assert_same(drive(inside, loop=PUBLISHED), want)
    assert torch.equal(inside.sample(noise(), [1, 2]), run)
    with torch.inference_mode():
        assert_same(drive(outside, loop=PUBLISHED), want)


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
    assert_same(inner, [other] * len(inner))
