"""What the graphs of batches hold, for published schedules, on a driver that records launches."""

from __future__ import annotations

import pytest
import torch
from launch_recorder import Choosing, Entry, LogRecorder
from recorded_runs import TWENTY_STEPS, model_of
from recording_driver import Launch, recorded_launches

import l2c_rt as rt
from l2c_rt.api import build
from l2c_rt.backends.cuda.cuda_parts import CudaParts, triton_kernels
from l2c_rt.backends.cuda.support import fused_cuda_backend
from l2c_rt.backends.options import Options

PLACED = ("_reuse_run_kernel", "_reuse_run_norm_kernel", "_gate_residual_kernel",
          "_residual_norm_kernel", "_split_sum_kernel")  # fmt: skip


def recorded_engine(name: str, products: str) -> tuple[rt.Compiled, list[LogRecorder]]:
    """An engine of batches of 1 and of 2 requests, made and shut down."""
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
        rt.Engine(compiled, max_batch=2).shutdown()
    return compiled, recorders


def launches(entries: list[Entry]) -> list[Launch]:
    return [entry for entry in entries if isinstance(entry, Launch)]


@pytest.mark.parametrize("products", ["library", "split"])
@pytest.mark.parametrize("name", TWENTY_STEPS)
def test_a_graph_for_each_distinct_step_and_size_is_captured_before_the_first_request(
    name: str, products: str
) -> None:
    compiled, recorders = recorded_engine(name, products)
    # 1, 2 and 4 samples.
    assert len(recorders) == 3
    for recorder in recorders:
        assert len(recorder.captured) == len(compiled.plan.steps)
        assert recorder.waits == []
        first = recorder.captured[0][0]
        captured = [e for begin, end in recorder.captured for e in recorder.log[begin:end]]
        before = {launch.cubin for launch in launches(recorder.log[:first])}
        assert {launch.cubin for launch in launches(captured)} <= before
        assert all(finds_its_samples(launch) for launch in launches(captured))


def finds_its_samples(launch: Launch) -> bool:
    """Whether a kernel that reads or writes slots has been told where they are."""
    arguments = launch.arguments
    reads_slots = launch.kernel in PLACED and (arguments.get("K", 1) or not arguments["WRITE_H"])
    if (y := arguments.get("y_ptr")) is not None and y.untyped_storage().nbytes() == y.nbytes:
        # An output that nobody reads later is in a buffer of its own.
        reads_slots = False
    return not reads_slots or arguments["places_ptr"] is not None
