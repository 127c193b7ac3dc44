"""Captures on a GPU, and those of users around them."""

from __future__ import annotations

import threading

import pytest
import torch
from gpu_runs import STEPS, drive, fresh, noise, on_gpu
from three_backends import assert_same
from toys import timesteps, toy_dit

from l2c_rt.device.graphs import CudaRecorder

pytestmark = pytest.mark.gpu


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
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
    assert_same(got, want)
    assert len(scratch) == 64
    assert_same([fast(x, t, labels) for x, t, _ in inputs], want)


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
