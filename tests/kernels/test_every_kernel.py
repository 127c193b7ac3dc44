"""The calls that every_kernel.py makes on a GPU, by the driver that records what is launched."""

from __future__ import annotations

from recording_driver import recorded_launches

from l2c_rt.doctor.kernel_calls import OPS, kernel
from l2c_rt.doctor.kernels import calls
from l2c_rt.doctor.placed_operands import PLACED_OPS


def test_no_call_of_the_sanitizers_run_is_refused() -> None:
    with recorded_launches() as launches:
        operations = [op for op, _, operands in calls() if kernel(op)(**operands) is not None]
    assert operations == 2 * [*OPS, *PLACED_OPS]
    assert len(launches) == len(operations)
