"""The kernel that checks a timestep on the GPU, by the driver that records what is launched.

That it says what PyTorch says is shown in interpreted_timesteps.py.
"""

from __future__ import annotations

import torch
from recording_driver import recorded_launches

from l2c_rt.kernels.check_timestep import check_timestep


def test_it_is_one_launch_that_never_compiles_again() -> None:
    expected, verdict = torch.zeros(5, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    with recorded_launches() as launches:
        for step in range(5):
            check_timestep(torch.zeros(4, dtype=torch.int64), step, expected, verdict)
    assert [launch.kernel for launch in launches] == ["_check_timestep_kernel"] * 5
    assert len({launch.cubin for launch in launches}) == 1
