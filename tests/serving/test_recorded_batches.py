"""What the graphs of batches hold, for published schedules, on a driver that records launches."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from launch_effects import Memory
from launch_recorder import Choosing, Entry, LogRecorder, span
from recorded_runs import TWENTY_STEPS, model_of
from recording_driver import Launch, recorded_launches

import l2c_rt as rt
from l2c_rt.api import build
from l2c_rt.backends.cuda.cuda_parts import CudaParts, triton_kernels
from l2c_rt.backends.cuda.support import fused_cuda_backend
from l2c_rt.backends.options import Options


def recorded_engine(name: str, products: str) -> tuple[rt.Compiled, list[LogRecorder], Memory]:
    """An engine of batches of 1 and of 2 requests, made and shut down; its slots."""
    recorders: list[LogRecorder] = []
    with recorded_launches() as log:

        def recorder(device: torch.device) -> LogRecorder:
            recorders.append(LogRecorder(log))
            return recorders[-1]

        cuda = CudaParts(triton_kernels(), recorder, Choosing(products))
        compiled = build(
            model_of(name), rt.presets.load(f"l2c/{name}"),
            lambda described: fused_cuda_backend(described, cuda, Options()), check="off",
        )  # fmt: skip
        with rt.Engine(compiled, max_batch=2) as engine:
            memory = engine._worker.evaluator._slots._memory
    assert memory is not None
    return compiled, recorders, Memory([memory.all_slots])


def launches(entries: list[Entry]) -> list[Launch]:
    return [entry for entry in entries if isinstance(entry, Launch)]


# Split products end in kernels of their own in each family, the library's in none.
@pytest.mark.parametrize(
    ("name", "products"), [*product(TWENTY_STEPS, ["split"]), (TWENTY_STEPS[0], "library")]
)
def test_a_graph_for_each_distinct_step_and_size_is_captured_before_the_first_request(
    name: str, products: str
) -> None:
    compiled, recorders, slots = recorded_engine(name, products)
    # 1, 2 and 4 samples.
    assert len(recorders) == 3
    for recorder in recorders:
        assert len(recorder.captured) == len(compiled.plan.steps)
        assert recorder.waits == []
        first = recorder.captured[0][0]
        captured = [e for begin, end in recorder.captured for e in recorder.log[begin:end]]
        before = {launch.cubin for launch in launches(recorder.log[:first])}
        assert {launch.cubin for launch in launches(captured)} <= before
        assert all(finds_its_samples(entry, slots) for entry in captured)


def finds_its_samples(entry: Entry, slots: Memory) -> bool:
    """Whether what reads or writes slots has been told where each sample has its own, as PyTorch's
    operators cannot be."""
    if not isinstance(entry, Launch):
        return not any(map(slots.has, (*entry.reads, *entry.writes)))
    touched = (entry.arguments.get(name) for name in ("arena_ptr", "y_ptr", "out_ptr"))
    if not any(slots.has(span(t)) for t in touched if t is not None and t.numel()):
        return True
    return entry.arguments["places_ptr"] is not None
