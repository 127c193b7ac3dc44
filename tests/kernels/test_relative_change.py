"""The kernel for the relative change, as compiled code and by what it refuses.

That it computes what float64 says is shown in interpreted_changes.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from aot import read_back
from recording_driver import SHARED_LIMIT, recorded_launches

from l2c_rt.kernels.relative_change import relative_change, relative_change_bytes

NAMES = ["_change_parts_kernel", "_change_quotient_kernel"]


def some(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Any:
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_it_reads_16_bytes_at_a_time_and_spills_nothing(arch: int) -> None:
    with recorded_launches(arch) as launches:
        relative_change(some(2, 4096, 3072), some(2, 4096, 3072))
    assert [launch.kernel for launch in launches] == NAMES
    assert launches[0].grid == (1024, 1, 1)
    assert launches[1].grid == (1, 1, 1)
    parts, quotient = (read_back(launch.cubin) for launch in launches)
    assert parts.spills == quotient.spills == 0
    # The last block, of which a part is outside, is read one by one.
    assert set(parts.widths(r"LDG")) == {2, 16}
    # Atomics would add in whatever order programs end.
    assert not parts.count("ATOM|RED\\.") + quotient.count("ATOM|RED\\.")


def test_other_sizes_do_not_compile_another_kernel() -> None:
    with recorded_launches() as launches:
        for size in (1, 16, 4097, 5 * 2**20):
            relative_change(some(size), some(size))
    assert len({launch.cubin for launch in launches}) == 2


def test_a_profiler_is_told_that_both_tensors_are_read_once() -> None:
    assert relative_change_bytes(1000, 2) == 2 * 1000 * 2


@pytest.mark.parametrize(
    ("now", "before", "out", "message"),
    [
        (some(4, 8), some(8, 4), None, r"before has shape \(8, 4\), wanted \(4, 8\)"),
        (some(4), some(4, dtype=torch.float32), None, "before"),
        (some(4, dtype=torch.float64), some(4, dtype=torch.float64), None, "now"),
        (some(8, 8).t(), some(8, 8), None, "now has strides"),
        (some(0), some(0), None, "is empty"),
        (some(4), some(4), some(1), "out is torch.bfloat16"),
    ],
)
def test_what_the_kernel_cannot_read_is_refused(
    now: Any, before: Any, out: Any, message: str
) -> None:
    with recorded_launches() as launches, pytest.raises(ValueError, match=message):
        relative_change(now, before, out)
    assert not launches
