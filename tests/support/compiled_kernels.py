"""Kernel functions by name, compiled for an architecture by a launch that is recorded."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from aot import ReadBack, read_back
from recording_driver import SHARED_LIMIT, Launch, recorded_launches

from l2c_rt.doctor.kernel_calls import arguments, kernel
from l2c_rt.doctor.kernel_operands import Sizes
from l2c_rt.doctor.placed_operands import placed_arguments

ARCHS = pytest.mark.parametrize("arch", SHARED_LIMIT)
DIT_XL = Sizes(torch.bfloat16, grid=(16, 16), width=1152, heads=16, empty=True)
MEMORY = r"LDG|STG|LDGSTS|ATOM|RED|UBLKCP"
TENSOR_CORES = {80: r"HMMA\.", 90: r"HGMMA\.", 100: r"UTCHMMA"}


def compiled(
    op: str, sizes: Sizes = DIT_XL, arch: int = 90, *, placed: bool = False, **more: Any
) -> tuple[Launch, ReadBack]:
    given = placed_arguments(op, sizes) if placed else arguments(op, sizes)
    with recorded_launches(arch) as launches:
        kernel(op)(**given | more)
    (launch,) = launches
    return launch, read_back(launch.cubin)


def fits(launch: Launch, code: ReadBack, arch: int) -> None:
    """No spills, and shared memory that a block may have."""
    label = f"{launch.kernel} sm_{arch}: {code.registers} registers"
    assert code.spills == 0, label
    assert code.registers <= 255, label
    assert launch.shared <= SHARED_LIMIT[arch], label


def waits_before_it_touches_memory(code: ReadBack) -> bool:
    """As a kernel must that is launched before the one before it has ended; it signals once."""
    order = [o for o in code.sequence if re.match(rf"ACQBULK|PREEXIT|{MEMORY}", o)]
    signals = [i for i, o in enumerate(order) if o == "PREEXIT"]
    return order[0] == "ACQBULK" and order.count("ACQBULK") == 1 and len(signals) <= 1
